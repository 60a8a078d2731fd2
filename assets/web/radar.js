// A radar of all attributes: what the deck asks for, and what the judges measured of the text so far. The middle is the
// negative end of every attribute; the rings are -1, 0 and 1. A table beside it has the same numbers. Part of the pad's
// panel (see pad.js). `signed` formats a number. Returns a function that draws new positions and scores.
// biome-ignore lint/correctness/noUnusedVariables: part of pad.js
function radar(root, { controls, limit }, signed) {
  const REACH = 84; // of the longest axis, in the drawing's units
  const { say, make } = desk;
  const drawing = root.querySelector("svg");
  const body = root.querySelector("tbody");

  const angle = (i) => (2 * Math.PI * i) / controls.length - Math.PI / 2;
  const at = (i, value) => {
    const radius = REACH * (0.08 + (0.92 * (value + limit)) / (2 * limit));
    return [radius * Math.cos(angle(i)), radius * Math.sin(angle(i))];
  };
  const points = (values) =>
    values
      .map((value, i) =>
        at(i, value)
          .map((x) => x.toFixed(1))
          .join(),
      )
      .join(" ");

  function draw(tag, className, attributes) {
    const node = document.createElementNS(drawing.namespaceURI, tag);
    node.setAttribute("class", className);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    drawing.append(node);
    return node;
  }

  for (const level of [-1, 0, 1])
    draw("polygon", level ? "ring" : "ring middle", { points: points(controls.map(() => level)) });
  controls.forEach(({ positive }, i) => {
    const [x, y] = at(i, limit);
    draw("line", "axis", { x1: 0, y1: 0, x2: x, y2: y });
    const anchor = Math.abs(x) < 1 ? "middle" : x > 0 ? "start" : "end";
    const label = draw("text", "", { x: 1.08 * x, y: 1.08 * y, "text-anchor": anchor, "dominant-baseline": "middle" });
    label.textContent = say(positive);
  });
  const shapes = { measured: draw("polygon", "measured", {}), asked: draw("polygon", "asked", {}) };
  const rows = controls.map(({ name }) => {
    const row = make("tr");
    const head = make("th", "", say(name.replaceAll("_", " ")));
    head.scope = "row";
    row.append(head, make("td"), make("td"));
    body.append(row);
    return row.querySelectorAll("td");
  });

  // `positions` are what the deck asks for; `scores` are the judges', undefined before there is a text to measure.
  return function show(positions, scores = {}) {
    const asked = controls.map(({ name }) => positions[name] || 0);
    const measured = controls.map(({ name }) => (typeof scores[name] === "number" ? 2 * scores[name] - 1 : null));
    shapes.asked.setAttribute("points", points(asked));
    shapes.measured.setAttribute("points", measured.includes(null) ? "" : points(measured));
    rows.forEach(([askedCell, got], i) => {
      askedCell.textContent = signed(asked[i]);
      got.textContent = measured[i] === null ? "" : signed(measured[i]);
    });
  };
}
