// A question on the page, which can be edited and asked again.

import { copyText } from "./clipboard.js";
import { fit } from "./composer.js";
import { h, icon } from "./dom.js";

export class UserMessage {
  #text;
  #onedit;

  /** `onedit(text)`: it is to be asked anew, in other words or the same. */
  constructor(text, { onedit }) {
    this.#text = text;
    this.#onedit = onedit;
    this.element = h("article", { class: "message user" });
    this.#show();
  }

  #show() {
    const copy = h("button", { type: "button", class: "quiet", "aria-label": "Copy the question", title: "Copy" }, icon("copy"));
    copy.addEventListener("click", () => copyText(this.#text, copy));
    const edit = h(
      "button",
      { type: "button", class: "quiet", "aria-label": "Edit the question", title: "Edit and ask again", onclick: () => this.edit() },
      icon("edit"),
    );
    this.element.replaceChildren(
      h("h2", { class: "visually-hidden" }, "You"),
      h("div", { class: "bubble" }, this.#text),
      h("div", { class: "actions" }, copy, edit),
    );
  }

  /** Opens it to be edited; `text`: other words than it has so far. */
  edit(text = this.#text) {
    const field = h("textarea", { "aria-label": "Question", rows: 1 });
    field.value = text;
    const cancel = h("button", { type: "button", class: "plain", onclick: () => this.#show() }, "Cancel");
    const form = h(
      "form",
      { class: "edit" },
      field,
      h("div", { class: "buttons" }, cancel, h("button", { type: "submit", class: "primary text" }, "Ask again")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) this.#onedit(field.value.trim());
    });
    field.addEventListener("input", () => fit(field));
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        this.#show();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.element.replaceChildren(h("h2", { class: "visually-hidden" }, "You"), form);
    fit(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
