// The mix deck: native range inputs, so that keyboard and screen reader work as everywhere.
// The component's value is {seq, positions}, with {decouple: true} while that is on (see decouple.js), and with {rewards,
// levels, budget, whole} while any control of reward.js is not at rest. It goes to the server at most every 40 ms during a
// drag, and exactly when the browser commits a value; the event "desk:steer" tells the page. The deck receives scores from
// the stage's frames ("desk:frame"), positions from the formula box ("desk:formula") and the pad ("desk:move"), and whole
// states from the tools ("desk:put").
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props) {
  const THROTTLE = 40; // ms
  const TOLERANCE = 0.5; // larger differences between the asked and the measured position are marked
  const limit = props.limit;
  const root = element.querySelector(".deck");
  const rows = new Map(); // the anchors' sliders
  const rewards = []; // the reward heads'
  let seq = props.value?.seq || 0;
  let timer = null;
  let lastSent = -Infinity;
  let held = null; // the input that a person holds; nothing else moves it

  const { make, say } = desk;
  const limits = { rewardLimit: props.reward_limit, step: props.step };
  const tools = { make, signed: (x) => signed(x), moved: (done) => moved(done), ...limits };
  const fraction = (position) => (Math.max(-limit, Math.min(limit, position)) + limit) / (2 * limit);
  const signed = (x) => (Math.abs(x) < 0.005 ? "0.00" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2));

  // `done`: the browser has committed the value, or it was one step.
  function moved(done) {
    settle();
    if (done) send();
    else sendSoon();
  }

  // `hand`: a person moved a slider, and not the formula or the tools.
  function send(hand = true) {
    clearTimeout(timer);
    timer = null;
    lastSent = performance.now();
    seq += 1;
    const positions = {};
    for (const [name, row] of rows) positions[name] = row.position;
    props.value = { seq, positions, ...decouple.value(), ...steering() };
    trigger("input");
    document.dispatchEvent(new CustomEvent("desk:steer", { detail: { ...props.value, hand } }));
  }

  // Empty while all rewards are at rest, so that the text is then the one without rewards.
  function steering() {
    const resting = rewards.every((one) => one.resting()) && budget.resting();
    budget.node.classList.toggle("rest", resting);
    if (resting) return {};
    const posted = { rewards: {}, levels: {}, ...budget.get() };
    for (const one of rewards) {
      const { position, level } = one.get();
      if (level !== undefined) posted.levels[one.name] = level;
      else if (position) posted.rewards[one.name] = position;
    }
    return posted;
  }

  function sendSoon() {
    if (timer !== null) return;
    timer = setTimeout(send, Math.max(0, THROTTLE - (performance.now() - lastSent)));
  }

  function draw(row) {
    const x = row.position;
    const at = fraction(x);
    row.line.style.setProperty("--lo", Math.min(at, 0.5));
    row.line.style.setProperty("--hi", Math.max(at, 0.5));
    row.line.dataset.side = x < 0 ? "negative" : "positive";
    row.node.classList.toggle("beyond", Math.abs(x) > 1.001);
    row.node.classList.toggle("rest", x === 0);
    row.asked.textContent = signed(x);
    const pole = say(x < 0 ? row.control.negative : row.control.positive);
    const far = Math.abs(x) > 1.001 ? `, ${say("beyond the anchor")}` : "";
    row.input.setAttribute("aria-valuetext", x === 0 ? say("0, base") : `${signed(x)}, ${pole}${far}`);
    judge(row);
    settle();
  }

  // The button Reset all works only while something is not at rest.
  function settle() {
    reset.disabled = [...rows.values()].every((row) => row.position === 0) && !Object.keys(steering()).length;
  }

  // A tick under the track where the judge finds the text; it is amber if that is far from what was asked.
  function judge(row) {
    const known = typeof row.score === "number";
    row.tick.hidden = !known;
    row.got.textContent = known ? signed(2 * row.score - 1) : "";
    if (!known) return;
    const got = 2 * row.score - 1;
    const asked = decouple.askedScore(row.control.name, row.position);
    const off = Math.abs(row.position) >= 0.25 && Math.abs(asked - got) > TOLERANCE;
    row.node.classList.toggle("off", off);
    row.line.style.setProperty("--got", fraction(got));
    row.measured.title = say("The text so far measures {got} (score {score})", {
      got: signed(got),
      score: row.score.toFixed(2),
    });
  }

  // The input takes the nearest of its steps; the row keeps the exact position.
  function set(row, position) {
    row.input.value = String(position);
    row.position = position;
    draw(row);
  }

  function strip(control) {
    const node = make("div", "strip");
    const title = say(control.name.replaceAll("_", " "));
    const [negative, positive] = [say(control.negative), say(control.positive)];
    const poles = make("div", "poles");
    poles.append(make("span", "pole", negative), make("span", "name", title), make("span", "pole", positive));
    if (control.description) poles.title = say(control.description);
    node.append(poles);
    node.classList.toggle("reward-alone", !control.anchors);
    if (control.anchors) rows.set(control.name, fader(control, title, node));
    if (control.reward) {
      rewards.push(rewardSlider({ ...control, title, negative, positive }, tools));
      node.append(rewards.at(-1).node);
    }
    return node;
  }

  function fader(control, title, node) {
    const line = make("div", "line");
    const input = make("input", "fader");
    Object.assign(input, { type: "range", min: -limit, max: limit, step: props.step, value: 0 });
    input.setAttribute(
      "aria-label",
      say("{title}: {negative} to {positive}", {
        title,
        negative: say(control.negative),
        positive: say(control.positive),
      }),
    );
    input.dataset.name = control.name;
    const tick = make("i", "tick");
    tick.setAttribute("aria-hidden", "true");
    const scale = make("div", "scale");
    scale.setAttribute("aria-hidden", "true");
    line.append(scale, input, tick);
    const asked = make("output", "asked");
    const measured = make("div", "measured");
    const got = make("span", "got");
    measured.append(got);
    node.append(asked, line, measured);
    const row = { control, node, line, input, tick, asked, got, measured, position: 0, score: undefined };

    for (const name of ["input", "change"]) {
      input.addEventListener(name, () => {
        row.position = Math.round(parseFloat(input.value) * 100) / 100;
        draw(row);
        moved(name === "change");
      });
    }
    function rest() {
      set(row, 0);
      send();
    }
    line.addEventListener("dblclick", rest);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Delete" || event.key === "Backspace") rest();
    });
    return row;
  }

  const head = make("div", "deck-head");
  const reset = make("button", "reset", say("Reset all"));
  reset.type = "button";
  reset.addEventListener("click", () => {
    for (const row of rows.values()) set(row, 0);
    for (const one of rewards) one.put(0);
    budget.put();
    settle();
    send();
  });
  const decouple = decoupler(props.scales, () => {
    for (const row of rows.values()) judge(row);
    send();
  });
  const notice = make("span", "notice");
  notice.setAttribute("role", "status");
  head.append(
    make("h2", "", say("Mix")),
    decouple.node,
    notice,
    make("span", "legend", say("asked / measured")),
    reset,
  );
  const strips = make("div", "strips");
  const budget = budgetControl(props, tools);
  for (const control of props.controls) strips.append(strip(control));
  if (!props.controls.length)
    strips.append(
      make("p", "empty", say("No anchors were found, so there is nothing to mix: only the base model writes.")),
    );
  const drawer = rewardDrawer(root);
  root.replaceChildren(head, strips, ...(rewards.length ? [drawer.node, budget.node] : []));
  root.addEventListener("pointerdown", (event) => {
    held = event.target;
  });
  for (const end of ["pointerup", "pointercancel", "focusout"]) {
    root.addEventListener(end, () => {
      held = null;
    });
  }

  function put({ positions, decouple: decoupled, rewards: pushes = {}, levels = {}, budget: nats, whole }) {
    decouple.put(decoupled);
    for (const [name, row] of rows) if (row.input !== held) set(row, positions[name] || 0);
    for (const one of rewards) {
      const aimed = levels[one.name] !== undefined;
      if (one.input !== held) one.put(aimed ? levels[one.name] : pushes[one.name] || 0, aimed);
    }
    budget.put(nats, whole);
    if (Object.keys(steering()).length) drawer.open(true);
    settle();
  }
  put(props.value);
  document.addEventListener("desk:put", (event) => {
    put(event.detail);
    send(false);
  });

  // The pad moves sliders as a person does; `done` as in `moved`.
  document.addEventListener("desk:move", ({ detail: { positions, done } }) => {
    for (const [name, row] of rows) if (name in positions) set(row, positions[name]);
    if (done) send();
    else sendSoon();
  });

  // How the sliders act on the formula: "mix" is a weight mix, whose numbers are their positions; "sliders" names them;
  // with "none" they do nothing.
  document.addEventListener("desk:formula", (event) => {
    const { tie, positions } = event.detail;
    const words = tie === "none" ? say("The sliders do not act on this formula") : "";
    root.classList.toggle("idle", tie === "none");
    if (decouple.follow(tie)) send(timer !== null);
    if (notice.textContent !== words) notice.textContent = words;
    if (!positions) return;
    const different = [...rows].filter(([name, row]) => row.input !== held && row.position !== (positions[name] || 0));
    for (const [name, row] of different) set(row, positions[name] || 0);
    if (different.length) send(timer !== null); // a person's move that still waits goes with it
  });

  document.addEventListener("desk:frame", (event) => {
    const { state, scores, mix, levels, nats, note } = event.detail;
    if (state === "error") return;
    for (const [name, row] of rows) {
      row.score = mix.length && scores ? scores[name] : undefined;
      judge(row);
    }
    for (const one of rewards) one.show(levels[one.name]);
    budget.show(nats, note);
  });
}
