// A line at the bottom that says what happened and, for a while, lets it be undone.

import { byId, h } from "./dom.js";

const SECONDS = 10;

let timer = null;

function close() {
  clearTimeout(timer);
  byId("toast").hidden = true;
  byId("toast").replaceChildren();
}

/** `onundo` is called at most once. */
export function toast(text, onundo) {
  const box = byId("toast");
  const undo = h("button", { type: "button", class: "quiet text" }, "Undo");
  undo.addEventListener("click", () => {
    close();
    onundo();
  });
  box.replaceChildren(h("span", {}, text), undo);
  box.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(close, SECONDS * 1000);
}
