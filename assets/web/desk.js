// What all scripts of the page share, as `window.desk`. Runs in the page's head, before anything is drawn. The catalogs
// map English texts to translations (see mixer/ui/translations.py).
(() => {
  const KEY = "mixing-desk.language";
  const RIGHT_TO_LEFT = ["he"];
  const catalogs = JSON.parse(document.querySelector("#desk-words").textContent);

  // Reads what this browser has kept under a name, or keeps a value.
  const kept = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  const chosen = kept(KEY) || navigator.language || "";
  const language = chosen.split("-")[0] in catalogs ? chosen.split("-")[0] : "en";
  const words = catalogs[language] || {};
  document.documentElement.lang = language;
  document.documentElement.dir = RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";

  // A text in the chosen language, or in English if it has no translation. `{name}` is replaced by the value of `name`.
  const say = (text, values = {}) => (words[text] || text).replace(/\{(\w+)\}/g, (part, name) => values[name] ?? part);

  const make = (tag, className = "", text) => {
    const node = document.createElement(tag);
    node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Translates what the server wrote: templates, and Gradio's own labels.
  function localize(root) {
    if (language === "en") return;
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { data } = texts.currentNode;
      const plain = data.replace(/\s+/g, " ").trim();
      if (words[plain]) texts.currentNode.data = data.replace(data.trim(), () => words[plain]);
    }
    for (const name of ["aria-label", "title", "placeholder"]) {
      for (const node of root.querySelectorAll(`[${name}]`)) {
        const plain = node.getAttribute(name).replace(/\s+/g, " ");
        if (words[plain]) node.setAttribute(name, words[plain]);
      }
    }
  }

  const speak = (code) => kept(KEY, code); // from the next visit on
  window.desk = { say, make, localize, kept, language, speak, languages: ["en", ...Object.keys(catalogs)] };
})();
