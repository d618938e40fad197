// Where questions are written.

import { byId } from "./dom.js";

const HIGHEST = 220; // pixels; from there on it scrolls

export class Composer {
  #isBusy = false;

  /** `onsend(text)`, `onstop()`, `onlast()`: the last question, for the arrow key. */
  constructor({ onsend, onstop, onlast }) {
    this.input = byId("composer-text");
    this.button = byId("send");
    const send = () => {
      const text = this.input.value.trim();
      if (text && !this.#isBusy) onsend(text);
    };
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#isBusy) onstop();
      else send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      } else if (event.key === "ArrowUp" && this.input.value === "") {
        this.write(onlast() ?? "");
      }
    });
    this.input.addEventListener("input", () => fit(this.input));
  }

  write(text) {
    this.input.value = text;
    fit(this.input);
  }

  /** Gives a question back, unless another one is being written. */
  giveBack(text) {
    this.write(this.input.value || text);
    this.focus();
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  busy(isBusy) {
    this.#isBusy = isBusy;
    this.button.classList.toggle("stops", isBusy);
    this.button.setAttribute("aria-label", isBusy ? "Stop" : "Send");
    this.button.title = isBusy ? "Stop" : "Send";
  }
}

/** Makes a field as high as its text. */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, HIGHEST)}px`;
}
