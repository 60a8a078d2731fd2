// The sweep: asks the server for seven texts along one slider (see mixer/ui/panels/sweep.py) and draws them as cards, as
// the curve of asked against measured, and as a table. A press on a card moves the slider and puts the text on the stage.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props, watch) {
  const { make, say } = desk;
  const root = element.querySelector(".sweep");
  const at = (name) => root.querySelector(`.${name}`);
  const [which, low, high, tokens, run, cancel, said, asTable, csv, alert, hint, body, curve, cards, asRows] = [
    "which",
    "low",
    "high",
    "tokens",
    "run",
    "cancel",
    "said",
    "as-table",
    "csv",
    "alert",
    "hint",
    "sweep-body",
    "curve svg",
    "cards",
    "as-rows",
  ].map(at);
  let seq = 0; // of the newest sweep
  let frame = null; // its newest frame
  let drawn = []; // its cards: {node, text, value}
  let line = null; // in the curve, where the slider stands now

  const signed = (x) => (Math.abs(x) < 0.005 ? "0.00" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2));
  const measured = ({ score }) => (typeof score === "number" ? 2 * score - 1 : null);
  const chosen = () => props.sliders[which.value];
  const running = () => frame?.state === "running";

  const groups = { position: make("optgroup"), reward: make("optgroup") };
  groups.position.label = say("Sliders");
  groups.reward.label = say("Rewards");
  props.sliders.forEach(([part, name], index) => {
    const title = name.replaceAll("_", " ");
    const option = make("option", "", part === "reward" ? say("reward {name}", { name: title }) : title);
    option.value = index;
    groups[part].append(option);
  });
  which.append(...Object.values(groups).filter((group) => group.children.length));
  tokens.value = props.tokens;
  tokens.max = props.most;

  function range() {
    const limit = props.limits[chosen()?.[0]] ?? 1;
    for (const end of [low, high]) Object.assign(end, { min: -limit, max: limit });
    [low.value, high.value] = [-limit, limit];
  }

  function buttons() {
    run.disabled = running() || !props.sliders.length;
    cancel.disabled = !running();
    csv.disabled = !frame?.csv;
  }

  run.addEventListener("click", () => {
    const [part, name] = chosen();
    const [from, to, most] = [low, high, tokens].map((input) => input.valueAsNumber);
    seq += 1;
    frame = { seq, state: "running" };
    said.textContent = say("Writing");
    buttons();
    props.value = { seq, state: desk.now(), part, name, low: from, high: to, tokens: most };
    trigger("submit");
  });
  cancel.addEventListener("click", () => trigger("stop"));
  which.addEventListener("change", range);
  asTable.addEventListener("click", () => {
    const on = asTable.getAttribute("aria-pressed") !== "true";
    asTable.setAttribute("aria-pressed", String(on));
    asRows.hidden = !on;
    cards.hidden = on;
  });
  csv.addEventListener("click", () => save(`sweep-${frame.name}.csv`, frame.csv));

  // Puts the page into the card's state and shows its text. A running text goes on in that state instead.
  function pick(card) {
    if (!card.state) return;
    desk.take(card.state);
    if (document.documentElement.dataset.desk === "running") return;
    const { prompt, base, title, seed } = frame;
    const shown = {
      state: "done",
      prompt,
      base,
      mix: [[card.label, card.text]],
      scores: card.scores,
      levels: {},
      nats: null,
      note: "",
      seq: 0,
      status: { seed },
      formula: title,
      error: "",
      fault: null,
      recalled: true,
    };
    document.dispatchEvent(new CustomEvent("desk:recall", { detail: shown }));
  }

  function begin() {
    drawn = frame.cards.map((card, index) => {
      const node = make("button", "card");
      node.type = "button";
      const text = make("span", "text");
      text.dir = "auto";
      const value = make("span", "value");
      const head = make("span", "head");
      head.append(make("span", "asked", signed(card.position)), value);
      node.append(head, text);
      node.addEventListener("click", () => pick(frame.cards[index]));
      return { node, text, value };
    });
    cards.replaceChildren(
      ...drawn.map(({ node }) => {
        const item = make("li");
        item.append(node);
        return item;
      }),
    );
    cards.scrollLeft = 0;
  }

  function show(next) {
    if (!next || next.seq !== seq || !next.state) return;
    const first = !frame?.cards;
    frame = next.cards ? next : { ...frame, ...next };
    alert.textContent = frame.error || "";
    alert.hidden = !frame.error;
    said.textContent = { running: say("Writing"), done: say("Finished"), stopped: say("Stopped") }[frame.state] || "";
    buttons();
    if (!next.cards) return;
    hint.hidden = true;
    body.hidden = false;
    if (first) begin();
    frame.cards.forEach((card, index) => {
      const { node, text, value } = drawn[index];
      const got = measured(card);
      text.textContent = card.text.trimStart();
      value.textContent = got === null ? "" : signed(got);
      value.title = got === null ? "" : say("measured");
      node.disabled = frame.state !== "running" && !card.state;
      const asked = say("{name} at {position}", { name: frame.name, position: signed(card.position) });
      node.title = got === null ? asked : say("{asked}, measured {got}", { asked, got: signed(got) });
    });
    rows();
    draw();
  }

  function rows() {
    asRows.querySelector("caption").textContent = say("Asked and measured: {name}", { name: frame.name });
    asRows.querySelector("tbody").replaceChildren(
      ...frame.cards.map((card) => {
        const row = make("tr");
        const got = measured(card);
        const head = make("th", "", signed(card.position));
        head.scope = "row";
        const text = make("td", "", card.text);
        text.dir = "auto";
        row.append(head, make("td", "", got === null ? "" : signed(got)), text);
        return row;
      }),
    );
  }

  const svg = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Asked positions go from left to right, measured ones from -1 at the bottom to 1 at the top. A dashed line shows where
  // both are the same.
  function draw() {
    const ends = [frame.cards[0].position, frame.cards.at(-1).position];
    const x = (value) => 36 + (160 * (value - ends[0])) / (ends[1] - ends[0]);
    const y = (value) => 72 - 64 * value;
    const points = frame.cards.filter((card) => measured(card) !== null).map((card) => [card.position, measured(card)]);
    const parts = [];
    for (const value of [-1, 0, 1]) {
      parts.push(svg("line", { class: "grid", x1: 36, x2: 196, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { x: 31, y: y(value) + 4, "text-anchor": "end" }, value < 0 ? `−${-value}` : `${value}`));
    }
    const near = [Math.max(ends[0], -1), Math.min(ends[1], 1)];
    if (near[0] < near[1])
      parts.push(svg("line", { class: "same", x1: x(near[0]), y1: y(near[0]), x2: x(near[1]), y2: y(near[1]) }));
    for (const value of [ends[0], (ends[0] + ends[1]) / 2, ends[1]]) {
      parts.push(svg("text", { x: x(value), y: 154, "text-anchor": "middle" }, signed(value)));
    }
    parts.push(svg("text", { class: "axis", x: 116, y: 170, "text-anchor": "middle" }, say("asked")));
    parts.push(
      svg(
        "text",
        { class: "axis", x: 0, y: 0, transform: "translate(9 72) rotate(-90)", "text-anchor": "middle" },
        say("measured"),
      ),
    );
    line = svg("line", { class: "now", y1: 4, y2: 140 });
    parts.push(line, svg("polyline", { class: "got", points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
    for (const [a, b] of points) {
      const point = svg("circle", { cx: x(a), cy: y(b), r: 3.5 });
      point.append(svg("title", {}, say("asked {asked}, measured {got}", { asked: signed(a), got: signed(b) })));
      parts.push(point);
    }
    curve.replaceChildren(...parts);
    const told = points.map(([a, b]) => `${signed(a)}: ${signed(b)}`).join("; ");
    curve.setAttribute("aria-label", `${say("Asked and measured: {name}", { name: frame.name })}. ${told}`);
    const known = frame.state === "running" || points.length || frame.cards.every((card) => !card.state);
    if (!known) said.textContent = say("No judge measures {name} here.", { name: frame.name });
    mark(x);
  }

  // Marks the card that has the slider's present position, and that position in the curve.
  let place = null;
  function mark(x) {
    place = x || place;
    if (!frame?.cards || !desk.now) return;
    const { positions, rewards } = desk.now();
    const now = (frame.part === "reward" ? rewards : positions)?.[frame.name] || 0;
    frame.cards.forEach((card, index) => {
      if (Math.abs(card.position - now) < 0.005) drawn[index].node.setAttribute("aria-current", "true");
      else drawn[index].node.removeAttribute("aria-current");
    });
    const inside = now >= frame.cards[0].position && now <= frame.cards.at(-1).position;
    line.setAttribute("visibility", inside ? "visible" : "hidden");
    line.setAttribute("x1", place(now));
    line.setAttribute("x2", place(now));
  }
  for (const name of ["desk:values", "desk:put"]) document.addEventListener(name, () => setTimeout(mark));

  watch("value", () => show(props.value));
  range();
  buttons();
}
