// Asks for the API key.

import { byId } from "./dom.js";
import { keepKey } from "./store.js";

/** Whether a key was given; it is kept. `reason`: the server's message. */
export function askForKey(reason) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  byId("key-reason").textContent = reason;
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
        if (given) keepKey(key, byId("key-remember").checked);
        input.value = "";
        dialog.returnValue = "";
        resolve(given);
      },
      { once: true },
    );
  });
}
