// The shelf's tabs: arrow keys move among them, a press opens a panel, a second press closes it. The name of the open
// panel is in the document's data-shelf, and is kept in the browser; the event "desk:shelf" follows every change.
// biome-ignore lint/correctness/noUnusedVariables: mixer/ui/web.py calls it
function mount(element) {
  const KEY = "mixing-desk.shelf";
  const page = document.documentElement;
  const tabs = [...element.querySelectorAll("[role=tab]")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

  function open(name) {
    const chosen = tabs.find((tab) => tab.dataset.panel === name);
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === (chosen || tabs[0]) ? 0 : -1;
      panel(tab)?.classList.toggle("open", tab === chosen);
    }
    page.dataset.shelf = chosen ? name : "";
    desk.kept(KEY, page.dataset.shelf);
    document.dispatchEvent(new CustomEvent("desk:shelf", { detail: { panel: page.dataset.shelf } }));
  }

  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => open(page.dataset.shelf === tab.dataset.panel ? "" : tab.dataset.panel));
    tab.addEventListener("keydown", (event) => {
      const forward = page.dir === "rtl" ? -1 : 1;
      const step = { ArrowRight: forward, ArrowLeft: -forward }[event.key];
      const next =
        event.key === "Home"
          ? 0
          : event.key === "End"
            ? tabs.length - 1
            : step && (index + step + tabs.length) % tabs.length;
      if (next === undefined) return;
      event.preventDefault();
      tabs[next].focus();
      open(tabs[next].dataset.panel);
    });
  });

  async function begin() {
    while (!tabs.every(panel)) await new Promise((done) => setTimeout(done, 20)); // Gradio mounts them one by one
    for (const tab of tabs) {
      panel(tab).setAttribute("role", "tabpanel");
      panel(tab).setAttribute("aria-labelledby", tab.id);
    }
    open(desk.kept(KEY) || "");
  }
  begin();
}
