// The tools in the page's head. They receive the values of all controls ("desk:values") and can put all controls into a
// state: the deck and the formula box by "desk:put", Gradio's own by submitting this component's value.
// A state is flat JSON (see mixer/ui/state/page_state.py). States for undo and redo, and those of the history, never leave
// the browser.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, trigger, props, _watch, server) {
  const PAUSE = 350; // ms without a change, after which a step ends
  const MOST_STEPS = 200;
  const SEEN = "mixing-desk.seen";
  const root = element.querySelector(".tools");
  const menu = root.querySelector(".presets");
  const [undo, redo] = root.querySelectorAll(".undo, .redo");
  const sheet = root.querySelector("#share-sheet");
  const past = [];
  const future = [];
  let now = props.start; // where the controls stand
  let step = now; // where they stood when the last step ended
  let target = null; // the state that the page itself is putting them into
  let late = null; // the newest state on the way there
  let timer = null;
  let held = false; // a pointer is down; one drag is one step

  const { make, say } = desk;
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const numbers = (values = {}) =>
    Object.fromEntries(
      Object.entries(values)
        .filter(([, value]) => value)
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  const levels = (values = {}) => Object.fromEntries(Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1)));

  // The state that the controls' values make, its keys in the order that `props.rest` has.
  function read([deck, box, ...plain]) {
    const state = { ...props.rest, formula: box.text };
    for (const name of props.deck) state[name] = deck[name] ?? props.rest[name];
    props.plain.forEach((name, index) => {
      state[name] = plain[index];
    });
    if (deck.budget === null) state.budget = null; // no limit
    return {
      ...state,
      positions: numbers(state.positions),
      rewards: numbers(state.rewards),
      levels: levels(state.levels),
    };
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(() => held || settle(), PAUSE);
  }

  // Controls that the page puts into a state report one by one. These reports are no step.
  document.addEventListener("desk:values", (event) => {
    const found = read(event.detail);
    if (target && !same(found, target)) late = found;
    else [now, target] = [found, null];
    soon();
  });

  // Ends the present step, if there is one. A seed that the page itself has drawn is no step.
  function settle() {
    clearTimeout(timer);
    timer = null;
    if (target) {
      now = late || target; // the page may have changed the state, such as the sliders of a weight mix
      step = now;
      target = null;
    }
    const drawn = now.fresh && same({ ...step, seed: now.seed }, now);
    if (!drawn && !same(step, now)) remember();
    step = now;
    draw();
  }

  function remember() {
    past.push(step);
    if (past.length > MOST_STEPS) past.shift();
    future.length = 0;
  }

  // Something new begins: what came before it is a step of its own.
  function grab() {
    if (timer !== null && !target) settle();
  }

  function apply(asked) {
    const state = { ...props.rest, ...asked }; // an old text of the history may lack newer fields
    now = state;
    step = state;
    target = state;
    late = null;
    document.dispatchEvent(new CustomEvent("desk:put", { detail: state }));
    props.value = state;
    trigger("submit");
    soon();
    draw();
  }

  // Puts the page into a state as one step: a preset, a text of the history.
  function take(state) {
    grab();
    if (same(step, state)) return;
    remember();
    apply(state);
  }

  function go(from, to) {
    grab();
    if (!from.length) return;
    to.push(step);
    apply(from.pop());
  }

  function draw() {
    undo.disabled = !past.length && same(step, now);
    redo.disabled = !future.length;
    const at = props.presets.findIndex(
      ({ state }) => state.formula === now.formula && same(state.positions, now.positions),
    );
    const pushed = Object.keys({ ...now.rewards, ...now.levels }).length > 0; // no preset does
    menu.value = at < 0 || pushed || now.decouple ? "" : at;
  }

  undo.addEventListener("click", () => go(past, future));
  redo.addEventListener("click", () => go(future, past));
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || event.altKey || (key !== "z" && key !== "y")) return;
    if (event.target.closest?.("textarea, [contenteditable], input:not([type=range], [type=checkbox], [type=radio])"))
      return;
    event.preventDefault();
    if (key === "y" || event.shiftKey) go(future, past);
    else go(past, future);
  });
  document.addEventListener(
    "pointerdown",
    () => {
      held = true;
      grab();
    },
    true,
  );
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(
      end,
      () => {
        held = false;
        soon();
      },
      true,
    );
  }

  props.presets.forEach(({ name, about }, index) => {
    const option = make("option", "", name);
    option.value = index;
    option.title = about;
    menu.append(option);
  });
  menu.hidden = !props.presets.length;
  menu.addEventListener("change", () => {
    const chosen = props.presets[menu.value];
    if (!chosen) return draw();
    grab();
    take({ ...now, ...chosen.state });
  });

  async function copy(text, field) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      field.focus(); // the browser does not allow it, such as on a plain http address
      field.select();
      return document.execCommand("copy");
    }
    return true;
  }

  const tell = async () =>
    (await server.tell({ ...now, address: location.origin + location.pathname })) || {
      refused: say("The server did not answer."),
    };

  // The state as a link, which is copied at once, and as code.
  root.querySelector(".share").addEventListener("click", async () => {
    grab();
    const status = sheet.querySelector("[role=status]");
    const list = sheet.querySelector("dl");
    const note = sheet.querySelector(".empty");
    const told = await tell();
    note.textContent = told.refused || told.note || "";
    note.hidden = !note.textContent;
    status.textContent = "";
    const rows = ["Link", "Python", "Command line", "curl"]
      .filter((name) => told[name])
      .map((name) => {
        const field = make("textarea", "");
        field.readOnly = true;
        field.value = told[name].trimEnd();
        field.rows = name === "Link" ? 2 : Math.min(9, field.value.split("\n").length + (name === "Python" ? 0 : 2));
        field.spellcheck = false;
        field.dataset.name = name;
        field.setAttribute("aria-label", say(name));
        field.dir = "ltr";
        const button = make("button", "copy", say("Copy"));
        button.type = "button";
        button.setAttribute("aria-label", say("Copy {name}", { name: say(name) }));
        button.addEventListener("click", async () => {
          status.textContent = (await copy(field.value, field)) ? say("{name} copied", { name: say(name) }) : "";
        });
        const term = make("dt", "", say(name));
        term.append(button);
        const detail = make("dd", "");
        detail.append(field);
        return [term, detail];
      });
    list.replaceChildren(...rows.flat());
    sheet.showPopover();
    const first = list.querySelector("textarea[data-name=Link]");
    if (first && (await copy(first.value, first))) status.textContent = say("{name} copied", { name: say("Link") });
  });

  const link = async () => (await tell()).Link || location.href;
  Object.assign(desk, { now: () => now, take, link });
  texts({ make, root, deck: props.deck, now: () => now, take });

  const mounted = () =>
    [".deck > *", ".formula .chip", ".notices", "#options button", "#prompt textarea", "#generate", "#stop"].every(
      (part) => document.querySelector(part),
    );

  // Shows the hint for new people, and opens the state in the page's address, if it has one.
  async function open() {
    const answer = /[?&]v=/.test(location.search) ? await server.visit(location.search) : null;
    while (!mounted()) await new Promise((done) => setTimeout(done, 20));
    const [options, ...labels] = ["#options", "#prompt-area", "#transport"].map((part) => document.querySelector(part));
    labels.forEach(desk.localize);
    new MutationObserver(() => desk.localize(options)).observe(options, { childList: true, subtree: true }); // drawn when opened
    desk.localize(options);
    const [hint, warning] = document.querySelectorAll(".notice-line");
    hint.hidden = desk.kept(SEEN) !== null;
    hint.querySelector("button").addEventListener("click", () => {
      hint.hidden = true;
      desk.kept(SEEN, "1");
    });
    warning.querySelector("button").addEventListener("click", () => {
      warning.hidden = true;
    });
    if (answer) {
      apply(answer.state);
      warning.querySelector("ul").replaceChildren(...answer.notes.map((text) => make("li", "", text)));
      warning.hidden = !answer.notes.length;
    }
    document.documentElement.dataset.opened = "";
  }
  draw();
  open();
}
