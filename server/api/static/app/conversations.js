// Conversations in this browser's database: a list to choose from, and each one's messages apart from
// it, since those are large.
//
// An entry of the list: {id, title, updated} and, once a person has named it, isNamed. `updated` says
// whether another tab wrote to a conversation: it is then not what this one last read or saved.

const LONGEST_TITLE = 60;

let database = null;

function open() {
  database ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("glidecape", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("list", { keyPath: "id" });
      request.result.createObjectStore("messages");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return database;
}

/** Runs `work(list, messages)` in one transaction; what its requests found, once all is written. */
async function transact(mode, work) {
  const transaction = (await open()).transaction(["list", "messages"], mode);
  const requests = work(transaction.objectStore("list"), transaction.objectStore("messages")) ?? [];
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(requests.map(({ result }) => result));
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Runs `work(entry, list, messages)` with what the list has of an id, which no other tab can change
 * meanwhile. */
function change(id, work) {
  return transact("readwrite", (list, all) => {
    const request = list.get(id);
    request.onsuccess = () => work(request.result, list, all);
  });
}

/** The entries, the one used last first; none where the browser keeps nothing. */
export async function listConversations() {
  try {
    const [entries] = await transact("readonly", (list) => [list.getAll()]);
    return entries.sort((one, other) => other.updated - one.updated);
  } catch {
    return [];
  }
}

/** {entry, messages}; null where there is no such conversation. */
export async function loadConversation(id) {
  try {
    const [entry, messages] = await transact("readonly", (list, all) => [list.get(id), all.get(id)]);
    return entry && messages ? { entry, messages } : null;
  } catch {
    return null;
  }
}

/**
 * The entry as it is from now on: that of a copy, where another tab wrote to the conversation.
 *
 * Throws where the browser keeps nothing, or has no room.
 */
export async function saveConversation(entry, messages) {
  let saved = null;
  await change(entry.id, (found, list, all) => {
    const isOwn = !found || found.updated === entry.updated;
    saved = isOwn ? dated(found ?? entry, messages) : copied(entry, messages);
    list.put(saved);
    all.put(messages, saved.id);
  });
  return saved;
}

/** As it was before it was deleted; one that another tab has kept on is left as it is. */
export function restoreConversation({ entry, messages }) {
  return change(entry.id, (found, list, all) => {
    if (found) return;
    list.put(entry);
    all.put(messages, entry.id);
  });
}

export function renameConversation(id, title) {
  return change(id, (found, list) => {
    if (found) list.put({ ...found, title, isNamed: true });
  });
}

export function removeConversation(id) {
  return transact("readwrite", (list, all) => {
    list.delete(id);
    all.delete(id);
  });
}

/** Removes what this tab has saved, unless another tab went on with it. */
export function withdrawConversation({ id, updated }) {
  return change(id, (found, list, all) => {
    if (found?.updated !== updated) return;
    list.delete(id);
    all.delete(id);
  });
}

const otherTabs = new BroadcastChannel("glidecape.conversations");

/** Tells them that a conversation has changed. */
export const tellOtherTabs = (id) => otherTabs.postMessage(id);

/** Calls `listener(id)` when another tab has changed a conversation. */
export function onOtherTab(listener) {
  otherTabs.addEventListener("message", ({ data }) => listener(data));
}

/** An entry for what begins now. Not by `crypto.randomUUID`, which plain HTTP doesn't have. */
export const newEntry = () => ({ id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}` });

/** Later than before, even within a millisecond: what is equal was not changed. */
function dated(entry, messages) {
  const title = entry.isNamed ? entry.title : titleOf(messages);
  return { ...entry, title, updated: Math.max(Date.now(), (entry.updated ?? 0) + 1) };
}

/** Named, since two conversations with one title can't be told apart. */
function copied(entry, messages) {
  const title = `Copy of ${entry.title}`;
  return { ...dated(newEntry(), messages), title, isNamed: true };
}

/** The first question, cut where it is long. */
export function titleOf(messages) {
  const question = messages.find(({ role }) => role === "user")?.content ?? "";
  const characters = Array.from(question.replace(/\s+/g, " ").trim());
  if (characters.length <= LONGEST_TITLE) return characters.join("") || "Empty";
  return `${characters.slice(0, LONGEST_TITLE - 1).join("").trimEnd()}…`;
}
