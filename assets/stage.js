// The stage: draws the frames that the server streams (see mixer/ui/stage.py) into two panes and the status line, and
// passes every frame on to the rest of the page as "desk:frame". All text goes in as text, never as markup.
function mount(element, trigger, props, watch) {
  const root = element.querySelector(".stage");
  const alert = root.querySelector(".alert");
  const announcer = root.querySelector(".sr-only[role=status]");
  const panes = {};
  for (const key of ["base", "mix"]) {
    const node = root.querySelector(`[data-pane=${key}]`);
    const body = node.querySelector(".body");
    panes[key] = { node, body, what: node.querySelector(".what"), prompt: "", parts: [], follow: true };
    body.addEventListener("scroll", () => {
      panes[key].follow = body.scrollHeight - body.scrollTop - body.clientHeight < 24;
    });
  }
  const opening = { ...props.opening }; // of the deck and the formula, as long as nothing is written
  let state = "idle";
  let pressed = -Infinity; // when Generate was, until its first frame comes

  // Leaves alone what stays as it is, so that a selection survives; what was taken back goes from the end.
  function write(pane, prompt, parts) {
    if (pane.prompt !== prompt || !pane.body.firstChild) {
      const lead = document.createElement("span");
      lead.className = "lead";
      lead.textContent = prompt;
      pane.body.replaceChildren(lead);
      pane.parts = [];
      pane.prompt = prompt;
      pane.follow = true;
    }
    while (pane.parts.length > parts.length) drop(pane.parts.pop());
    parts.forEach(([label, text], i) => {
      let part = pane.parts[i];
      if (!part) {
        part = { text: "", node: document.createTextNode(""), cut: null };
        if (i > 0) {
          part.cut = document.createElement("i");
          part.cut.className = "cut";
          pane.body.append(part.cut);
        }
        pane.body.append(part.node);
        pane.parts.push(part);
      }
      if (part.cut) part.cut.title = `from here: ${label}`;
      let same = Math.min(text.length, part.text.length);
      while (!text.startsWith(part.text.slice(0, same))) same -= 1;
      if (i === 0 && same === 0 && part.text) pane.follow = true; // begun again
      if (same < part.text.length) part.node.deleteData(same, part.text.length - same);
      if (same < text.length) part.node.appendData(text.slice(same));
      part.text = text;
    });
    if (pane.follow) pane.body.scrollTop = pane.body.scrollHeight;
  }

  function drop(part) {
    part.node.remove();
    part.cut?.remove();
  }

  // What the mixed text is written by: the sliders' mix, or a formula, and the sliders where they act on it.
  function titled(formula, label) {
    return formula ? [formula, label === "base" ? "" : label].filter(Boolean).join(" · ") : label;
  }

  const entitle = (words) => (panes.mix.what.textContent = panes.mix.what.title = words);

  // Until something is written: what the deck and the formula would write by, as `describe` in mixer/ui/value.py has it.
  const signed = (name, x) => `${name} ${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
  function foretell(news) {
    Object.assign(opening, news);
    if (panes.mix.body.firstChild) return;
    const { tie, title, positions, rewards, levels } = opening;
    const moved = (values, word = "") => Object.entries(values || {}).flatMap(([name, x]) => (x ? [signed(word + name, x)] : []));
    const aimed = Object.entries(levels || {}).map(([name, level]) => `${name} to ${level.toFixed(2)}`);
    const parts = [...(tie === "none" ? [] : moved(positions)), ...moved(rewards, "reward "), ...aimed];
    entitle(titled(title, parts.join(" · ") || "base"));
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
      if (typeof s.acceptance === "number") items.push(`${Math.round(100 * s.acceptance)} % of guesses held`);
    }
    if (s.seed !== undefined && s.seed !== null) items.push(`seed ${s.seed}`);
    if (!items.length) items.push("ready");
    line.replaceChildren(
      ...items.map((text) => {
        const item = document.createElement("span");
        item.textContent = text;
        if (text === "exact") item.title = "Every token was written with the whole text read under the mix of the moment";
        if (text.endsWith("held")) item.title = "Speculation: the share of guessed tokens that the formula itself would have drawn";
        if (text === "approximate") item.title = "The text before the last slider move is still remembered as read under the earlier mix";
        return item;
      })
    );
  }

  function show(frame) {
    if (!frame || !frame.state) return;
    pressed = -Infinity;
    const error = frame.fault ? "" : frame.error; // an error in the formula is shown in its box
    alert.hidden = !error;
    alert.textContent = error;
    const kept = frame.state === "error" && !frame.base && !frame.mix.length; // refused before it began: keep the former texts
    if (!kept && frame.state !== "idle") {
      write(panes.base, frame.prompt, [["", frame.base]]);
      write(panes.mix, frame.prompt, frame.mix.length ? frame.mix : [["", ""]]);
      const label = frame.mix.length ? frame.mix[frame.mix.length - 1][0] : "";
      if (label || frame.formula) entitle(titled(frame.formula, label));
    }
    if (frame.state !== "idle" && (!kept || state === "running")) statusLine(frame);
    if (frame.state !== state) {
      state = frame.state;
      document.documentElement.dataset.desk = state;
      announcer.textContent = { running: "Writing", done: "Finished", stopped: "Stopped" }[state] || "";
    }
    document.dispatchEvent(new CustomEvent("desk:frame", { detail: frame }));
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state === "running" && !document.querySelector(":popover-open")) document.querySelector("#stop")?.click();
  });
  // Generate in mid-text begins again: Gradio keeps the press until this text has ended. The second press of a double
  // click is not one.
  const again = (event) => {
    if (state === "running") document.querySelector("#stop")?.click();
    else if (event.timeStamp - pressed < 500) event.stopImmediatePropagation();
    pressed = event.timeStamp;
  };
  document.addEventListener("click", (event) => event.target.closest("#generate") && again(event), true);
  document.addEventListener("keydown", (event) => event.key === "Enter" && event.shiftKey && event.target.closest("#prompt") && again(event), true);
  document.addEventListener("desk:steer", ({ detail: { positions, rewards, levels } }) => foretell({ positions, rewards, levels }));
  document.addEventListener("desk:formula", ({ detail: { tie, title } }) => foretell({ tie, title }));
  watch("value", () => show(props.value));
  document.addEventListener("desk:recall", (event) => show(event.detail)); // a text of the history
  twin(root);
  foretell();
  show(props.value);
}
