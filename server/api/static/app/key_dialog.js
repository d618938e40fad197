// The API key: asked for where the server wants one, changed or forgotten in the settings.

import { byId } from "./dom.js";
import { currentKey, forgetKey, isKeyKept, useKey } from "./store.js";

const ASKED = {
  title: "This server asks for a key",
  text: "It works like a password. Whoever runs this server can give you one.",
};
const REFUSED = {
  title: "That key was not accepted",
  text: "Check that it is complete, with nothing before or after it, or ask whoever runs this server for another one.",
};
const CHANGED = {
  title: "API key",
  text: "It works like a password, and goes along with every question you ask here.",
};

let answer = null; // of the dialog while it is open

/**
 * Whether there is another key than the refused one (null: none); it is used from now on.
 *
 * Two requests can be refused at once: both get the answer of one dialog.
 */
export async function askForKey(refused) {
  if (currentKey() !== refused) return true; // given while the request was on its way
  return ask(currentKey() === null ? ASKED : REFUSED);
}

/** The settings' part: which key is in use, and how to have another one, or none. */
export function initKeySettings() {
  byId("key-change").addEventListener("click", async () => {
    await ask(CHANGED);
  });
  byId("key-forget").addEventListener("click", () => {
    forgetKey();
    describe();
    byId("key-change").focus();
  });
  describe();
}

function describe() {
  const has = currentKey() !== null;
  let words = "None is in use. Most servers on one’s own machine need none.";
  if (has) words = isKeyKept() ? "One is in use, and kept in this browser." : "One is in use until this page is closed or reloaded.";
  byId("key-state").textContent = words;
  byId("key-change").textContent = has ? "Change…" : "Enter a key…";
  byId("key-forget").hidden = !has;
}

function ask(words) {
  answer ??= show(words).finally(() => (answer = null));
  return answer;
}

function show({ title, text }) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  byId("key-title").textContent = title;
  byId("key-reason").textContent = text;
  byId("key-keep").checked = isKeyKept();
  input.value = "";
  // No submit button: the Enter key presses a form's first one.
  byId("key-cancel").onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const key = input.value.trim();
        const given = dialog.returnValue === "use" && key !== "";
        if (given) useKey(key, byId("key-keep").checked);
        input.value = "";
        dialog.returnValue = "";
        describe();
        resolve(given);
      },
      { once: true },
    );
  });
}
