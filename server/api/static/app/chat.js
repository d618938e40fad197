// The conversation on the page: asks, edits, stops, asks again, compares, keeps.

import { ApiError } from "./api.js";
import { measure, verdict } from "./comparison.js";
import { Composer } from "./composer.js";
import { loadConversation, onOtherTab, tellOtherTabs } from "./conversations.js";
import { byId, h } from "./dom.js";
import { ending, keepAnswer, newAnswer, unfinished } from "./kept_answer.js";
import { KeptConversation } from "./kept_conversation.js";
import { AnswerMessage } from "./message_view.js";
import { isLengthGiven, markInvalid } from "./settings.js";
import { loadInTab, saveInTab } from "./store.js";
import { streamAnswer } from "./stream_answer.js";
import { toast } from "./toast.js";
import { UserMessage } from "./user_message.js";

const NEAR_END = 80; // pixels from the end, within which the page follows the answer
const SAVE_MS = 2000; // while an answer comes in, so that a page that is left loses little of it

export class Chat {
  /** Called when the list of conversations may have changed. */
  onchange = () => {};
  #kept = new KeptConversation();
  #messages = [];
  #cutOff = null; // {messages, index, text} of a cut in whose place nothing has come yet
  #running = null; // the AbortController of what is streaming
  #work = Promise.resolve(); // settles when nothing runs any more

  constructor() {
    this.log = byId("messages");
    this.composer = new Composer({
      onsend: (text) => this.ask(text),
      onstop: () => this.stop(),
      onlast: () => this.#messages.findLast(({ role }) => role === "user")?.content,
    });
    onOtherTab((id) => this.#follow(id));
  }

  get id() {
    return this.#kept.id;
  }

  /** The conversation that this tab had last. */
  async restore() {
    const id = loadInTab("conversation");
    const kept = id && (await loadConversation(id));
    this.#become(kept?.entry ?? null, kept?.messages ?? []);
  }

  /** The open one goes on as it is, even where it is being answered. */
  async open(id) {
    if (id === this.id) return;
    await this.#end();
    const kept = await loadConversation(id);
    if (kept) this.#become(kept.entry, kept.messages);
  }

  /** Begins a new one; the present one stays in the list. */
  async clear() {
    await this.#end();
    this.#become(null, []);
    this.composer.focus();
  }

  stop() {
    this.#running?.abort();
  }

  ask(text) {
    return this.#exclusively(async () => {
      this.composer.write("");
      this.#messages.push({ role: "user", content: text });
      this.#show(this.#messages.length - 1);
      await this.#answer();
    });
  }

  async #end() {
    this.stop();
    await this.#work;
  }

  /** Another tab has changed a conversation. Where it is open here it is shown anew, unless it is being
   * answered or edited: then what is done here goes into a copy. */
  async #follow(id) {
    this.onchange();
    const isIdle = () => id !== null && id === this.id && !this.#running && !this.log.querySelector("form");
    if (!isIdle()) return;
    const kept = await loadConversation(id);
    if (kept && isIdle()) this.#become(kept.entry, kept.messages);
  }

  #become(entry, messages) {
    this.#kept = new KeptConversation(entry);
    this.#messages = messages;
    saveInTab("conversation", entry?.id ?? null);
    this.#error("");
    this.#redraw();
    this.#scroll(true);
    this.onchange();
  }

  /** The messages' views. */
  #redraw() {
    this.log.replaceChildren();
    const views = this.#messages.map((_, index) => this.#show(index));
    this.#showEmpty();
    return views;
  }

  /** Only one thing at a time runs; where something does, nothing happens. */
  #exclusively(work) {
    if (this.#running) return this.#work;
    this.#running = new AbortController();
    this.composer.busy(true);
    this.#error("");
    this.#work = this.#finish(work);
    return this.#work;
  }

  async #finish(work) {
    try {
      await work();
    } catch (error) {
      this.#explain(error);
    } finally {
      this.#putBack();
      this.#running = null;
      this.composer.busy(false);
      tellOtherTabs(this.id);
    }
  }

  /** Answers the conversation as it stands. */
  async #answer() {
    const kept = newAnswer();
    const index = this.#messages.push(kept) - 1;
    const view = this.#show(index);
    Object.assign(kept, unfinished); // until it ends
    this.#showEmpty();
    await this.#save();
    this.#scroll(true);
    const { answer, error } = await this.#streamWhatFits(index, view.main, kept);
    if (error && this.#cutOff) throw error;
    if (error && error.name !== "AbortError" && !answer.text) return this.#takeBack(index, error);
    this.#confirmCut();
    keepAnswer(kept, answer);
    Object.assign(kept, ending(error, answer));
    view.show(kept);
    if (error) this.#explain(error);
    this.#scroll();
    byId("announce").textContent = error ? "" : `Answer complete. ${answer.text}`;
    await this.#save();
  }

  /** The page's own length is a wish: where the context has less left, that has to do. */
  async #streamWhatFits(index, view, kept) {
    const result = await this.#stream(this.#request(index), view, kept);
    if (result.error?.param !== "max_tokens" || isLengthGiven()) return result;
    delete kept.request.max_tokens;
    return this.#stream(this.#request(index), view, kept);
  }

  /** The request whose answer is at an index. */
  #request(index) {
    const { request, system } = this.#messages[index];
    const before = this.#messages.slice(0, index).filter(({ content }) => content !== "");
    const messages = before.map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    return { ...request, messages };
  }

  /** Shows an answer as it comes in; `kept` takes its text now and then. */
  async #stream(body, view, kept = null) {
    let saved = performance.now();
    view.busy(true);
    const result = await streamAnswer(body, this.#running.signal, (answer) => {
      view.update(answer);
      this.#scroll();
      if (answer.text) this.#confirmCut();
      if (kept && performance.now() - saved > SAVE_MS) {
        saved = performance.now();
        keepAnswer(kept, answer);
        this.#save();
      }
    });
    view.busy(false);
    view.show(result.answer);
    return result;
  }

  #explain(error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) console.error(error);
    this.#error(error.message);
    markInvalid(error.param);
  }

  /** Nothing came: the question goes back to where it was written. */
  async #takeBack(index, error) {
    this.#messages.splice(index);
    const question = this.#messages.at(-1);
    if (question?.role === "user") {
      this.#messages.pop();
      this.composer.giveBack(question.content);
    }
    this.#redraw();
    this.#explain(error);
    await this.#save();
  }

  /** Takes the messages from an index on off the page; `text`: the question that is asked instead, where
   * it is another one. Nothing is lost before something has come in their place. */
  #cut(index, text = null) {
    this.#cutOff = { messages: this.#messages, index, text };
    this.#messages = this.#messages.slice(0, index);
    this.#redraw();
  }

  /** Nothing has come: all is as it was, and an edited question is still being edited. */
  #putBack() {
    if (!this.#cutOff) return;
    const { messages, index, text } = this.#cutOff;
    this.#cutOff = null;
    this.#messages = messages;
    const view = this.#redraw()[index];
    if (text !== null) view.edit(text);
    view.element.scrollIntoView({ block: "center" });
  }

  /** Something has come: what was cut off is gone, and can be had back for a while. */
  #confirmCut() {
    if (!this.#cutOff) return;
    const { messages, index } = this.#cutOff;
    this.#cutOff = null;
    const gone = messages.slice(index).some(({ role, content }) => role === "assistant" && content);
    const [id, length] = [this.id, this.#messages.length];
    if (gone) toast("The earlier answer was replaced.", () => this.#undoCut(messages, id, length));
  }

  /** Where more was said since, what was before becomes a conversation of its own. */
  async #undoCut(messages, id, length) {
    await this.#end();
    await this.open(id);
    if (this.id !== id || this.#messages.length !== length) this.#kept = new KeptConversation();
    this.#messages = messages;
    this.#redraw();
    await this.#save();
    tellOtherTabs(this.id);
  }

  #edit(index, text) {
    return this.#exclusively(async () => {
      this.#cut(index, text);
      this.#messages.push({ role: "user", content: text });
      this.#show(index);
      await this.#answer();
    });
  }

  #regenerate(index) {
    return this.#exclusively(async () => {
      this.#cut(index);
      await this.#answer();
    });
  }

  /** The same answer without speculation beside it, and then how much faster it is with. */
  #compare(index, view) {
    return this.#exclusively(async () => {
      const kept = this.#messages[index];
      const body = this.#request(index);
      const column = view.addColumn();
      view.verdict.replaying();
      view.verdict.element.scrollIntoView({ block: "start" });
      const plain = { ...body, speculation: { policy: "off", steps: true } };
      const { answer, error } = await this.#stream(plain, column);
      if (error) {
        this.#explain(error);
        view.removeColumn();
        return;
      }
      Object.assign(kept, { plain: answer.toJSON(), pairs: await this.#measure(body, view) });
      const isSame = answer.text === kept.content;
      view.verdict.show(verdict(kept.pairs), isSame);
      view.verdict.element.scrollIntoView({ block: "start" });
      byId("announce").textContent = view.verdict.text;
      await this.#save();
    });
  }

  /** As many complete pairs as there were until it was stopped. */
  async #measure(body, view) {
    let runs = 0;
    let pairs = [];
    const run = async (request) => {
      view.verdict.measuring(++runs);
      const { answer, error } = await streamAnswer(request, this.#running.signal);
      if (error) this.#explain(error);
      return error ? null : answer;
    };
    for await (pairs of measure(body, run));
    return pairs;
  }

  #show(index) {
    const message = this.#messages[index];
    const view = message.role === "user" ? this.#userView(index) : this.#answerView(index);
    this.log.append(view.element);
    return view;
  }

  #userView(index) {
    return new UserMessage(this.#messages[index].content, { onedit: (text) => this.#edit(index, text) });
  }

  #answerView(index) {
    const message = this.#messages[index];
    const view = new AnswerMessage({
      onregenerate: () => this.#regenerate(index),
      oncompare: () => this.#compare(index, view),
      request: () => ({ model: message.model, ...this.#request(index) }),
    });
    if (message.notice !== undefined) view.show(message); // else it is only about to come
    if (message.plain) {
      view.addColumn().show(message.plain);
      view.verdict.show(verdict(message.pairs), message.plain.text === message.content);
    }
    return view;
  }

  #error(message) {
    const box = byId("error");
    box.replaceChildren(...(message ? [h("span", {}, message)] : []));
    box.hidden = !message;
  }

  async #save() {
    if (this.#cutOff) return; // it may have to be put back
    try {
      const isCopy = await this.#kept.save(this.#messages);
      if (isCopy) toast("Another tab went on with this conversation, so what is asked here is kept in a copy.");
    } catch {
      this.#error("This browser can’t keep the conversation.");
    }
    saveInTab("conversation", this.id);
    this.onchange();
  }

  #showEmpty() {
    byId("empty").hidden = this.#messages.length > 0;
  }

  #scroll(always = false) {
    const main = byId("chat-scroll");
    const left = main.scrollHeight - main.scrollTop - main.clientHeight;
    if (always || left < NEAR_END + main.clientHeight / 4) main.scrollTop = main.scrollHeight;
  }
}
