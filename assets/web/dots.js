// The texts of the history on the pad (see pad.js): a dot where each text was asked for, and a line from there to where
// it was measured. A press on a dot brings its text back. All dots are one stop for the keyboard; arrow keys go from one
// to the next. Returns a function that draws all of them again.
// biome-ignore lint/correctness/noUnusedVariables: part of pad.js
function dots(square, { place, asked, measured, told }) {
  const FAN = 5; // pixels between dots of the same position
  const LETTERS = 60; // of a text in its title
  const { say, make } = desk;
  const drawing = square.querySelector("svg");
  const board = square.querySelector(".dots");

  function line([x1, y1], [x2, y2]) {
    const node = document.createElementNS(drawing.namespaceURI, "line");
    for (const [name, value] of Object.entries({ x1, y1: -y1, x2, y2: -y2 })) node.setAttribute(name, value);
    return node;
  }

  function dot(entry, from, to) {
    const button = make("button");
    const text = entry.frame.mix
      .map(([, part]) => part)
      .join("")
      .trim();
    const facts = [
      `${say("asked")}: ${told(from)}`,
      ...(to ? [`${say("measured")}: ${told(to)}`] : []),
      say("seed {seed}", { seed: entry.state.seed }),
    ];
    button.type = "button";
    button.tabIndex = -1;
    button.title = `${text.slice(0, LETTERS)}${text.length > LETTERS ? "…" : ""} (${facts.join("; ")})`;
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => desk.texts.show(entry));
    place(button, from);
    return button;
  }

  board.addEventListener("keydown", (event) => {
    const buttons = [...board.children];
    const here = buttons.indexOf(document.activeElement);
    const next = {
      ArrowRight: here + 1,
      ArrowUp: here + 1,
      ArrowLeft: here - 1,
      ArrowDown: here - 1,
      Home: 0,
      End: buttons.length - 1,
    }[event.key];
    if (!buttons[next]) return;
    event.preventDefault();
    buttons[here].tabIndex = -1;
    buttons[next].tabIndex = 0;
    buttons[next].focus();
  });

  return function draw() {
    const counts = {};
    const lines = [];
    // The newest text comes last, so that its dot lies on top.
    const buttons = desk.texts
      .all()
      .reverse()
      .map((entry) => {
        const [from, to] = [asked(entry.state.positions), measured(entry.frame.scores)];
        const button = dot(entry, from, to);
        const older = counts[from] ?? 0; // dots of the same position
        counts[from] = older + 1;
        button.style.translate = [Math.cos, Math.sin]
          .map((turn) => `${FAN * Math.sqrt(older) * turn(2.4 * older)}px`)
          .join(" ");
        if (to) lines.push(line(from, to));
        return button;
      });
    drawing.replaceChildren(...lines);
    board.replaceChildren(...buttons);
    board.hidden = !buttons.length;
    if (buttons.length) buttons.at(-1).tabIndex = 0;
  };
}
