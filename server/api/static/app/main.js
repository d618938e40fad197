// Puts the page together.

import { ApiError, servedModel } from "./api.js";
import { Chat } from "./chat.js";
import { byId } from "./dom.js";
import { askForKey } from "./key_dialog.js";
import { initSettings } from "./settings.js";
import { Status } from "./status.js";
import { load, save } from "./store.js";

const WIDE = matchMedia("(min-width: 1000px)");

initSettings();
const chat = new Chat();
const status = new Status();

function initSwitch(id, name, fallback, onchange) {
  const input = byId(id);
  input.checked = load(name, fallback);
  input.addEventListener("change", () => {
    save(name, input.checked);
    onchange(input.checked);
  });
  onchange(input.checked);
}

function showView() {
  const isStatus = location.hash === "#status";
  byId("view-chat").hidden = isStatus;
  byId("view-status").hidden = !isStatus;
  document.body.classList.toggle("shows-status", isStatus);
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash === (isStatus ? "#status" : "#chat");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (isStatus && !document.hidden) status.start();
  else status.stop();
  if (!isStatus) byId("composer-text").focus({ preventScroll: true });
}

function openSettings(isOpen) {
  document.body.classList.toggle("settings-open", isOpen);
  byId("settings").hidden = !isOpen;
  byId("settings-toggle").setAttribute("aria-expanded", String(isOpen));
}

function toggleSettings() {
  const isOpen = byId("settings").hidden;
  openSettings(isOpen);
  if (WIDE.matches) save("settings-open", isOpen);
  (isOpen ? byId("set-system") : byId("settings-toggle")).focus();
}

function nextTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  save("theme", root.dataset.theme);
  status.redraw();
}

function onKey(event) {
  const isTyping = event.target.closest("input, textarea, select, [role=slider]");
  if (event.key === "Escape") {
    if (!byId("settings").hidden && !WIDE.matches) toggleSettings();
    else chat.stop();
  } else if (event.key === "," && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    toggleSettings();
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("composer-text").focus();
  }
}

/** The model's name; asks for the key where one is needed. */
async function showModel() {
  try {
    byId("model").textContent = await servedModel();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 && (await askForKey(error.message))) await showModel();
  }
}

initSwitch("tint", "tint", true, (isOn) => document.body.classList.toggle("tinted", isOn));
initSwitch("compare", "compare", false, () => {});
openSettings(WIDE.matches && load("settings-open", true));
byId("settings-toggle").addEventListener("click", toggleSettings);
byId("settings-close").addEventListener("click", toggleSettings);
byId("theme").addEventListener("click", nextTheme);
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => {
    byId("composer-text").value = example.textContent.trim();
    byId("composer").requestSubmit();
  });
}
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", showView);
addEventListener("hashchange", showView);
showView();
await showModel();
