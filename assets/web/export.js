// The export's form: sends the page's state and the kind of file, and shows the answer. The file itself is behind
// Gradio's download button beside the form.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props, watch) {
  const { say } = desk;
  const form = element.querySelector("form");
  const status = form.querySelector("[role=status]");
  const button = form.querySelector(".run");
  const kind = () => form.elements["export-kind"].value;

  function draw() {
    for (const option of form.querySelectorAll("[data-for]"))
      option.hidden = !option.dataset.for.split(" ").includes(kind());
  }

  form.addEventListener("change", draw);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const rank = form.elements.rank.valueAsNumber;
    props.value = {
      state: desk.now(),
      kind: kind(),
      rank: kind() === "adapter" && rank ? rank : null,
      dtype: form.elements.dtype.value,
    };
    trigger("submit");
  });
  watch("value", () => {
    const { state, error, about } = props.value || {};
    if (!state) return;
    button.disabled = state === "running";
    form.classList.toggle("wrong", state === "error");
    status.textContent = state === "running" ? say("Writing the file…") : error || about;
  });
  draw();
}
