// The stage: draws the frames that the server streams (see mixer/ui/stage.py) into two panes and the status line, and
// passes every frame on to the rest of the page as "desk:frame". All text goes in as text, never as markup.
function mount(element, trigger, props, watch) {
  const root = element.querySelector(".stage");
  const alert = root.querySelector(".alert");
  const announcer = root.querySelector("[role=status]");
  const panes = {};
  for (const key of ["base", "mix"]) {
    const node = root.querySelector(`[data-pane=${key}]`);
    const body = node.querySelector(".body");
    panes[key] = { node, body, what: node.querySelector(".what"), prompt: "", parts: [], follow: true };
    body.addEventListener("scroll", () => {
      panes[key].follow = body.scrollHeight - body.scrollTop - body.clientHeight < 24;
    });
  }
  let state = "idle";

  // Appends what is new and leaves the rest alone, so that a selection survives; redraws when the text was rewritten.
  function write(pane, prompt, parts) {
    const grown =
      pane.prompt === prompt &&
      pane.parts.length > 0 &&
      pane.parts.length <= parts.length &&
      pane.parts.every((part, i) => (i < pane.parts.length - 1 ? part.text === parts[i][1] : parts[i][1].startsWith(part.text)));
    if (!grown) {
      const lead = document.createElement("span");
      lead.className = "lead";
      lead.textContent = prompt;
      pane.body.replaceChildren(lead);
      pane.parts = [];
      pane.prompt = prompt;
      pane.follow = true;
    }
    parts.forEach(([label, text], i) => {
      let part = pane.parts[i];
      if (!part) {
        if (i > 0) {
          const cut = document.createElement("i");
          cut.className = "cut";
          cut.title = `from here: ${label}`;
          pane.body.append(cut);
        }
        part = { text: "", node: document.createTextNode("") };
        pane.body.append(part.node);
        pane.parts.push(part);
      }
      if (text.length > part.text.length) part.node.appendData(text.slice(part.text.length));
      part.text = text;
    });
    if (pane.follow) pane.body.scrollTop = pane.body.scrollHeight;
  }

  function time(us) {
    return us < 1000 ? `${Math.round(us)} µs` : `${(us / 1000).toFixed(1)} ms`;
  }

  function statusLine(frame) {
    const line = document.querySelector(".status-line");
    if (!line) return;
    const s = frame.status || {};
    const items = [];
    if (frame.state === "running" && !s.tokens) items.push("reading the prompt");
    if (s.tokens) {
      if (typeof s.apply_us === "number") items.push(`mix ${time(s.apply_us)}`);
      if (typeof s.first_token_ms === "number") items.push(`first token ${Math.round(s.first_token_ms)} ms`);
      if (typeof s.tokens_per_second === "number") items.push(`${s.tokens_per_second.toFixed(s.tokens_per_second < 10 ? 1 : 0)} tok/s`);
      items.push(`${s.tokens} tokens`);
      items.push(s.exact ? "exact" : "approximate");
    }
    if (s.seed !== undefined && s.seed !== null) items.push(`seed ${s.seed}`);
    if (!items.length) items.push("ready");
    line.replaceChildren(
      ...items.map((text) => {
        const item = document.createElement("span");
        item.textContent = text;
        if (text === "exact") item.title = "Every token was written with the whole text read under the mix of the moment";
        if (text === "approximate") item.title = "The text before the last slider move is still remembered as read under the earlier mix";
        return item;
      })
    );
  }

  function show(frame) {
    if (!frame || !frame.state) return;
    alert.hidden = !frame.error;
    alert.textContent = frame.error || "";
    const kept = frame.state === "error" && !frame.base && !frame.mix.length; // refused before it began: keep the former texts
    if (!kept && frame.state !== "idle") {
      write(panes.base, frame.prompt, [["", frame.base]]);
      write(panes.mix, frame.prompt, frame.mix.length ? frame.mix : [["", ""]]);
      if (frame.mix.length) panes.mix.what.textContent = frame.mix[frame.mix.length - 1][0];
      statusLine(frame);
    }
    if (frame.state !== state) {
      state = frame.state;
      document.documentElement.dataset.desk = state;
      announcer.textContent = { running: "Writing", done: "Finished", stopped: "Stopped" }[state] || "";
    }
    document.dispatchEvent(new CustomEvent("desk:frame", { detail: frame }));
  }

  for (const button of root.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      root.dataset.show = button.dataset.show;
      for (const other of root.querySelectorAll("[data-show]")) {
        if (other.tagName === "BUTTON") other.setAttribute("aria-pressed", String(other === button));
      }
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state === "running") document.querySelector("#stop")?.click();
  });
  watch("value", () => show(props.value));
  show(props.value);
}
