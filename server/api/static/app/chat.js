// The conversation: sends, streams, stops, replays, keeps.

import { Answer } from "./answer.js";
import { ApiError, streamChat } from "./api.js";
import { byId, h } from "./dom.js";
import { askForKey } from "./key_dialog.js";
import { AnswerMessage, userMessage } from "./message_view.js";
import { markInvalid, requestFields, systemPrompt } from "./settings.js";
import { load, save, saveConversation } from "./store.js";

const NEAR_END = 80; // pixels from the end, within which the page follows the answer

export class Chat {
  #messages = load("conversation", []);
  #running = null; // the AbortController of what is streaming

  constructor() {
    this.log = byId("messages");
    this.input = byId("composer-text");
    this.compares = byId("compare");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.stop();
      else this.#submit();
    });
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("input", () => this.#fit());
    byId("new-chat").addEventListener("click", () => this.clear());
    this.#messages.forEach((message, index) => this.#showKept(message, index));
    this.#showEmpty();
    this.#scroll(true);
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#messages = [];
    this.log.replaceChildren();
    save("conversation", null);
    this.#showEmpty();
    this.#error("");
    this.input.focus();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.#running) this.#submit();
    } else if (event.key === "ArrowUp" && this.input.value === "") {
      const last = this.#messages.findLast(({ role }) => role === "user");
      if (last) this.input.value = last.content;
      this.#fit();
    }
  }

  async #submit() {
    const content = this.input.value.trim();
    if (!content || this.#running) return;
    this.input.value = "";
    this.#fit();
    this.#messages.push({ role: "user", content });
    this.log.append(userMessage(content));
    this.#showEmpty();
    this.#keep();
    await this.#answer();
  }

  /** Answers the conversation as it stands. */
  async #answer() {
    const fields = requestFields();
    const kept = { role: "assistant", content: "", request: fields };
    const history = this.#history(this.#messages.length);
    const index = this.#messages.push(kept) - 1;
    const view = this.#view(index);
    this.log.append(view.element);
    const answer = await this.#stream({ ...fields, messages: history }, view.main);
    if (answer === null) return this.#takeBack(index, view);
    this.#keepAnswer(kept, answer);
    view.text = answer.text;
    view.actions.hidden = false;
    if (this.compares.checked && answer.finishReason) await this.#compare(index, view);
  }

  #history(end) {
    const system = systemPrompt();
    const before = this.#messages.slice(0, end).map(({ role, content }) => ({ role, content }));
    return system ? [{ role: "system", content: system }, ...before] : before;
  }

  #view(index) {
    const view = new AnswerMessage({
      onregenerate: () => this.#regenerate(index),
      oncompare: () => this.#compare(index, view),
    });
    return view;
  }

  /** The answer, complete or stopped; null where nothing came of it, and the error is shown. */
  async #stream(body, view) {
    const controller = new AbortController();
    this.#run(controller);
    view.busy(true);
    let answer = new Answer();
    try {
      for (;;) {
        try {
          for await (const chunk of streamChat(body, controller.signal)) {
            answer.add(chunk);
            view.update(answer);
            this.#scroll();
          }
          break;
        } catch (error) {
          if (error.status !== 401 || !(await askForKey(error.message))) throw error;
          answer = new Answer(); // its clock starts now
        }
      }
      if (answer.finishReason === "length") view.say("Stopped at the longest length that was allowed.");
    } catch (error) {
      if (!this.#explain(error, view) && !answer.text) answer = null;
    } finally {
      this.#run(null);
      view.busy(false);
    }
    if (answer) view.show(answer);
    this.#scroll();
    if (answer) byId("announce").textContent = `Answer complete. ${answer.text}`;
    return answer;
  }

  /** Whether it was the user who stopped it; anything else is an error. */
  #explain(error, view) {
    if (error.name === "AbortError") {
      view.say("Stopped.");
      return true;
    }
    if (!(error instanceof ApiError)) console.error(error);
    this.#error(error.message);
    markInvalid(error.param);
    return false;
  }

  /** The question goes back into the composer. */
  #takeBack(index, view) {
    view.element.remove();
    this.#messages.splice(index);
    const question = this.#messages.at(-1);
    if (question?.role === "user") {
      this.#messages.pop();
      this.log.lastElementChild.remove();
      this.input.value = this.input.value || question.content;
      this.#fit();
    }
    this.#showEmpty();
    this.#keep();
    this.input.focus();
  }

  #keepAnswer(kept, answer) {
    const { text, ...rest } = answer.toJSON();
    Object.assign(kept, { content: text, ...rest });
    this.#keep();
  }

  async #regenerate(index) {
    if (this.#running) return;
    while (this.#messages.length > index) {
      this.#messages.pop();
      this.log.lastElementChild.remove();
    }
    await this.#answer();
  }

  /** The same request with the same seed once more, without speculation, beside the first. */
  async #compare(index, view) {
    if (this.#running) return;
    const kept = this.#messages[index];
    const speculation = { policy: "off", steps: true };
    const column = view.addColumn();
    const messages = this.#history(index);
    const plain = await this.#stream({ ...kept.request, speculation, messages }, column);
    if (plain === null) return;
    kept.plain = plain.toJSON();
    if (plain.finishReason) view.compare({ ...kept, text: kept.content }, plain);
    this.#keep();
    this.#scroll();
  }

  #showKept(message, index) {
    if (message.role === "user") return this.log.append(userMessage(message.content));
    const view = this.#view(index);
    const main = { ...message, text: message.content };
    view.main.show(main);
    view.text = message.content;
    view.actions.hidden = false;
    if (message.plain) {
      view.addColumn().show(message.plain);
      if (message.plain.finishReason) view.compare(main, message.plain);
    }
    return this.log.append(view.element);
  }

  #run(controller) {
    this.#running = controller;
    const button = byId("send");
    button.classList.toggle("stops", controller !== null);
    button.setAttribute("aria-label", controller ? "Stop" : "Send");
    if (controller) this.#error("");
  }

  #error(message) {
    const box = byId("error");
    box.replaceChildren(...(message ? [h("span", {}, message)] : []));
    box.hidden = !message;
  }

  #keep() {
    if (!saveConversation(this.#messages)) this.#error("This browser can't keep the conversation.");
  }

  #showEmpty() {
    byId("empty").hidden = this.#messages.length > 0;
  }

  #fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, 220)}px`;
  }

  #scroll(always = false) {
    const main = byId("chat-scroll");
    const left = main.scrollHeight - main.scrollTop - main.clientHeight;
    if (always || left < NEAR_END + main.clientHeight / 4) main.scrollTop = main.scrollHeight;
  }
}
