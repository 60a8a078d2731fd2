// Decouple: with it on, a slider asks for a level of its own score, and the server finds the positions of all sliders
// that hold the other scores where the base has them. Only where the anchors were measured: `scales` has, by attribute,
// the scores that levels -1, 0 and 1 ask for. `changed` is called when a hand has switched it.
function decoupler(scales, changed) {
  const { make, say } = desk;
  const node = make("button", "decouple", say("Decouple"));
  node.type = "button";
  node.hidden = !scales;
  let on = false;

  function put(wanted) {
    on = Boolean(wanted && scales);
    node.setAttribute("aria-pressed", String(on));
  }

  // The numbers of a weight mix are positions themselves, so it switches this off. Whether it did.
  function follow(tie) {
    const off = on && tie === "mix";
    if (off) put(false);
    node.disabled = tie === "mix";
    node.title = node.disabled
      ? say("The numbers in the formula are the sliders' own positions")
      : say("Calibrated: a slider asks for a level of its own measured score, and the others are held where the base model has them");
    return off;
  }

  // The score that a slider asks for, as a position from -1 to 1 where the text would be measured.
  function wanted(name, position) {
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
  return { node, put, follow, wanted, value: () => (on ? { decouple: true } : {}) };
}
