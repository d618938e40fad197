// A button that opens a short list of actions.

import { h } from "./dom.js";

export class Menu {
  /** `actions`: [[words, onclick(button)]]. */
  constructor(label, picture, actions) {
    this.summary = h("summary", { class: "quiet text", title: label }, picture, h("span", {}, label));
    const items = actions.map(([words, onclick]) => {
      const button = h("button", { type: "button" }, words);
      button.addEventListener("click", () => onclick(button));
      return h("li", {}, button);
    });
    this.element = h("details", { class: "menu" }, this.summary, h("ul", {}, ...items));
    const leave = (target) => {
      if (target && !this.element.contains(target)) this.element.open = false;
    };
    this.element.addEventListener("focusout", (event) => leave(event.relatedTarget));
    document.addEventListener("pointerdown", (event) => leave(event.target));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.element.open) return;
      event.stopPropagation();
      this.element.open = false;
      this.summary.focus();
    });
  }
}
