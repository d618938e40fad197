// The conversation on the page: asks, edits, stops, asks again, compares, keeps.

import { ApiError } from "./api.js";
import { measure, verdict } from "./comparison.js";
import { Composer } from "./composer.js";
import { loadConversation, newEntry, removeConversation, saveConversation, titleOf } from "./conversations.js";
import { byId, h } from "./dom.js";
import { AnswerMessage } from "./message_view.js";
import { isLengthGiven, markInvalid, requestFields, systemPrompt } from "./settings.js";
import { loadInTab, saveInTab } from "./store.js";
import { streamAnswer } from "./stream_answer.js";
import { toast } from "./toast.js";
import { UserMessage } from "./user_message.js";

const NEAR_END = 80; // pixels from the end, within which the page follows the answer
const SAVE_MS = 2000; // while an answer comes in, so that a page that is left loses little of it
const LEFT = "This answer is not complete: the page was left before it was.";

export class Chat {
  /** Called when the list of conversations may have changed. */
  onchange = () => {};
  #entry = null; // of the list; null before the first question
  #messages = [];
  #running = null; // the AbortController of what is streaming
  #work = Promise.resolve(); // settles when nothing runs any more

  constructor() {
    this.log = byId("messages");
    this.composer = new Composer({
      onsend: (text) => this.ask(text),
      onstop: () => this.stop(),
      onlast: () => this.#messages.findLast(({ role }) => role === "user")?.content,
    });
  }

  get id() {
    return this.#entry?.id ?? null;
  }

  /** The conversation that this tab had last. */
  async restore() {
    const id = loadInTab("conversation");
    const kept = id && (await loadConversation(id));
    this.#become(kept?.entry ?? null, kept?.messages ?? []);
  }

  async open(id) {
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

  renamed(id, title) {
    if (id === this.id) this.#entry = { ...this.#entry, title, isNamed: true };
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

  #become(entry, messages) {
    this.#entry = entry;
    this.#messages = messages;
    saveInTab("conversation", entry?.id ?? null);
    this.#error("");
    this.#redraw();
    this.#scroll(true);
    this.onchange();
  }

  #redraw() {
    this.log.replaceChildren();
    this.#messages.forEach((_, index) => this.#show(index));
    this.#showEmpty();
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
      this.#running = null;
      this.composer.busy(false);
    }
  }

  /** Answers the conversation as it stands. */
  async #answer() {
    const system = systemPrompt();
    const kept = { role: "assistant", content: "", system, request: requestFields() };
    const index = this.#messages.push(kept) - 1;
    const view = this.#show(index);
    Object.assign(kept, { notice: LEFT, isBroken: true }); // until it ends
    this.#showEmpty();
    await this.#save();
    this.#scroll(true);
    const { answer, error } = await this.#streamWhatFits(index, view.main, kept);
    if (error && error.name !== "AbortError" && !answer.text) return this.#takeBack(index, error);
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

  /** Takes the messages from an index on away; they can be had back. */
  #cut(index) {
    const before = this.#messages;
    const id = this.id;
    const gone = before.slice(index).some(({ role, content }) => role === "assistant" && content);
    this.#messages = before.slice(0, index);
    this.#redraw();
    if (!gone) return;
    toast("The earlier answer was replaced.", async () => {
      await this.#end();
      if (this.id !== id) await this.open(id);
      this.#messages = before;
      this.#redraw();
      await this.#save();
    });
  }

  #edit(index, text) {
    return this.#exclusively(async () => {
      this.#cut(index);
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
    const messages = this.#messages;
    const before = this.#entry;
    this.#entry = messages.length ? dated(before ?? newEntry(), messages) : null;
    saveInTab("conversation", this.id);
    try {
      if (this.#entry) await saveConversation(this.#entry, messages);
      else if (before) await removeConversation(before.id);
    } catch {
      this.#error("This browser can’t keep the conversation.");
    }
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

/** A list's entry as it is from now on. */
function dated(entry, messages) {
  const title = entry.isNamed ? entry.title : titleOf(messages);
  return { ...entry, title, updated: Date.now() };
}

function keepAnswer(kept, answer) {
  const { text, ...rest } = answer.toJSON();
  Object.assign(kept, { content: text, ...rest });
}

/** What is to be said under an answer, by how it ended. */
function ending(error, answer) {
  if (error?.name === "AbortError") return { notice: "Stopped.", isBroken: false };
  if (error) return { notice: `This answer is not complete. ${error.message}`, isBroken: true };
  const isCut = answer.finishReason === "length";
  const tokens = answer.usage?.completion_tokens;
  const notice = isCut ? `Cut at ${tokens ?? "the most"} tokens; “Max tokens” in the settings allows more.` : "";
  return { notice, isBroken: false };
}
