// The last texts, kept in this browser alone: each brings back the text, and the state and seed that write it again.
// To others they are `desk.texts`: `all()`, the newest first, and `show(one)`; "desk:texts" says that they are others now.
// `tools` are those of tools.js: `now()`, where the controls stand, and `take(state)`, which puts them there.
function texts({ make, root, deck, now, take }) {
  const KEY = "mixing-desk.history";
  const MOST = 20;
  const sheet = root.querySelector("#history-sheet");
  const list = sheet.querySelector("ol");
  const clear = sheet.querySelector(".clear");
  let begun = null; // the state that the running text was begun with
  let waiting = null; // to be shown when the running text has stopped

  const like = (a, b) => typeof a === typeof b && (a === null) === (b === null);

  // Whether this very page may have kept it.
  function sound({ state, frame }) {
    const { prompt, base, mix, status, levels } = frame;
    const whole = ["prompt", "formula", "positions", "rewards", "levels", "mode"].every((key) => like(state[key], now()[key]));
    return whole && [prompt, base].every((one) => typeof one === "string") && mix.length > 0 && mix.every(Array.isArray) && status && levels;
  }

  function load() {
    try {
      return JSON.parse(localStorage.getItem(KEY) || "[]").filter(sound).slice(0, MOST);
    } catch {
      return []; // nothing is kept, or nothing that this page wrote
    }
  }

  // The oldest give way where the browser has no more room.
  function save(entries) {
    for (let many = Math.min(entries.length, MOST); many >= 0; many -= 1) {
      try {
        localStorage.setItem(KEY, JSON.stringify(entries.slice(0, many)));
        break;
      } catch {
        continue;
      }
    }
    document.dispatchEvent(new CustomEvent("desk:texts"));
  }

  // Sliders may have moved in mid-text, and count as they stood at its end; all else as it was begun with.
  function keep(frame) {
    if (!begun || !frame.mix.length) return;
    const { formula } = now();
    const sliders = Object.fromEntries(deck.map((name) => [name, now()[name]]));
    const tied = frame.formula ? begun.formula : formula === begun.formula ? formula : "sliders"; // see Recipe
    const state = { ...begun, ...sliders, prompt: frame.prompt, formula: tied, seed: frame.status.seed, fresh: false };
    save([{ at: Date.now(), state, frame }, ...load()]);
  }

  function show({ state, frame }) {
    take(state);
    document.dispatchEvent(new CustomEvent("desk:recall", { detail: { ...frame, recalled: true } }));
  }

  // Shows a text again; one that is running is stopped first.
  function recall(entry) {
    if (document.documentElement.dataset.desk !== "running") return show(entry);
    waiting = entry;
    document.querySelector("#stop")?.click();
  }
  desk.texts = { all: load, show: recall };

  document.addEventListener("desk:frame", ({ detail: frame }) => {
    if (frame.recalled || frame.state === "idle") return;
    if (frame.state === "running") {
      if (!begun || !frame.mix.length) begun = now(); // the first frame may never be seen: a busy browser skips some
      return;
    }
    if (frame.state !== "error") keep(frame);
    begun = null;
    const next = waiting;
    waiting = null;
    if (next) show(next);
  });

  function draw() {
    const entries = load();
    sheet.querySelector(".empty").hidden = entries.length > 0;
    clear.hidden = !entries.length;
    list.replaceChildren(
      ...entries.map((entry) => {
        const { at, state, frame } = entry;
        const button = make("button", "text");
        button.type = "button";
        const words = make("span", "words", frame.prompt + frame.mix.map(([, text]) => text).join(""));
        words.dir = "auto";
        const by = [frame.formula, frame.mix.at(-1)[0]].filter(Boolean).join(" · ");
        button.append(words, make("span", "by", `${new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })} · ${by} · ${desk.say("seed {seed}", { seed: state.seed })}`));
        button.addEventListener("click", () => {
          sheet.hidePopover();
          recall(entry);
        });
        const item = make("li", "");
        item.append(button);
        return item;
      })
    );
  }
  sheet.addEventListener("beforetoggle", (event) => event.newState === "open" && draw());
  clear.addEventListener("click", () => (save([]), draw()));
}
