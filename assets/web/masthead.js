// The page's title line: what runs here, and the language. Another language loads the page again, in the same state.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element) {
  const menu = element.querySelector(".language");
  menu.value = desk.language;
  menu.addEventListener("change", async () => {
    desk.speak(menu.value);
    location.assign(await desk.link());
  });
}
