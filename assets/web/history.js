// The history: the last texts, kept in this browser alone, each with the state and the seed that write it again.
// Other scripts use `desk.texts`: `all()` gives the entries, the newest first, and `show(entry)` brings one back; the event
// "desk:texts" follows every change. From tools.js come `now()`, where the controls stand, `take(state)`, which puts them
// there, and `deck`, the names of the fields that the deck holds.
// biome-ignore lint/correctness/noUnusedVariables: part of tools.js
function texts({ make, root, deck, now, take }) {
  const KEY = "mixing-desk.history";
  const MOST = 20;
  const sheet = root.querySelector("#history-sheet");
  const list = sheet.querySelector("ol");
  const clear = sheet.querySelector(".clear");
  let begun = null; // the state when the running text began
  let waiting = null; // the entry to show when the running text has stopped

  const like = (a, b) => typeof a === typeof b && (a === null) === (b === null);

  // Whether this page can have kept the entry; another version of it may have.
  function sound({ state, frame }) {
    const { prompt, base, mix, status, levels } = frame;
    const complete = ["prompt", "formula", "positions", "rewards", "levels", "mode"].every((key) =>
      like(state[key], now()[key]),
    );
    return (
      complete &&
      [prompt, base].every((text) => typeof text === "string") &&
      mix.length > 0 &&
      mix.every(Array.isArray) &&
      status &&
      levels
    );
  }

  function load() {
    try {
      return JSON.parse(localStorage.getItem(KEY) || "[]")
        .filter(sound)
        .slice(0, MOST);
    } catch {
      return []; // nothing is kept, or nothing that this page wrote
    }
  }

  // Keeps the entries, without the oldest ones if the browser has no room for all.
  function save(entries) {
    for (let count = Math.min(entries.length, MOST); count >= 0; count -= 1) {
      try {
        localStorage.setItem(KEY, JSON.stringify(entries.slice(0, count)));
        break;
      } catch {} // too much
    }
    document.dispatchEvent(new CustomEvent("desk:texts"));
  }

  // An entry has the sliders as they stood at the end of the text, and everything else as it was at its beginning.
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

  // Shows an entry. A running text is stopped first.
  function recall(entry) {
    if (document.documentElement.dataset.desk !== "running") return show(entry);
    waiting = entry;
    document.querySelector("#stop")?.click();
  }
  desk.texts = { all: load, show: recall };

  document.addEventListener("desk:frame", ({ detail: frame }) => {
    if (frame.recalled || frame.state === "idle") return;
    if (frame.state === "running") {
      if (!begun || !frame.mix.length) begun = now(); // not at the first frame only: a busy browser skips frames
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
        button.append(
          words,
          make(
            "span",
            "by",
            `${new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })} · ${by} · ${desk.say("seed {seed}", { seed: state.seed })}`,
          ),
        );
        button.addEventListener("click", () => {
          sheet.hidePopover();
          recall(entry);
        });
        const item = make("li", "");
        item.append(button);
        return item;
      }),
    );
  }
  sheet.addEventListener("beforetoggle", (event) => event.newState === "open" && draw());
  clear.addEventListener("click", () => {
    save([]);
    draw();
  });
}
