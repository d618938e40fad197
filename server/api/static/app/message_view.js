// Messages on the page. An answer's view draws what an `Answer`, or what was kept of one, says.

import { figures } from "./answer.js";
import { copyText } from "./clipboard.js";
import { duration, h, icon, percent } from "./dom.js";
import { render } from "./markdown.js";
import { Strip } from "./strip.js";
import { tint } from "./tint.js";
import { stepPanel } from "./tree.js";

const REDRAW_MS = 80; // the browser's work takes cores from a server on the same machine

export function userMessage(text) {
  return h(
    "article",
    { class: "message user" },
    h("h2", { class: "visually-hidden" }, "You"),
    h("div", { class: "bubble" }, text),
  );
}

/** One answer: text, figures, strip, and the step that is open. */
export class AnswerView {
  #timer = null;
  #data = { text: "", steps: [], decodeSeconds: 0, firstTokenSeconds: null };

  constructor({ title = "" } = {}) {
    this.body = h("div", { class: "answer" });
    this.figures = h("dl", { class: "figures" });
    this.notice = h("p", { class: "notice", hidden: true });
    this.panel = h("div", { class: "panel" });
    this.strip = new Strip((index) => this.#open(index));
    this.strip.element.hidden = true;
    this.element = h(
      "div",
      { class: "answer-column" },
      title ? h("h3", {}, title) : null,
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

  say(text) {
    this.notice.textContent = text;
    this.notice.hidden = text === "";
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const { text, steps = [] } = this.#data;
    const fragment = render(text);
    tint(fragment, text, steps);
    this.body.replaceChildren(fragment);
    this.strip.element.hidden = steps.length === 0;
    this.strip.update(steps);
    this.#drawFigures();
  }

  #drawFigures() {
    const now = figures({ steps: [], ...this.#data });
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
  constructor({ onregenerate, oncompare }) {
    this.main = new AnswerView();
    this.columns = h("div", { class: "columns" }, this.main.element);
    this.verdict = h("p", { class: "verdict", hidden: true });
    const action = (label, name, onclick) =>
      h("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick }, icon(name));
    const copy = action("Copy the answer", "copy", () => copyText(this.text, copy));
    const compare = action("Replay without speculation", "compare", oncompare);
    const again = action("Answer again", "again", onregenerate);
    this.actions = h("div", { class: "actions", hidden: true }, copy, compare, again);
    this.text = "";
    this.element = h(
      "article",
      { class: "message assistant" },
      h("h2", { class: "visually-hidden" }, "Answer"),
      this.verdict,
      this.columns,
      this.actions,
    );
  }

  /** A second column for the replay. */
  addColumn() {
    this.plain?.element.remove();
    this.main.element.querySelector("h3")?.remove();
    this.main.element.prepend(h("h3", {}, "With speculation"));
    this.plain = new AnswerView({ title: "Without speculation" });
    this.columns.append(this.plain.element);
    this.element.classList.add("compared");
    return this.plain;
  }

  /** Says what the comparison shows. */
  compare(main, plain) {
    const same = main.text === plain.text;
    const clocks = `${duration(main.decodeSeconds)} against ${duration(plain.decodeSeconds)} from first to last token`;
    const ratio = plain.decodeSeconds / main.decodeSeconds;
    this.verdict.replaceChildren(
      h("strong", { class: "ratio" }, Number.isFinite(ratio) ? `${ratio.toFixed(2)}×` : "–"),
      h("span", {}, clocks),
      h("span", { class: same ? "same" : "different" }, same ? "equal text" : "the texts differ"),
    );
    this.verdict.dataset.same = String(same);
    this.verdict.hidden = false;
  }
}
