// The list of conversations: open, rename, delete, export. What is deleted can be had back for a while.

import {
  listConversations, loadConversation, removeConversation, renameConversation, restoreConversation,
} from "./conversations.js";
import { byId, h, icon } from "./dom.js";
import { toast } from "./toast.js";

export class ConversationList {
  #chat;

  constructor(chat) {
    this.#chat = chat;
    this.element = byId("conversation-list");
    byId("export-all").addEventListener("click", () => exportAll());
    chat.onchange = () => this.refresh();
  }

  async refresh() {
    const entries = await listConversations();
    byId("no-conversations").hidden = entries.length > 0;
    byId("export-all").hidden = entries.length === 0;
    if (this.element.contains(document.activeElement?.closest("form"))) return; // is being renamed
    this.element.replaceChildren(...entries.map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const isCurrent = entry.id === this.#chat.id;
    const action = (label, name, onclick) =>
      h("button", { type: "button", class: "quiet", "aria-label": `${label} “${entry.title}”`, title: label, onclick }, icon(name));
    const item = h(
      "li",
      { class: isCurrent ? "current" : "" },
      h(
        "button",
        {
          type: "button", class: "conversation", title: entry.title, "aria-current": isCurrent ? "true" : null,
          onclick: () => this.#chat.open(entry.id),
        },
        entry.title,
      ),
      h(
        "span",
        { class: "item-actions" },
        action("Rename", "edit", () => this.#rename(item, entry)),
        action("Export", "export", () => exportOne(entry)),
        action("Delete", "delete", () => this.#delete(entry)),
      ),
    );
    return item;
  }

  #rename(item, entry) {
    const input = h("input", { "aria-label": "Title", value: entry.title, maxlength: 120 });
    const form = h("form", { class: "rename" }, input);
    let isOver = false; // leaving the field and pressing Enter both end it
    const end = async (title) => {
      if (isOver) return;
      isOver = true;
      if (title && title !== entry.title) await renameConversation(entry.id, title);
      form.remove();
      await this.refresh();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      end(input.value.trim());
    });
    input.addEventListener("blur", () => end(input.value.trim()));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end(null);
    });
    item.replaceChildren(form);
    input.select();
    input.focus();
  }

  async #delete({ id, title }) {
    const isCurrent = id === this.#chat.id;
    if (isCurrent) await this.#chat.clear();
    const kept = await loadConversation(id);
    await removeConversation(id);
    await this.refresh();
    if (!kept) return;
    toast(`Deleted “${title}”.`, async () => {
      await restoreConversation(kept);
      if (isCurrent) await this.#chat.open(id);
      await this.refresh();
    });
  }
}

/** What is of use elsewhere: the words, and the settings that an answer was made with. */
function exported({ entry, messages }) {
  return {
    title: entry.title,
    updated: new Date(entry.updated).toISOString(),
    messages: messages.map(({ role, content, request, model, usage, notice }) => ({
      role, content, ...(role === "assistant" ? { model, request, usage, notice } : {}),
    })),
  };
}

async function exportOne(entry) {
  const kept = await loadConversation(entry.id);
  if (kept) download(exported(kept), `${entry.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}.json`);
}

async function exportAll() {
  const entries = await listConversations();
  const all = await Promise.all(entries.map(({ id }) => loadConversation(id)));
  download(all.filter(Boolean).map(exported), "conversations.json");
}

function download(value, name) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
