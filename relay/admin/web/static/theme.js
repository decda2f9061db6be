// Runs before anything is drawn: the theme that was chosen, else what the system says.
"use strict";
(() => {
  let chosen = "";
  try { chosen = localStorage.getItem("relay-theme") || ""; } catch { /* storage may be forbidden */ }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
