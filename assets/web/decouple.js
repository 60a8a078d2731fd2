// The button Decouple. While it is on, a slider asks for a level of its own score, and the server finds positions of all
// sliders that keep the other scores where the base model has them. It needs measured anchors: `scales` has, for each
// attribute, the scores that the levels -1, 0 and 1 ask for. `changed` is called after a person has pressed the button.
// biome-ignore lint/correctness/noUnusedVariables: part of deck.js
function decoupler(scales, changed) {
  const { make, say } = desk;
  const node = make("button", "decouple", say("Decouple"));
  node.type = "button";
  node.hidden = !scales;
  let on = false;

  function put(pressed) {
    on = Boolean(pressed && scales);
    node.setAttribute("aria-pressed", String(on));
  }

  // A formula that is a weight mix switches the button off, since its numbers are positions. Returns whether it did.
  function follow(tie) {
    const off = on && tie === "mix";
    if (off) put(false);
    node.disabled = tie === "mix";
    node.title = node.disabled
      ? say("The numbers in the formula are the sliders' own positions")
      : say(
          "Calibrated: a slider asks for a level of its own measured score, and the others are held where the base model has them",
        );
    return off;
  }

  // The score that a slider asks for, on the scale of positions, -1 to 1.
  function askedScore(name, position) {
    const asked = Math.max(-1, Math.min(1, position));
    if (!on || !scales[name]) return asked;
    const [least, base, most] = scales[name];
    return 2 * (base + Math.abs(asked) * ((asked < 0 ? least : most) - base)) - 1;
  }

  node.addEventListener("click", () => {
    put(!on);
    changed();
  });
  put(false);
  follow("sliders");
  return { node, put, follow, askedScore, value: () => (on ? { decouple: true } : {}) };
}
