// The formula box: a text area whose text the server checks while a person types, and its tie to the deck.
// Its value is {text, typed}; `typed` is true from a keystroke until the sliders have followed it. The box sends what a
// formula asks of the sliders ("desk:formula"), receives where a person put them ("desk:steer"), and the tools put a text
// into it ("desk:put"). The server alone reads formulas and rewrites their numbers: see mixer/ui/controls/formula_box.py.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element, _trigger, props, _watch, server) {
  const { make, say } = desk;
  const PAUSE = 150; // ms without a keystroke before the text is checked
  const TIES = {
    mix: say("The sliders stand where this says, and moving them rewrites it."),
    sliders: say("The sliders act wherever the formula says sliders."),
    none: "",
  };
  const LATER = say("Takes effect when you press Generate.");
  const root = element.querySelector(".formula");
  const box = root.querySelector("textarea");
  const [place, sentence] = root.querySelectorAll(".fault > *");
  const fault = root.querySelector(".fault");
  const status = root.querySelector("[role=status]");
  const note = root.querySelector(".note");
  const alert = root.querySelector("[role=alert]");
  const rows = root.querySelectorAll("[role=toolbar]");
  let written = ""; // what a person wrote last; every rewriting starts from it, so that its words and layout stay
  let edition = 0; // counts the texts that a person wrote
  let seq = 0; // counts the questions to the server
  let shown = 0; // the newest question whose answer is shown
  let valid = true;
  let tie = null; // of the last valid formula, which stays in force
  let timer = null;
  let asking = false;
  let waiting = null; // the next question, while the answer to one is awaited
  let composing = false; // an input method is at work
  let known = null; // the last answer for a valid text
  let writing = null; // title of the formula that the running text is written by

  function keep(typed) {
    props.value = { text: box.value, typed };
  }

  async function ask(question) {
    if (asking) {
      waiting = question;
      return;
    }
    asking = true;
    const asked = edition;
    const answer = await server.look({ seq: ++seq, text: written, ...question });
    asking = false;
    if (asked === edition) {
      if (!answer) {
        note.textContent = say("The server did not answer, so this formula is not checked yet.");
      } else if (answer.seq > shown) {
        shown = answer.seq;
        take(answer, question.positions !== undefined);
      }
    }
    if (waiting) {
      const next = waiting;
      waiting = null;
      ask(next);
    }
  }

  // Shows an answer about the current text. `moved`: the sliders asked, and not the keyboard.
  function take(answer, moved) {
    valid = !answer.error;
    if (answer.error) return refuse(answer.error);
    box.removeAttribute("aria-invalid");
    fault.hidden = true;
    sentence.replaceChildren(); // a screen reader reads a description even where it is hidden
    known = answer;
    tie = answer.tie;
    tell();
    remark();
    if (moved && answer.text !== box.value && !composing) {
      const { selectionStart, selectionEnd, scrollTop } = box;
      box.value = answer.text;
      box.setSelectionRange(selectionStart, selectionEnd);
      box.scrollTop = scrollTop;
    }
    keep(false);
    const positions = moved ? null : answer.positions;
    document.dispatchEvent(new CustomEvent("desk:formula", { detail: { tie, positions, title: answer.title } }));
  }

  // Shows the wrong line with carets under the wrong place, and the sentence. An invisible copy of what is before the
  // place stands before the carets, so that they are in place whatever the widths of the letters.
  function refuse(error) {
    const before = make("span", "ghost", error.before);
    place.replaceChildren(
      error.before + error.place + error.after,
      "\n",
      before,
      make("b", "", "^".repeat([...error.place].length || 1)),
    );
    sentence.replaceChildren(
      make("span", "sr-only", `${error.where}: `),
      `${error.message} `,
      make("span", "hint", error.hint),
    );
    status.textContent = "";
    note.textContent = "";
    fault.hidden = false;
    box.setAttribute("aria-invalid", "true");
    place.scrollLeft = Math.max(0, before.offsetWidth - place.clientWidth / 2);
  }

  // Shows S and the exponents. Of a weight mix only S: a screen reader would read its one term at every move.
  function tell() {
    const sum = make("b", "weight", known.weight);
    sum.title = "S: the sum of the weights, by which the whole formula is divided";
    const parts =
      known.tie === "mix"
        ? []
        : known.summands.map(({ text, exponent }) => {
            const part = make("span", "summand", text);
            part.title = exponent
              ? say("{text} counts with the exponent {exponent}: its factor divided by S", { text, exponent })
              : text;
            part.append(make("sup", "", exponent));
            return part;
          });
    const line = make("p", "");
    line.append(...[sum, ...parts].flatMap((node) => [node, " "]));
    if (line.textContent !== status.textContent) status.replaceChildren(...line.childNodes);
  }

  // Shows what else to know of a valid formula: that the running text is written by another one, warnings, its paper.
  function remark() {
    const credit = props.credits.find(([text]) => text === known.text);
    const later = writing !== null && writing !== known.title;
    const warnings = [...(later ? [LATER] : []), ...known.warnings];
    note.replaceChildren(...warnings.map((text) => make("span", "warning", text)));
    if (credit) note.append(credit[1]);
    else if (!warnings.length) note.textContent = TIES[known.tie];
  }

  box.addEventListener("input", () => {
    edition += 1;
    waiting = null; // the sliders' question was about another text
    written = box.value;
    alert.textContent = "";
    keep(true);
    clearTimeout(timer);
    timer = setTimeout(() => ask({}), PAUSE);
  });
  for (const [name, begun] of [
    ["compositionstart", true],
    ["compositionend", false],
  ]) {
    box.addEventListener(name, () => {
      composing = begun;
    });
  }
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      document.querySelector("#generate")?.click();
    }
  });

  document.addEventListener("desk:put", (event) => {
    const { formula } = event.detail;
    if (formula === box.value) return;
    edition += 1;
    waiting = null;
    clearTimeout(timer);
    written = formula;
    box.value = formula;
    alert.textContent = "";
    keep(false);
    ask({});
  });

  document.addEventListener("desk:steer", (event) => {
    const { positions, hand } = event.detail;
    if (hand && tie === "mix" && valid && !props.value.typed && !composing) ask({ positions });
  });
  document.addEventListener("desk:frame", (event) => {
    const { fault: found, state, formula } = event.detail;
    const former = writing;
    writing = state === "running" ? formula : null;
    if (writing !== former && valid && known) remark();
    if (state !== "error") alert.textContent = "";
    if (!found || found.text !== box.value) return;
    clearTimeout(timer); // an error that was found while the text was written stays until the formula changes
    edition += 1;
    valid = false;
    refuse(found);
    alert.textContent = `${found.where}: ${found.message} ${found.hint}`;
    root.scrollIntoView({ block: "nearest" });
  });

  // Replaces the selection as typing does, so that undo brings it back.
  function type(text) {
    box.focus();
    if (!document.execCommand("insertText", false, text)) {
      box.setRangeText(text, box.selectionStart, box.selectionEnd, "end");
      box.dispatchEvent(new Event("input"));
    }
  }

  // Inserts a name at the cursor, after a plus if a term stands before it. A function encloses the selection, and the
  // cursor stays inside.
  function insert({ text, before, after }) {
    const start = box.selectionStart;
    const selected = box.value.slice(start, box.selectionEnd);
    const glue = /[\w\])"'>]\s*$/.test(box.value.slice(0, start)) ? " + " : "";
    type(after === undefined ? glue + text : glue + before + selected + after);
    if (after !== undefined) {
      const inside = start + glue.length + before.length + selected.length;
      box.setSelectionRange(inside, inside);
    }
  }

  // A row of names is one stop for the keyboard; arrow keys go through it.
  for (const row of rows) {
    const chips = props.names
      .filter((name) => (name.kind === "function") === (row.dataset.row === "functions"))
      .map((name) => {
        const chip = make("button", `chip ${name.kind}`, name.text);
        chip.type = "button";
        chip.title = name.title;
        chip.tabIndex = -1;
        chip.addEventListener("click", () => insert(name));
        return chip;
      });
    chips[0].tabIndex = 0;
    row.append(...chips);
    row.addEventListener("keydown", (event) => {
      const here = chips.indexOf(document.activeElement);
      const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: chips.length - 1 }[event.key];
      if (!chips[next]) return;
      event.preventDefault();
      chips[here].tabIndex = -1;
      chips[next].tabIndex = 0;
      chips[next].focus();
    });
    row.addEventListener(
      "wheel",
      (event) => {
        const former = row.scrollLeft;
        row.scrollLeft += event.deltaX || event.deltaY;
        if (row.scrollLeft !== former) event.preventDefault();
      },
      { passive: false },
    );
  }

  written = props.value.text;
  box.value = written;
  box.setSelectionRange(written.length, written.length);
  take(props.start, false);
}
