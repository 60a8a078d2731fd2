// Reward sliders and the budget that they share: parts of the deck (see deck.js, which sends their values).
// `tools` come from the deck: `make` and `signed` for drawing, `moved(done)` for the moves of a person, and the sliders'
// `rewardLimit` and `step`.

// One slider for a reward head. It pushes every token toward the attribute or away from it. With "aim" it asks for a level
// from 0 to 1 instead, and the head's own reading of the text fills the track like a thermometer.
// biome-ignore lint/correctness/noUnusedVariables: part of deck.js
function rewardSlider({ name, title, negative, positive }, tools) {
  const { make, signed, moved, rewardLimit: limit, step } = tools;
  const { say } = desk;
  const node = make("div", "trim-row");
  const word = make("span", "word", say("reward"));
  const line = make("div", "line slim");
  const input = make("input", "trim");
  const tick = make("i", "tick");
  const aim = make("button", "aim", say("aim"));
  const asked = make("span", "value");
  const reading = make("span", "sr-only");
  const scale = make("div", "scale");
  let value = 0; // a position, or a level while `aiming`
  let aiming = false;

  for (const part of [word, asked, tick, scale]) part.setAttribute("aria-hidden", "true");
  Object.assign(input, { type: "range", min: -limit, max: limit, step, value: 0 });
  input.dataset.reward = name;
  reading.id = `reading-of-${name}`;
  input.setAttribute("aria-describedby", reading.id);
  aim.type = "button";
  aim.setAttribute("aria-label", say("aim for a level of {title}", { title }));
  line.append(scale, input, tick);
  node.append(word, line, aim, asked, reading);

  const fraction = () => (aiming ? value : (Math.max(-limit, Math.min(limit, value)) + limit) / (2 * limit));
  const resting = () => !aiming && value === 0;

  function draw() {
    const at = fraction();
    word.textContent = aiming ? say("level") : say("reward");
    word.title = aiming
      ? say("How {positive} the text is to be, by the reward head's own reading", { positive })
      : say("Push every word by the reward head");
    line.style.setProperty("--lo", aiming ? 0 : Math.min(at, 0.5));
    line.style.setProperty("--hi", aiming ? "var(--got, 0)" : Math.max(at, 0.5));
    line.dataset.side = !aiming && value < 0 ? "negative" : "positive";
    node.classList.toggle("rest", resting());
    node.classList.toggle("aiming", aiming);
    asked.textContent = resting() ? "" : aiming ? value.toFixed(2) : signed(value);
    aim.setAttribute("aria-pressed", String(aiming));
    aim.title = aiming ? say("Back to a push") : say("Aim for a level instead of pushing");
    input.setAttribute(
      "aria-label",
      aiming
        ? say("Level of {title} to aim for", { title })
        : say("Reward for {title}: {negative} to {positive}", { title, negative, positive }),
    );
    const pole = value < 0 ? negative : positive;
    input.setAttribute(
      "aria-valuetext",
      aiming
        ? say("aim for {level}", { level: value.toFixed(2) })
        : value === 0
          ? say("0, at rest")
          : `${signed(value)}, ${pole}`,
    );
  }

  function put(next, aimed = false) {
    aiming = aimed;
    value = next;
    Object.assign(input, { min: aiming ? 0 : -limit, max: aiming ? 1 : limit, value: String(value) });
    draw();
  }

  // Shows the head's reading of the text so far; undefined if the head does not steer.
  function show(level) {
    const known = typeof level === "number";
    tick.hidden = !known;
    line.classList.toggle("read", known);
    if (!known) line.style.removeProperty("--got");
    else line.style.setProperty("--got", Math.max(0, Math.min(1, level)));
    reading.textContent = known
      ? say("The text so far reads {level}", { level: Math.max(0, Math.min(1, level)).toFixed(2) })
      : "";
    line.title = reading.textContent;
  }

  for (const event of ["input", "change"]) {
    input.addEventListener(event, () => {
      value = Math.round(parseFloat(input.value) * 100) / 100;
      draw();
      moved(event === "change");
    });
  }
  function rest() {
    put(0);
    moved(true);
  }
  line.addEventListener("dblclick", rest);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") rest();
  });
  // The slider's cap stays in its place: the middle is a push of 0, and a level of 0.5.
  aim.addEventListener("click", () => {
    put(Math.round(100 * (aiming ? limit * (2 * value - 1) : fraction())) / 100, !aiming);
    moved(true);
  });
  put(0);
  show();
  return { name, node, input, put, show, resting, get: () => (aiming ? { level: value } : { position: value }) };
}

// The budget of everything that steers. Its last stop is no limit. The same scale shows what the last tokens spent.
// biome-ignore lint/correctness/noUnusedVariables: part of deck.js
function budgetControl({ budgets, budget }, tools) {
  const { make, moved } = tools;
  const { say } = desk;
  const node = make("div", "budget");
  const label = make("label", "word", say("KL budget"));
  const line = make("div", "line slim");
  const input = make("input", "trim");
  const asked = make("span", "value");
  const spent = make("span", "spent");
  const whole = make("input", "");
  const counts = make("label", "counts");
  const later = make("p", "later");
  const stops = [...budgets, null]; // null: no limit
  const usual = stops.indexOf(budget);
  let stop = usual;

  node.setAttribute("role", "group");
  node.setAttribute("aria-label", say("Budget of rewards"));
  input.id = "kl-budget";
  label.htmlFor = input.id;
  label.title = say("How far rewards may take each word's distribution from the model's, in nats");
  Object.assign(input, { type: "range", min: 0, max: stops.length - 1, step: 1 });
  spent.id = "kl-spent";
  input.setAttribute("aria-describedby", spent.id);
  asked.setAttribute("aria-hidden", "true");
  whole.type = "checkbox";
  counts.append(whole, say("count the sliders too"));
  counts.title = say("The budget then holds all that leads away from the base model: the mix and the formula too");
  later.setAttribute("role", "status");
  line.append(make("div", "scale"), input);
  line.firstChild.setAttribute("aria-hidden", "true");
  node.append(label, line, asked, counts, spent, later);

  const resting = () => stop === usual && !whole.checked;

  function draw() {
    const nats = stops[stop];
    input.value = String(stop);
    asked.textContent = nats === null ? say("no limit") : nats === 1 ? say("1 nat") : say("{nats} nats", { nats });
    input.setAttribute(
      "aria-valuetext",
      nats === null ? say("no limit") : say("at most {nats} nats a token", { nats }),
    );
  }

  function put(nats, counted) {
    const near = (a, b) => Math.abs(Math.log(a / nats)) - Math.abs(Math.log(b / nats));
    if (nats === undefined) stop = usual;
    else stop = nats === null ? stops.length - 1 : stops.indexOf([...budgets].sort(near)[0]);
    whole.checked = Boolean(counted);
    draw();
  }

  // The place of a number of nats among the stops, as a fraction of the track.
  function place(nats) {
    const next = budgets.findIndex((stopNats) => stopNats >= nats);
    if (next === 0) return (0.5 * nats) / budgets[0] / stops.length;
    const from = budgets[next - 1];
    return next < 0 ? 1 : (next - 1 + Math.log(nats / from) / Math.log(budgets[next] / from)) / (stops.length - 1);
  }

  // Shows what the last tokens spent, if the budget counts anything, and what of a move has to wait.
  function show(nats, note = "") {
    const known = typeof nats === "number";
    line.style.setProperty("--lo", 0);
    line.style.setProperty("--hi", known ? place(nats) : 0);
    spent.textContent = known ? say("spent {nats}", { nats: nats.toFixed(2) }) : "";
    spent.title = say("The mean of the last ten words");
    node.classList.toggle("full", known && stops[stop] !== null && nats > 0.9 * stops[stop]);
    if (later.textContent !== note) later.textContent = note;
  }

  function choose(index, done) {
    stop = index;
    draw();
    moved(done);
  }
  for (const event of ["input", "change"]) {
    input.addEventListener(event, () => choose(parseInt(input.value, 10), event === "change"));
  }
  whole.addEventListener("change", () => moved(true));
  line.addEventListener("dblclick", () => choose(usual, true));
  put();
  show();
  return { node, put, show, resting, get: () => ({ budget: stops[stop], whole: whole.checked }) };
}

// The button that shows the reward sliders and their budget, or hides them: most people begin without them.
// biome-ignore lint/correctness/noUnusedVariables: part of deck.js
function rewardDrawer(root) {
  const KEY = "mixing-desk.rewards";
  const node = desk.make("button", "drawer", desk.say("Rewards"));
  node.type = "button";
  function open(shown) {
    root.classList.toggle("plain", !shown);
    node.setAttribute("aria-expanded", String(shown));
  }
  node.addEventListener("click", () => {
    open(root.classList.contains("plain"));
    desk.kept(KEY, root.classList.contains("plain") ? "" : "open");
  });
  open(desk.kept(KEY) === "open");
  return { node, open };
}
