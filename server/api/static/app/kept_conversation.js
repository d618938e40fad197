// The open conversation as this tab keeps it in the browser's database.

import { newEntry, saveConversation, withdrawConversation } from "./conversations.js";

export class KeptConversation {
  #entry;
  #turn = Promise.resolve();

  /** `entry`: its own in the list; null where it begins now. */
  constructor(entry = null) {
    this.#entry = entry;
  }

  /** null before it is first saved. */
  get id() {
    return this.#entry?.id ?? null;
  }

  /**
   * Whether this became a copy, since another tab wrote to the conversation.
   *
   * One after the other: each goes by what the one before wrote. Throws as saving does.
   */
  save(messages) {
    const saved = this.#turn.then(() => this.#write(messages));
    this.#turn = saved.catch(() => {}); // its caller's to handle
    return saved;
  }

  async #write(messages) {
    const before = this.#entry ?? newEntry();
    if (messages.length === 0) {
      this.#entry = null;
      await withdrawConversation(before);
      return false;
    }
    this.#entry = await saveConversation(before, messages);
    return this.#entry.id !== before.id;
  }
}
