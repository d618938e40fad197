// Conversations in this browser's database: a list to choose from, and each one's messages apart from
// it, since those are large.
//
// An entry of the list: {id, title, updated} and, once a person has named it, isNamed.

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

/** Runs `work(list, messages)` in one transaction; what its request found, once all is written. */
async function transact(mode, work) {
  const transaction = (await open()).transaction(["list", "messages"], mode);
  const request = work(transaction.objectStore("list"), transaction.objectStore("messages"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** The entries, the one used last first; none where the browser keeps nothing. */
export async function listConversations() {
  try {
    const entries = await transact("readonly", (list) => list.getAll());
    return entries.sort((one, other) => other.updated - one.updated);
  } catch {
    return [];
  }
}

/** {entry, messages}; null where there is no such conversation. */
export async function loadConversation(id) {
  try {
    const entry = await transact("readonly", (list) => list.get(id));
    const messages = await transact("readonly", (_, all) => all.get(id));
    return entry && messages ? { entry, messages } : null;
  } catch {
    return null;
  }
}

/** Throws where the browser keeps nothing, or has no room. */
export function saveConversation(entry, messages) {
  return transact("readwrite", (list, all) => {
    list.put(entry);
    all.put(messages, entry.id);
  });
}

export async function renameConversation(id, title) {
  const entry = await transact("readonly", (list) => list.get(id));
  if (entry) await transact("readwrite", (list) => list.put({ ...entry, title, isNamed: true }));
}

export function removeConversation(id) {
  return transact("readwrite", (list, all) => {
    list.delete(id);
    all.delete(id);
  });
}

/** An entry for what begins now. Not by `crypto.randomUUID`, which plain HTTP doesn't have. */
export const newEntry = () => ({ id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}` });

/** The first question, cut where it is long. */
export function titleOf(messages) {
  const question = messages.find(({ role }) => role === "user")?.content ?? "";
  const characters = Array.from(question.replace(/\s+/g, " ").trim());
  if (characters.length <= LONGEST_TITLE) return characters.join("") || "Empty";
  return `${characters.slice(0, LONGEST_TITLE - 1).join("").trimEnd()}…`;
}
