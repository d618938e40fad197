// A panel at the page's side: beside the chat where the page is wide, over it (a drawer) where not.

import { byId } from "./dom.js";
import { load, save } from "./store.js";

const WIDE = matchMedia("(min-width: 1000px)");

export class Panel {
  #name;
  #first;

  /** `name`: the element's id; that of its buttons are `name-toggle`, `name-close`. `isOpen`: at the
   * first visit of a wide page. `first`: id of what gets the focus when it is opened. */
  constructor(name, { isOpen, first }) {
    this.#name = name;
    this.#first = first;
    this.element = byId(name);
    byId(`${name}-toggle`).addEventListener("click", () => this.toggle());
    byId(`${name}-close`).addEventListener("click", () => this.toggle());
    this.#show(WIDE.matches && load(`${name}-open`, isOpen));
  }

  /** Whether it is open and lies over the page. */
  get isDrawer() {
    return !this.element.hidden && !WIDE.matches;
  }

  toggle() {
    const isOpen = this.element.hidden;
    this.#show(isOpen);
    if (WIDE.matches) save(`${this.#name}-open`, isOpen);
    byId(isOpen ? this.#first : `${this.#name}-toggle`).focus();
  }

  #show(isOpen) {
    this.element.hidden = !isOpen;
    byId(`${this.#name}-toggle`).setAttribute("aria-expanded", String(isOpen));
  }
}
