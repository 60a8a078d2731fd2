// The batch: reads a CSV file in the browser, sends it to the server, which writes a text for every row (see
// mixer/ui/panels/batch.py), and saves the answer as a file. The server keeps nothing of it.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props, watch) {
  const { make, say } = desk;
  const root = element.querySelector(".batch");
  const [input, file, run, cancel, download, example, alert, hint, course, progress, label, faults, notes, last] = [
    "choose input",
    "file",
    "run",
    "cancel",
    "download",
    "sample",
    "alert",
    "hint",
    "course",
    "course progress",
    "course label",
    "course .faults",
    "notes",
    "last",
  ].map((name) => root.querySelector(`.${name}`));
  const announcer = root.querySelector("[role=status]");
  let seq = 0; // of the newest batch
  let chosen = null; // the file: {name, text}
  let frame = null; // the newest frame of the batch

  const running = () => frame?.state === "running";

  function buttons() {
    run.disabled = !chosen || running();
    cancel.disabled = !running();
    download.disabled = !frame?.csv;
  }

  function showFault(sentence) {
    alert.textContent = sentence;
    alert.hidden = !sentence;
  }

  async function read(opened) {
    if (!opened || running()) return;
    chosen = null;
    frame = null;
    file.textContent = opened.name;
    file.title = opened.name;
    file.classList.add("known");
    showFault("");
    try {
      if (opened.size > props.most) throw new RangeError();
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await opened.arrayBuffer());
      chosen = { name: opened.name, text };
    } catch (error) {
      if (error instanceof RangeError)
        showFault(say("The file is larger than {size} MB. Split it.", { size: props.most / 1e6 }));
      else if (error instanceof TypeError) showFault(say("The file is not in UTF-8. Save it as “CSV UTF-8”."));
      else showFault(say("The file cannot be read."));
    }
    for (const part of [course, notes, last]) part.hidden = true;
    hint.hidden = false;
    buttons();
  }

  input.addEventListener("change", () => {
    read(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  for (const name of ["dragenter", "dragover"]) {
    root.addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      root.classList.add("over");
    });
  }
  root.addEventListener("dragleave", (event) => root.contains(event.relatedTarget) || root.classList.remove("over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("over");
    read(event.dataTransfer.files[0]);
  });

  run.addEventListener("click", () => {
    seq += 1;
    frame = { seq, state: "running" };
    showFault("");
    announcer.textContent = say("Writing");
    buttons();
    props.value = { seq, state: desk.now(), text: chosen.text };
    trigger("submit");
  });
  cancel.addEventListener("click", () => trigger("stop"));
  download.addEventListener("click", () => save(`${chosen.name.replace(/\.\w+$/, "")}-written.csv`, frame.csv));
  example.addEventListener("click", () => save("sample.csv", props.sample));

  function show(next) {
    if (!next || next.seq !== seq || !next.state) return;
    frame = { ...frame, ...next };
    showFault(frame.error || "");
    announcer.textContent =
      { running: say("Writing"), done: say("Finished"), stopped: say("Stopped") }[frame.state] || "";
    buttons();
    if (frame.total === undefined) return;
    hint.hidden = true;
    course.hidden = notes.hidden = false;
    progress.value = frame.share;
    label.textContent = say("{done} of {total}", { done: frame.done, total: frame.total });
    faults.textContent = frame.wrong ? say("{wrong} wrong", { wrong: frame.wrong }) : "";
    notes.replaceChildren(...frame.notes.map((note) => make("li", "", note)));
    last.hidden = !frame.rows.length;
    last.querySelector("tbody").replaceChildren(
      ...frame.rows.map(({ row, prompt, text, error }) => {
        const tableRow = make("tr");
        const head = make("th", "", String(row));
        head.scope = "row";
        const cells = [make("td", "", prompt), make("td", error ? "wrong" : "", error || text.trim())];
        for (const cell of cells) [cell.dir, cell.title] = ["auto", cell.textContent];
        tableRow.append(head, ...cells);
        return tableRow;
      }),
    );
  }

  watch("value", () => show(props.value));
  buttons();
}
