// Comparison of the two texts: swapped sides, a blind test, and underlines for words that differ. Part of the stage (see
// stage.js, which writes into the panes); follows its frames ("desk:frame").
// biome-ignore lint/correctness/noUnusedVariables: part of stage.js
function twin(root) {
  const KEY = "mixing-desk.twin";
  const PAUSE = 300; // ms between two comparisons while the texts grow
  const MOST = 1000; // words of a text that are compared; the longest texts have fewer
  const { say } = desk;
  const box = root.querySelector(".panes");
  const switches = [...root.querySelectorAll("[data-show]")]; // on a phone; they follow the sides
  const [swap, blind, differences] = root.querySelectorAll(".twin > [aria-pressed]");
  const quiz = root.querySelector(".quiz");
  const verdict = root.querySelector(".verdict");
  const tally = root.querySelector(".tally");
  const chosen = { swap: false, differences: false, ...kept() };
  const segments = window.Intl?.Segmenter && new Intl.Segmenter(undefined, { granularity: "word" });
  const able = Boolean(segments && window.Highlight && CSS.highlights);
  const titles = { base: say("Base"), mix: say("Mix") };
  let shown = "mix"; // on a phone
  let hidden = false; // the names of the texts are hidden
  let fresh = false; // the sides were drawn for a text that has no tokens yet
  let asked = 0; // questions of the blind test
  let right = 0; // right answers
  let timer = null;

  function kept() {
    try {
      return JSON.parse(desk.kept(KEY));
    } catch {
      return {}; // not what this page wrote
    }
  }

  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));

  // Puts the mix on the first or the second side, and names the sides, or calls them A and B. The panes change places in
  // the document, since keyboard and screen reader go through them in that order.
  function arrange(mixFirst) {
    if ((box.firstElementChild.dataset.pane === "mix") !== mixFirst) {
      const body = box.firstElementChild.querySelector(".body");
      const { scrollTop } = body;
      box.append(box.firstElementChild);
      body.scrollTop = scrollTop;
      if (able && chosen.differences) compare(); // a pane that is moved loses its underlines
    }
    if (hidden) shown = box.firstElementChild.dataset.pane;
    root.classList.toggle("blind", hidden);
    root.dataset.show = shown;
    [...box.children].forEach((pane, side) => {
      const key = pane.dataset.pane;
      const name = hidden ? [say("A"), say("B")][side] : titles[key];
      pane.querySelector("h2").textContent = name;
      pane.setAttribute("aria-label", say("{name} text", { name }));
      pane.querySelector(".body").setAttribute("aria-label", say("{name} text, scrollable", { name }));
      switches[side].dataset.show = key;
      switches[side].textContent = name;
      press(switches[side], key === shown);
    });
  }

  for (const button of switches) {
    button.addEventListener("click", () => {
      shown = button.dataset.show;
      root.dataset.show = shown;
      for (const other of switches) press(other, other === button);
    });
  }

  const score = () => (asked ? say("{right} of {asked} right", { right, asked }) : "");

  // One question of the blind test; every new text brings a new one.
  function ask() {
    hidden = true;
    quiz.hidden = false;
    verdict.textContent = score();
    arrange(Math.random() < 0.5);
  }

  function answer(side) {
    const [first, second] = [...box.querySelectorAll(".body")].map((body) => body.textContent);
    if (first === second) {
      verdict.textContent = say("Both texts are the same so far.");
      return;
    }
    const found = box.children[side].dataset.pane === "mix";
    asked += 1;
    right += found;
    hidden = false;
    arrange(box.firstElementChild.dataset.pane === "mix");
    blind.focus(); // the buttons of the quiz disappear
    quiz.hidden = true;
    verdict.textContent = `${found ? say("Yes, that is the mix.") : say("No, that is the base.")} ${score()}`;
  }
  for (const [side, button] of quiz.querySelectorAll("button").entries()) {
    button.addEventListener("click", () => answer(side));
  }

  swap.addEventListener("click", () => {
    chosen.swap = !chosen.swap;
    choose();
    arrange(chosen.swap);
  });
  blind.addEventListener("click", () => {
    press(blind, !pressed(blind));
    swap.disabled = pressed(blind);
    if (pressed(blind)) return ask();
    hidden = false;
    quiz.hidden = true;
    verdict.textContent = "";
    arrange(chosen.swap);
  });

  // The words of a text, without spaces and punctuation. A word may cross the place where the mix was changed, which is
  // between two text nodes.
  function words(body) {
    const nodes = [...body.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.data);
    const ends = [];
    for (const node of nodes) ends.push((ends.at(-1) ?? 0) + node.data.length);
    const place = (at) => {
      const i = ends.findIndex((end) => at <= end);
      return [nodes[i], at - ends[i] + nodes[i].data.length];
    };
    const found = [...segments.segment(nodes.map((node) => node.data).join(""))].filter((part) => part.isWordLike);
    return found
      .slice(0, MOST)
      .map(({ segment, index }) => ({ segment, from: () => place(index), to: () => place(index + segment.length) }));
  }

  function compare() {
    clearTimeout(timer);
    timer = null;
    const [base, mix] = ["base", "mix"].map((key) => words(box.querySelector(`[data-pane=${key}] .body`)));
    const unlike = different(base, mix);
    const marks = unlike.map((word) => {
      const [[startContainer, startOffset], [endContainer, endOffset]] = [word.from(), word.to()];
      return new StaticRange({ startContainer, startOffset, endContainer, endOffset }); // a live Range slows down all writing
    });
    CSS.highlights.set("difference", new Highlight(...marks));
    tally.textContent = say("{n} of {all} words differ", { n: unlike.length, all: base.length + mix.length });
  }

  function choose() {
    desk.kept(KEY, JSON.stringify(chosen));
    press(swap, chosen.swap);
    press(differences, chosen.differences);
  }

  differences.hidden = !able;
  differences.addEventListener("click", () => {
    chosen.differences = !chosen.differences;
    choose();
    if (chosen.differences) return compare();
    clearTimeout(timer);
    timer = null;
    CSS.highlights.delete("difference");
    tally.textContent = "";
  });

  document.addEventListener("desk:frame", ({ detail: frame }) => {
    const begun = frame.state === "running" && !frame.mix.length;
    if (pressed(blind) && (frame.recalled || (begun && !fresh))) ask();
    fresh = begun;
    if (!able || !chosen.differences) return;
    if (frame.state !== "running") compare();
    else timer ??= setTimeout(compare, PAUSE);
  });

  choose();
  arrange(chosen.swap);
}

// The words of both texts that are not in their longest common subsequence.
function different(first, second) {
  const numbers = new Map(); // equal words have equal numbers, which are faster to compare
  function number({ segment }) {
    if (!numbers.has(segment)) numbers.set(segment, numbers.size);
    return numbers.get(segment);
  }
  const [a, b] = [first.map(number), second.map(number)];
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width); // length of that subsequence after word i and word j
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      longest[at] = a[i] === b[j] ? longest[at + width + 1] + 1 : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) [i, j] = [i + 1, j + 1];
    else if (j === b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1]))
      found.push(first[i++]);
    else found.push(second[j++]);
  }
  return found;
}
