// The pad: two of the deck's sliders under one thumb. For keyboard and screen reader it is two native sliders that are not
// visible. It moves the deck ("desk:move") and follows it ("desk:steer"). Its dots are the texts of the history
// ("desk:texts"), and a ring shows where the text on the stage was measured ("desk:frame").
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, _trigger, props) {
  const KEY = "mixing-desk.pad";
  const FINE = 1; // steps of the sliders
  const COARSE = 5;
  const SHAKE = 4; // pixels; a pointer that moves farther during a press is dragging
  const { controls, limit, step } = props;
  const { say, make } = desk;
  const root = element.querySelector(".pad-panel");
  const square = root.querySelector(".square");
  const thumb = square.querySelector(".thumb");
  const ring = square.querySelector(".got");
  const inputs = [...square.querySelectorAll("input")];
  const menus = [...root.querySelectorAll("select")];
  const readings = [...root.querySelectorAll(".reading")];
  const [up, left, right, down] = root.querySelectorAll(".pole");
  const enough = controls.length > 1;
  const signed = (x) => (Math.abs(x) < 0.005 ? "0.00" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2));
  // A number whose sign stays before it in a text that is written from right to left.
  const isolated = (x) => (document.documentElement.dir === "rtl" ? `\u2066${signed(x)}\u2069` : signed(x));
  const title = ({ name }) => say(name.replaceAll("_", " "));
  const show = controls.length > 2 ? radar(root.querySelector(".radar"), props, signed) : () => {};
  const axes = kept(); // the two controls: across, upward
  let positions = {}; // of all the deck's sliders
  let scores; // of the text on the stage
  let pressed = null; // where a pointer went down
  let dragged = false;

  root.querySelector(".empty").hidden = enough;
  root.querySelector(".radar").hidden = controls.length < 3;
  for (const part of root.querySelectorAll(".pad, .axes")) part.hidden = !enough;
  if (!enough) return;

  function kept() {
    const names = String(desk.kept(KEY)).split(" ");
    const found = names.map((name) => controls.find((control) => control.name === name));
    return found.length === 2 && found[0] && found[1] && found[0] !== found[1] ? found : controls.slice(0, 2);
  }

  const place = (node, [x, y]) => {
    node.style.left = `${(100 * (x + limit)) / (2 * limit)}%`;
    node.style.top = `${(100 * (limit - y)) / (2 * limit)}%`;
  };
  const pair = (values) => axes.map(({ name }) => values?.[name]);
  const asked = (values) => pair(values).map((x) => Number(x) || 0);
  const measured = (values) => {
    const found = pair(values);
    return found.every((score) => typeof score === "number") ? found.map((score) => 2 * score - 1) : null;
  };
  const told = (values) => axes.map((control, i) => `${title(control)} ${signed(values[i])}`).join(", ");
  const pin = dots(square, { place, asked, measured, told });

  // A position in words, as in the deck.
  function words({ negative, positive }, x) {
    const far = Math.abs(x) > 1.001 ? `, ${say("beyond the anchor")}` : "";
    return x === 0 ? say("0, base") : `${signed(x)}, ${say(x < 0 ? negative : positive)}${far}`;
  }

  function draw() {
    const here = asked(positions);
    const got = measured(scores);
    place(thumb, here);
    ring.hidden = !got;
    if (got) place(ring, got);
    inputs.forEach((input, i) => {
      input.value = String(here[i]);
      input.setAttribute("aria-valuetext", words(axes[i], here[i]));
      readings[i].textContent = got
        ? say("{asked}, measured {got}", { asked: isolated(here[i]), got: isolated(got[i]) })
        : isolated(here[i]);
    });
    show(positions, scores);
  }

  // Draws all that depends on the choice of the axes: poles, sliders, dots.
  function turn() {
    const [across, upward] = axes;
    left.textContent = say(across.negative);
    right.textContent = say(across.positive);
    down.textContent = say(upward.negative);
    up.textContent = say(upward.positive);
    axes.forEach((control, i) => {
      menus[i].value = control.name;
      inputs[i].setAttribute(
        "aria-label",
        say("{title}: {negative} to {positive}", {
          title: title(control),
          negative: say(control.negative),
          positive: say(control.positive),
        }),
      );
    });
    pin();
    draw();
  }

  // `done`: the person has let go, or it was one step.
  function move(to, done) {
    const [x, y] = to.map((value) =>
      Math.max(-limit, Math.min(limit, Number((Math.round(value / step) * step).toFixed(2)))),
    );
    const moved = { [axes[0].name]: x, [axes[1].name]: y };
    positions = { ...positions, ...moved };
    draw();
    document.dispatchEvent(new CustomEvent("desk:move", { detail: { positions: moved, done } }));
  }

  function point(event, done) {
    const box = square.getBoundingClientRect();
    const x = (event.clientX - box.left - square.clientLeft) / square.clientWidth;
    const y = (event.clientY - box.top - square.clientTop) / square.clientHeight;
    move([(2 * x - 1) * limit, (1 - 2 * y) * limit], done);
  }

  // A press on a dot belongs to the dot, unless it becomes a drag.
  square.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pressed = { x: event.clientX, y: event.clientY };
    if (!event.target.closest(".dots")) drag(event);
  });
  function drag(event) {
    event.preventDefault();
    square.setPointerCapture(event.pointerId);
    dragged = true;
    inputs[0].focus({ preventScroll: true });
    point(event, false);
  }
  square.addEventListener("pointermove", (event) => {
    if (dragged) point(event, false);
    else if (pressed && event.buttons & 1 && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > SHAKE)
      drag(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    square.addEventListener(end, (event) => {
      if (dragged && end === "pointerup") point(event, true);
      else if (dragged) move(asked(positions), true);
      dragged = false;
      pressed = null;
    });
  }
  square.addEventListener("dblclick", (event) => event.target.closest(".dots") || move([0, 0], true));

  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 1], ArrowDown: [1, -1] };
  inputs.forEach((input, i) => {
    Object.assign(input, { min: -limit, max: limit, step });
    input.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Home") {
        event.preventDefault();
        return move([0, 0], true);
      }
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault();
      const [axis, side] = arrow;
      const to = asked(positions);
      to[axis] += side * step * (event.shiftKey ? COARSE : FINE);
      if (axis !== i) inputs[axis].focus(); // a screen reader then reads the slider that moved
      move(to, !event.repeat);
    });
    input.addEventListener("input", () => {
      const to = asked(positions);
      to[i] = parseFloat(input.value);
      move(to, true);
    });
  });

  menus.forEach((menu, i) => {
    for (const control of controls) {
      const option = make("option", "", title(control));
      option.value = control.name;
      menu.append(option);
    }
    menu.addEventListener("change", () => {
      const chosen = controls.find(({ name }) => name === menu.value);
      if (chosen === axes[1 - i]) axes[1 - i] = axes[i]; // they change places
      axes[i] = chosen;
      desk.kept(KEY, axes.map(({ name }) => name).join(" "));
      turn();
    });
  });

  document.addEventListener("desk:steer", ({ detail }) => {
    positions = detail.positions;
    draw();
  });
  document.addEventListener("desk:frame", ({ detail: frame }) => {
    if (frame.state === "idle" || frame.state === "error") return;
    scores = frame.mix.length ? frame.scores : undefined;
    draw();
  });
  document.addEventListener("desk:texts", pin);

  async function begin() {
    while (!desk.now || !desk.texts) await new Promise((done) => setTimeout(done, 20)); // Gradio mounts components one by one
    positions = desk.now().positions;
    turn();
  }
  begin();
}
