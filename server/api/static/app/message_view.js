// Messages on the page. An answer's view draws what an `Answer`, or what was kept of one, says.

import { figures } from "./answer.js";
import { curl, python } from "./as_code.js";
import { copyText } from "./clipboard.js";
import { duration, h, icon, percent } from "./dom.js";
import { Menu } from "./menu.js";
import { render } from "./markdown.js";
import { currentKey } from "./store.js";
import { Strip } from "./strip.js";
import { tint } from "./tint.js";
import { stepPanel } from "./tree.js";
import { VerdictView } from "./verdict_view.js";

const REDRAW_MS = 80; // the browser's work takes cores from a server on the same machine

/** One answer: text, figures, strip, and the step that is open. */
export class AnswerView {
  #timer = null;
  #data = { text: "", steps: [], decodeSeconds: 0, firstTokenSeconds: null };

  /** `scale`: of another view's strip, so that both strips count time alike. */
  constructor({ title = "", scale = null } = {}) {
    this.thinking = h("pre", {});
    this.thoughts = h("details", { class: "thoughts", hidden: true }, h("summary", {}, "Thinking"), this.thinking);
    this.body = h("div", { class: "answer" });
    this.figures = h("dl", { class: "figures" });
    this.notice = h("p", { class: "notice", hidden: true });
    this.panel = h("div", { class: "panel" });
    this.strip = new Strip((index) => this.#open(index), scale);
    this.strip.element.hidden = true;
    this.element = h(
      "div",
      { class: "answer-column" },
      title ? h("h3", {}, title) : null,
      this.thoughts,
      this.body,
      this.notice,
      this.figures,
      this.strip.element,
      this.panel,
    );
    this.body.addEventListener("click", (event) => {
      const token = event.target.closest(".token[data-step]");
      if (token && getSelection().isCollapsed) this.strip.toggle(Number(token.dataset.step));
    });
  }

  /** Draws soon; many calls in a row draw once. */
  update(data) {
    this.#data = data;
    this.#timer ??= setTimeout(() => this.#draw(), REDRAW_MS);
  }

  /** Draws now. */
  show(data) {
    this.#data = data;
    this.#draw();
  }

  busy(isBusy) {
    this.body.classList.toggle("busy", isBusy);
    this.body.setAttribute("aria-busy", String(isBusy));
  }

  say(text, isBroken = false) {
    this.notice.textContent = text;
    this.notice.hidden = text === "";
    this.notice.classList.toggle("broken", isBroken);
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const { text, thinking = "", steps = [] } = this.#data;
    this.thoughts.hidden = thinking === "";
    if (this.thinking.textContent !== thinking) this.thinking.textContent = thinking;
    const fragment = render(text);
    tint(fragment, text, steps);
    this.body.replaceChildren(fragment);
    this.strip.element.hidden = steps.length === 0;
    this.strip.update(steps);
    this.#drawFigures();
  }

  #drawFigures() {
    const now = figures(this.#data);
    const shown = [
      ["tokens", now.tokens || null],
      ["tokens/s", now.tokensPerSecond?.toFixed(1)],
      ["tokens/step", now.tokensPerStep?.toFixed(2)],
      ["of drafted accepted", now.acceptance === null ? null : percent(now.acceptance)],
      ["to first token", now.firstTokenSeconds === null ? null : duration(now.firstTokenSeconds)],
    ];
    this.figures.replaceChildren(
      ...shown
        .filter(([, value]) => value !== null && value !== undefined)
        .map(([name, value]) =>
          h("div", { data: { figure: name } }, h("dt", {}, name), h("dd", {}, String(value))),
        ),
    );
  }

  #open(index) {
    const step = this.#data.steps?.[index];
    const close = () => {
      this.strip.select(-1);
      this.strip.element.focus();
    };
    this.panel.replaceChildren(...(step ? [stepPanel(step, index, close)] : []));
    for (const token of this.body.querySelectorAll(".token")) {
      token.classList.toggle("open", index >= 0 && Number(token.dataset.step) === index);
    }
  }
}

/** The assistant's article: one column or two, and what can be done with the answer. */
export class AnswerMessage {
  #text = "";

  /** `request()`: what was asked, as the API takes it. */
  constructor({ onregenerate, oncompare, request }) {
    this.main = new AnswerView();
    this.columns = h("div", { class: "columns" }, this.main.element);
    this.verdict = new VerdictView();
    this.actions = this.#actions(onregenerate, oncompare, request);
    this.element = h(
      "article",
      { class: "message assistant" },
      h("h2", { class: "visually-hidden" }, "Answer"),
      this.verdict.element,
      this.columns,
      this.actions,
    );
  }

  #actions(onregenerate, oncompare, request) {
    const copy = h("button", { type: "button", class: "quiet", "aria-label": "Copy the answer", title: "Copy" }, icon("copy"));
    copy.addEventListener("click", () => copyText(this.#text, copy));
    const again = h(
      "button",
      { type: "button", class: "quiet", "aria-label": "Answer again", title: "Answer again", onclick: onregenerate },
      icon("again"),
    );
    const compare = h(
      "button",
      { type: "button", class: "plain compare", onclick: oncompare },
      icon("compare"), h("span", {}, "Compare", h("span", { class: "wide" }, " with speculation off")),
    );
    const menu = new Menu("Use in code", icon("code"), [
      ["Copy as curl", (button) => copyText(asCode(curl, request()), button)],
      ["Copy as Python", (button) => copyText(asCode(python, request()), button)],
    ]);
    return h("div", { class: "actions", hidden: true }, copy, again, menu.element, compare);
  }

  /** What is kept of an answer that has ended. */
  show(message) {
    this.#text = message.content;
    this.main.show({ ...message, text: message.content });
    this.main.say(message.notice ?? "", message.isBroken);
    this.actions.hidden = false;
  }

  /** A second column for the replay. */
  addColumn() {
    this.removeColumn();
    this.main.element.prepend(h("h3", {}, "With speculation"));
    this.plain = new AnswerView({ title: "Without speculation", scale: this.main.strip.scale });
    this.columns.append(this.plain.element);
    this.element.classList.add("compared");
    return this.plain;
  }

  removeColumn() {
    this.plain?.element.remove();
    this.main.element.querySelector("h3")?.remove();
    this.element.classList.remove("compared");
    this.verdict.hide();
  }
}

/** The request for other programs: without what only this page has a use for. */
function asCode(form, { speculation, ...fields }) {
  const { steps, ...wanted } = speculation ?? {};
  const body = { ...fields, ...(Object.keys(wanted).length ? { speculation: wanted } : {}) };
  const baseUrl = new URL("v1", new URL(".", location.href)).href;
  return form({ baseUrl, url: `${baseUrl}/chat/completions`, body, needsKey: currentKey() !== null });
}
