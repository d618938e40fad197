// Not a module: it runs before the page is drawn, so that a chosen theme doesn't flash up late.

(() => {
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("glidecape.theme"));
  } catch {
    // no storage: the system's theme
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
