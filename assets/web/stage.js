// The stage: draws the frames that the server streams (see mixer/ui/controls/stage.py) into two panes and the status line,
// and passes every frame on to the rest of the page ("desk:frame"). All text is set as text, never as markup.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, _trigger, props, watch) {
  const { say } = desk;
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
  const opening = { ...props.opening }; // deck and formula, until a text is written
  let state = "idle";
  const PATIENCE = 700; // ms without a frame after a press of Generate; then the page says that the text has to wait
  let pressed = -Infinity; // when Generate was pressed, until the first frame comes

  // Changes only what is different, so that a selection survives. What was taken back is removed from the end.
  function write(pane, { prompt, reply }, parts) {
    if (pane.prompt !== prompt || pane.reply !== reply || !pane.body.firstChild) {
      const lead = document.createElement("span");
      lead.className = reply ? "lead asked" : "lead";
      lead.textContent = prompt;
      pane.body.replaceChildren(lead);
      pane.parts = [];
      pane.prompt = prompt;
      pane.reply = reply;
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
      if (part.cut) part.cut.title = say("from here: {label}", { label });
      let same = Math.min(text.length, part.text.length);
      while (!text.startsWith(part.text.slice(0, same))) same -= 1;
      if (i === 0 && same === 0 && part.text) pane.follow = true; // the text began again
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

  // What the mixed text is written by: the sliders, or a formula together with the sliders that act on it.
  function titled(formula, label) {
    return formula ? [formula, label === "base" ? "" : label].filter(Boolean).join(" · ") : label;
  }

  function entitle(words) {
    panes.mix.what.textContent = words;
    panes.mix.what.title = words;
  }

  // Before a text is written: what it would be written by, in the words of `describe` in mixer/ui/state/controls.py.
  const signed = (name, x) => `${name} ${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
  function foretell(changes) {
    Object.assign(opening, changes);
    if (panes.mix.body.firstChild) return;
    const { tie, title, positions, rewards, levels, decouple } = opening;
    const moved = (values, word = "") =>
      Object.entries(values || {}).flatMap(([name, x]) => (x ? [signed(word + name, x)] : []));
    const aimed = Object.entries(levels || {}).map(([name, level]) => `${name} to ${level.toFixed(2)}`);
    const sliders = tie === "none" ? [] : moved(positions);
    if (decouple && sliders.length) sliders.push("decoupled");
    const parts = [...sliders, ...moved(rewards, "reward "), ...aimed];
    entitle(titled(title, parts.join(" · ") || "base"));
  }

  function time(us) {
    return us < 1000 ? `${Math.round(us)} µs` : `${(us / 1000).toFixed(1)} ms`;
  }

  const EXACT = say("Every token was written with the whole text read under the mix of the moment");
  const APPROXIMATE = say("The text before the last slider move is still remembered as read under the earlier mix");
  const HELD = say("Speculation: the share of guessed tokens that the formula itself would have drawn");

  function statusLine(frame) {
    const status = frame.status || {};
    const items = []; // [text, title]
    function known(value, text, values, title = "") {
      if (value !== undefined && value !== null) items.push([say(text, values), title]);
    }
    if (frame.state === "running" && !status.tokens) items.push([say("reading the prompt")]);
    if (status.tokens) {
      const speed = status.tokens_per_second;
      known(status.apply_us, "mix {time}", { time: time(status.apply_us) });
      known(status.first_token_ms, "first token {ms} ms", { ms: Math.round(status.first_token_ms) });
      known(speed, "{n} tok/s", { n: speed?.toFixed(speed < 10 ? 1 : 0) });
      known(status.tokens, "{n} tokens", { n: status.tokens });
      items.push(status.exact ? [say("exact"), EXACT] : [say("approximate"), APPROXIMATE]);
      known(status.acceptance, "{n} % of guesses held", { n: Math.round(100 * status.acceptance) }, HELD);
    }
    known(status.seed, "seed {seed}", { seed: status.seed });
    tell(items.length ? items : [[say("ready")]]);
  }

  function tell(items) {
    const parts = items.map(([text, title = ""]) => {
      const part = document.createElement("span");
      [part.textContent, part.title] = [text, title];
      return part;
    });
    document.querySelector(".status-line")?.replaceChildren(...parts);
  }

  function show(frame) {
    if (!frame?.state) return;
    pressed = -Infinity;
    const error = frame.fault ? "" : frame.error; // an error in the formula is shown in its box
    alert.hidden = !error;
    alert.textContent = error;
    const kept = frame.state === "error" && !frame.base && !frame.mix.length; // refused: the former texts stay
    if (!kept && frame.state !== "idle") {
      write(panes.base, frame, [["", frame.base]]);
      write(panes.mix, frame, frame.mix.length ? frame.mix : [["", ""]]);
      const label = frame.mix.length ? frame.mix[frame.mix.length - 1][0] : "";
      if (label || frame.formula) entitle(titled(frame.formula, label));
    }
    if (frame.state !== "idle" && (!kept || state === "running")) statusLine(frame);
    if (frame.state !== state) {
      state = frame.state;
      document.documentElement.dataset.desk = state;
      announcer.textContent = { running: say("Writing"), done: say("Finished"), stopped: say("Stopped") }[state] || "";
    }
    document.dispatchEvent(new CustomEvent("desk:frame", { detail: frame }));
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state === "running" && !document.querySelector(":popover-open"))
      document.querySelector("#stop")?.click();
  });
  // Generate in the middle of a text begins again: Gradio keeps the press until this text has ended. The second press of
  // a double click does not count.
  const again = (event) => {
    if (state === "running") document.querySelector("#stop")?.click();
    else if (event.timeStamp - pressed < 500) event.stopImmediatePropagation();
    pressed = event.timeStamp;
    setTimeout(() => pressed === event.timeStamp && tell([[say("waiting for its turn")]]), PATIENCE);
  };
  document.addEventListener("click", (event) => event.target.closest("#generate") && again(event), true);
  document.addEventListener(
    "keydown",
    (event) => event.key === "Enter" && event.shiftKey && event.target.closest("#prompt") && again(event),
    true,
  );
  document.addEventListener("desk:steer", ({ detail: { positions, rewards, levels, decouple } }) =>
    foretell({ positions, rewards, levels, decouple }),
  );
  document.addEventListener("desk:formula", ({ detail: { tie, title } }) => foretell({ tie, title }));
  watch("value", () => show(props.value));
  document.addEventListener("desk:recall", (event) => show(event.detail)); // a text of the history
  twin(root);
  foretell();
  show(props.value);
}
