// A line at the bottom that says what happened and, for a while, lets it be undone.

import { byId, h } from "./dom.js";

const SECONDS = 10;

let timer = null;

function close() {
  clearTimeout(timer);
  byId("toast").hidden = true;
  byId("toast").replaceChildren();
}

/** `onundo` is called at most once; null where there is nothing to undo. */
export function toast(text, onundo = null) {
  const box = byId("toast");
  const undo = () => {
    close();
    onundo();
  };
  const button = onundo && h("button", { type: "button", class: "quiet text", onclick: undo }, "Undo");
  box.replaceChildren(h("span", {}, text), ...(button ? [button] : []));
  box.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(close, SECONDS * 1000);
}
