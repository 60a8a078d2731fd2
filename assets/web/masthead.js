// The page's title line: what runs here, and the language. Another one begins the page anew, in the same state.
function mount(element) {
  const menu = element.querySelector(".language");
  menu.value = desk.language;
  menu.addEventListener("change", async () => {
    desk.speak(menu.value);
    location.assign(await desk.link());
  });
}
