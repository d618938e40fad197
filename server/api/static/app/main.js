// Puts the page together.

import { ApiError, servedModel } from "./api.js";
import { Chat } from "./chat.js";
import { ConversationList } from "./conversation_list.js";
import { byId } from "./dom.js";
import { askForKey, initKeySettings } from "./key_dialog.js";
import { Panel } from "./panel.js";
import { initSettings } from "./settings.js";
import { Status } from "./status.js";
import { currentKey, load, save } from "./store.js";

initSettings();
initKeySettings();
const chat = new Chat();
const list = new ConversationList(chat);
const status = new Status();
const settings = new Panel("settings", { isOpen: false, first: "set-system" });
const conversations = new Panel("conversations", { isOpen: true, first: "new-conversation" });

function initTint() {
  const input = byId("tint");
  const show = () => document.body.classList.toggle("tinted", input.checked);
  input.checked = load("tint", true);
  input.addEventListener("change", () => {
    save("tint", input.checked);
    show();
  });
  show();
}

function showView() {
  const isStatus = location.hash === "#status";
  byId("view-chat").hidden = isStatus;
  byId("view-status").hidden = !isStatus;
  document.body.classList.toggle("shows-status", isStatus);
  for (const link of document.querySelectorAll(".top nav a")) {
    const isHere = link.hash === (isStatus ? "#status" : "#chat");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (isStatus && !document.hidden) status.start();
  else status.stop();
  if (!isStatus) byId("composer-text").focus({ preventScroll: true });
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
    const open = [settings, conversations].find((panel) => panel.isDrawer);
    if (open) open.toggle();
    else chat.stop();
  } else if (event.key === "," && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    settings.toggle();
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("composer-text").focus();
  }
}

/** The model's name; asks for the key where one is needed. */
async function showModel() {
  const key = currentKey();
  try {
    byId("model").textContent = await servedModel();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401 && (await askForKey(key))) await showModel();
  }
}

initTint();
byId("theme").addEventListener("click", nextTheme);
byId("new-chat").addEventListener("click", () => chat.clear());
byId("new-conversation").addEventListener("click", () => {
  if (conversations.isDrawer) conversations.toggle();
  chat.clear();
});
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => chat.ask(example.textContent.trim()));
}
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", showView);
addEventListener("hashchange", showView);
showView();
await chat.restore();
await list.refresh();
await showModel();
