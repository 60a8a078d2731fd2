// Reward sliders and the budget that they share: parts of the deck (see deck.js, which sends what they say).
// `tools` are the deck's: `make` and `signed` for what is drawn, `moved(now)` when a hand moved something.

// One slider for a reward head. It pushes every token, from -1 to 1, or with "aim" aims for a level from 0 to 1; then
// the head's own reading of the text stands on the track as in a thermometer.
function rewardSlider({ name, title, negative, positive }, tools) {
  const { make, signed, moved } = tools;
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
  let value = 0; // a position, or the level where `aiming`
  let aiming = false;

  for (const part of [word, asked, tick, scale]) part.setAttribute("aria-hidden", "true");
  Object.assign(input, { type: "range", min: -1, max: 1, step: 0.05, value: 0 });
  input.dataset.reward = name;
  reading.id = `reading-of-${name}`;
  input.setAttribute("aria-describedby", reading.id);
  aim.type = "button";
  aim.setAttribute("aria-label", say("aim for a level of {title}", { title }));
  line.append(scale, input, tick);
  node.append(word, line, aim, asked, reading);

  const fraction = () => (aiming ? value : (Math.max(-1, Math.min(1, value)) + 1) / 2);
  const resting = () => !aiming && value === 0;

  function draw() {
    const at = fraction();
    word.textContent = aiming ? say("level") : say("reward");
    word.title = aiming ? say("How {positive} the text is to be, by the reward head's own reading", { positive }) : say("Push every word by the reward head");
    line.style.setProperty("--lo", aiming ? 0 : Math.min(at, 0.5));
    line.style.setProperty("--hi", aiming ? "var(--got, 0)" : Math.max(at, 0.5));
    line.dataset.side = !aiming && value < 0 ? "negative" : "positive";
    node.classList.toggle("rest", resting());
    node.classList.toggle("aiming", aiming);
    asked.textContent = resting() ? "" : aiming ? value.toFixed(2) : signed(value);
    aim.setAttribute("aria-pressed", String(aiming));
    aim.title = aiming ? say("Back to a push") : say("Aim for a level instead of pushing");
    input.setAttribute("aria-label", aiming ? say("Level of {title} to aim for", { title }) : say("Reward for {title}: {negative} to {positive}", { title, negative, positive }));
    const pole = value < 0 ? negative : positive;
    input.setAttribute("aria-valuetext", aiming ? say("aim for {level}", { level: value.toFixed(2) }) : value === 0 ? say("0, at rest") : `${signed(value)}, ${pole}`);
  }

  function put(next, aimed = false) {
    aiming = aimed;
    input.min = aiming ? 0 : -1;
    input.value = String((value = next));
    draw();
  }

  // What the head makes of the text so far; nothing where it does not steer.
  function show(level) {
    const known = typeof level === "number";
    tick.hidden = !known;
    line.classList.toggle("read", known);
    if (!known) line.style.removeProperty("--got");
    else line.style.setProperty("--got", Math.max(0, Math.min(1, level)));
    reading.textContent = known ? say("The text so far reads {level}", { level: Math.max(0, Math.min(1, level)).toFixed(2) }) : "";
    line.title = reading.textContent;
  }

  const read = () => (value = Math.round(parseFloat(input.value) * 100) / 100);
  input.addEventListener("input", () => (read(), draw(), moved(false)));
  input.addEventListener("change", () => (read(), draw(), moved(true)));
  const rest = () => (put(0), moved(true));
  line.addEventListener("dblclick", rest);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") rest();
  });
  // The cap stays where it is: the middle is a push of 0 and a level of 0.5.
  aim.addEventListener("click", () => {
    put(Math.round(100 * (aiming ? 2 * value - 1 : fraction())) / 100, !aiming);
    moved(true);
  });
  put(0);
  show();
  return { name, node, input, put, show, resting, get: () => (aiming ? { level: value } : { position: value }) };
}

// One budget for all that steers, its last stop no limit, and on the same scale what the last tokens spent.
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
  label.htmlFor = input.id = "kl-budget";
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
    input.setAttribute("aria-valuetext", nats === null ? say("no limit") : say("at most {nats} nats a token", { nats }));
  }

  function put(nats, all) {
    const near = (a, b) => Math.abs(Math.log(a / nats)) - Math.abs(Math.log(b / nats));
    if (nats === undefined) stop = usual;
    else stop = nats === null ? stops.length - 1 : stops.indexOf([...budgets].sort(near)[0]);
    whole.checked = Boolean(all);
    draw();
  }

  // Where so many nats stand among the stops, as a fraction of the track.
  function place(nats) {
    const next = budgets.findIndex((one) => one >= nats);
    if (next === 0) return (0.5 * nats) / budgets[0] / stops.length;
    const from = budgets[next - 1];
    return next < 0 ? 1 : (next - 1 + Math.log(nats / from) / Math.log(budgets[next] / from)) / (stops.length - 1);
  }

  // What the last tokens spent, where anything counts.
  function show(nats, note = "") {
    const known = typeof nats === "number";
    line.style.setProperty("--lo", 0);
    line.style.setProperty("--hi", known ? place(nats) : 0);
    spent.textContent = known ? say("spent {nats}", { nats: nats.toFixed(2) }) : "";
    spent.title = say("The mean of the last ten words");
    node.classList.toggle("full", known && stops[stop] !== null && nats > 0.9 * stops[stop]);
    if (later.textContent !== note) later.textContent = note;
  }

  const read = () => ((stop = parseInt(input.value, 10)), draw());
  input.addEventListener("input", () => (read(), moved(false)));
  input.addEventListener("change", () => (read(), moved(true)));
  whole.addEventListener("change", () => moved(true));
  line.addEventListener("dblclick", () => ((stop = usual), draw(), moved(true)));
  put();
  show();
  return { node, put, show, resting, get: () => ({ budget: stops[stop], whole: whole.checked }) };
}

// Shows the reward sliders and their budget, or puts them away: most people begin without.
function rewardDrawer(root) {
  const KEY = "mixing-desk.rewards";
  const node = desk.make("button", "drawer", desk.say("Rewards"));
  node.type = "button";
  function open(wanted) {
    root.classList.toggle("plain", !wanted);
    node.setAttribute("aria-expanded", String(wanted));
  }
  node.addEventListener("click", () => {
    open(root.classList.contains("plain"));
    desk.kept(KEY, root.classList.contains("plain") ? "" : "open");
  });
  open(desk.kept(KEY) === "open");
  return { node, open };
}
