// The paint: when a text has ended and this tab is open, what it was written under goes to the server (see
// mixer/ui/panels/paint.py). The answer colors every token by the effect of one slider. A line reads out one token, and a
// table has all numbers.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props, watch) {
  const { make, say } = desk;
  const root = element.querySelector(".paint");
  const at = (name) => root.querySelector(`.${name}`);
  const [legend, readout, button, asTable, alert, hint, body, by, painting, lead, tokens, rows] = [
    "legend",
    "readout",
    "go",
    "as-table",
    "alert",
    "hint",
    "paint-body",
    "by",
    "painting",
    "lead",
    "tokens",
    "effects",
  ].map(at);
  const page = document.documentElement;
  const intro = hint.textContent;
  const WAIT = 250; // ms after the end of a text, since the next one may begin at once
  let seq = 0; // of the newest question to the server
  let last = null; // the last frame of the newest text
  let asked = null; // the frame that the newest question is about
  let found = null; // the answer: its cells and paints
  let chosen = "all:"; // kind and name of the paint shown
  let cells = []; // elements of the painted text
  let now = -1; // index of the cell that is read out
  let timer = 0;
  let waiting = false; // for the server's answer
  let stopped = false; // before there was an answer

  const open = () => page.dataset.shelf === "paint";
  const id = ({ kind, name }) => `${kind}:${name}`;
  const titled = ({ kind, name }) =>
    kind === "all"
      ? say("everything")
      : kind === "reward"
        ? say("reward {name}", { name: say(name.replaceAll("_", " ")) })
        : say(name.replaceAll("_", " "));
  const signed = (x) =>
    x === null ? "∞" : Math.abs(x) < 0.005 ? "0.00" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
  const percent = (logprob) => {
    const share = 100 * Math.exp(logprob ?? -Infinity);
    return share >= 9.95 ? share.toFixed(0) : share >= 0.095 ? share.toFixed(1) : share > 0 ? "< 0.1" : "0";
  };
  const visible = ({ text }) => (text ? text.trim() || "␣↵"[+text.includes("\n")] : say("the end of the text"));
  const paint = () => found.paints.find((one) => id(one) === chosen) || found.paints[0];

  // Colors a cell: the strength, 0 to 1, is in --strength, the side is a class.
  function tint(node, x) {
    const size = x === null ? 1 : Math.min(1, Math.abs(x) / props.full);
    node.style.setProperty("--strength", size.toFixed(3));
    node.classList.toggle("more", x === null || x > 0);
    node.classList.toggle("less", x !== null && x < 0);
  }

  function reading(index) {
    const cell = found.cells[index];
    const x = paint().values[index];
    const times = x === null ? "" : Math.exp(Math.abs(x)).toFixed(2);
    const token = cell.text ? `“${visible(cell)}”` : visible(cell);
    const values = {
      token,
      times,
      nats: signed(x),
      by: paint().kind === "all" ? say("all of it") : titled(paint()),
      share: percent(cell.logprob),
    };
    if (x === null) return say("{token} could not have come without {by}; probability {share} %", values);
    if (Math.abs(x) < 0.005) return say("{token} 0.00 nats: {by} made no difference; probability {share} %", values);
    return x > 0
      ? say("{token} {nats} nats: {by} made it {times} times as likely; probability {share} %", values)
      : say("{token} {nats} nats: without {by} it would be {times} times as likely; probability {share} %", values);
  }

  function look(index) {
    cells[now]?.classList.remove("at");
    cells[now]?.setAttribute("aria-selected", "false");
    now = index;
    const cell = cells[index];
    if (cell) {
      cell.classList.add("at");
      cell.setAttribute("aria-selected", "true");
      tokens.setAttribute("aria-activedescendant", cell.id);
    } else tokens.removeAttribute("aria-activedescendant");
    readout.textContent = cell ? reading(index) : "";
  }

  tokens.addEventListener("pointerover", ({ target }) => cells.includes(target) && look(cells.indexOf(target)));
  tokens.addEventListener("click", ({ target }) => cells.includes(target) && look(cells.indexOf(target)));
  tokens.addEventListener("focus", () => now < 0 && cells.length && look(0));
  tokens.addEventListener("keydown", (event) => {
    const forward = getComputedStyle(tokens).direction === "rtl" ? -1 : 1;
    const step = {
      ArrowRight: forward,
      ArrowLeft: -forward,
      ArrowDown: 10,
      ArrowUp: -10,
      Home: -Infinity,
      End: Infinity,
    }[event.key];
    if (!step || !cells.length) return;
    event.preventDefault();
    look(Math.max(0, Math.min(cells.length - 1, now + step)));
    cells[now].scrollIntoView({ block: "nearest" });
  });

  function color() {
    const { values } = paint();
    for (const [index, cell] of cells.entries()) tint(cell, values[index]);
    const column = 2 + found.paints.indexOf(paint());
    for (const row of rows.querySelectorAll("tr")) {
      for (const [index, cell] of [...row.children].entries()) cell.classList.toggle("chosen", index === column);
    }
    look(now);
  }

  // One choice for each paint, with its total over the text.
  function choices() {
    by.replaceChildren(by.querySelector("legend"));
    for (const one of found.paints) {
      const input = make("input");
      Object.assign(input, { type: "radio", name: "painted-by", value: id(one), checked: one === paint() });
      input.addEventListener("change", () => {
        chosen = id(one);
        color();
      });
      const label = make("label");
      const total = make("span", "total", signed(one.total));
      total.title = say("over the whole text, in nats");
      label.append(input, make("span", "name", titled(one)), total);
      by.append(label);
    }
  }

  function table() {
    const line = (first, values) => {
      const row = make("tr");
      row.append(first, ...values);
      return row;
    };
    const head = (words, scope) => Object.assign(make("th", "", words), { scope });
    const { paints } = found;
    const columns = [say("Probability"), ...paints.map(titled)].map((words) => head(words, "col"));
    rows.querySelector("thead").replaceChildren(line(head(say("Token"), "col"), columns));
    const totals = [make("td", ""), ...paints.map(({ total }) => make("td", "", signed(total)))];
    rows.querySelector("tfoot").replaceChildren(line(head(say("Whole text"), "row"), totals));
    rows.querySelector("tbody").replaceChildren(
      ...found.cells.map((cell, index) => {
        const effects = paints.map(({ values }) => {
          const node = make("td", "", signed(values[index]));
          tint(node, values[index]);
          return node;
        });
        return line(head(visible(cell), "row"), [make("td", "", `${percent(cell.logprob)} %`), ...effects]);
      }),
    );
  }

  function draw() {
    lead.textContent = asked.prompt;
    cells = found.cells.map((cell, index) => {
      const node = make("span", "cell", cell.text.replaceAll("\n", "↵\n") || "∎");
      node.id = `painted-${index}`;
      node.setAttribute("role", "option");
      node.setAttribute("aria-selected", "false");
      return node;
    });
    tokens.replaceChildren(...cells);
    painting.scrollTop = 0;
    now = -1;
    choices();
    table();
    color();
  }

  // Shows a hint. `old`: the painted text is another one than the text on the stage.
  function tell(words, old) {
    hint.textContent = words;
    hint.hidden = !words;
    body.classList.toggle("old", old);
    button.hidden = !waiting && !stopped;
    button.textContent = waiting ? say("Cancel") : say("Paint");
  }

  function refuse(words) {
    alert.textContent = words;
    alert.hidden = !words;
  }

  function ask() {
    if (!open() || !last || last === asked || last.state === "running") return;
    asked = last;
    stopped = false;
    waiting = !!last.written;
    refuse("");
    readout.textContent = "";
    body.hidden = !found || !waiting;
    asTable.disabled = body.hidden;
    tell(
      waiting
        ? ""
        : say(
            "What this text was written under is not known. Press Generate to write it again, and it will be painted.",
          ),
      true,
    );
    if (!waiting) return;
    seq += 1;
    props.value = { seq, prompt: last.prompt, written: last.written };
    trigger("submit");
  }

  function show(frame) {
    if (!frame || frame.seq !== seq || !frame.state || !waiting) return;
    if (frame.state === "running") {
      readout.textContent = say("Painting {share} %", { share: Math.round(100 * frame.share) });
      return;
    }
    waiting = false;
    stopped = frame.state !== "done";
    readout.textContent = "";
    if (stopped) {
      refuse(frame.error || "");
      tell("", true);
      return;
    }
    found = frame;
    body.hidden = false;
    asTable.disabled = false;
    tell("", false);
    draw();
  }

  document.addEventListener("desk:frame", ({ detail: frame }) => {
    clearTimeout(timer);
    if (frame.state === "running") {
      if (last?.state !== "running" && waiting) trigger("stop");
      last = frame;
      stopped = false;
      tell(found ? "" : intro, true);
    } else if (frame.mix?.length) {
      last = frame;
      timer = setTimeout(ask, WAIT);
    }
  });
  document.addEventListener("desk:shelf", () => setTimeout(ask));
  button.addEventListener("click", () => {
    if (waiting) return trigger("stop");
    asked = null;
    ask();
  });
  asTable.addEventListener("click", () => {
    const on = asTable.getAttribute("aria-pressed") !== "true";
    asTable.setAttribute("aria-pressed", String(on));
    rows.classList.toggle("sr-only", !on);
    rows.tabIndex = on ? 0 : -1;
    painting.hidden = on;
  });

  for (const x of [-props.full, -props.full / 2, 0, props.full / 2, props.full]) {
    const step = make("span", "cell", x ? signed(x).replace(/\.?0+$/, "") : "0");
    tint(step, x);
    legend.append(step);
  }
  legend.append(make("span", "unit", say("nats")));
  watch("value", () => show(props.value));
}
