// What stays in the browser: the conversation, settings and switches, the API key.

const PREFIX = "glidecape.";

function read(storage, name) {
  try {
    return JSON.parse(storage.getItem(PREFIX + name));
  } catch {
    return null; // no storage, or not ours
  }
}

function write(storage, name, value) {
  try {
    if (value === null) storage.removeItem(PREFIX + name);
    else storage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or switched off
  }
}

export const load = (name, fallback) => read(localStorage, name) ?? fallback;
export const save = (name, value) => write(localStorage, name, value);

/** Keeps a conversation; where it is too large, without the steps of its older answers. */
export function saveConversation(messages) {
  const kept = structuredClone(messages);
  for (const message of [null, ...kept]) {
    if (message) {
      delete message.steps;
      delete message.plain;
    }
    if (save("conversation", kept)) return true;
  }
  return false;
}

/** The key of this tab, or the one that is to be remembered. */
export const storedKey = () => read(sessionStorage, "key") ?? read(localStorage, "key");

export function keepKey(key, remember) {
  write(sessionStorage, "key", key);
  write(localStorage, "key", remember ? key : null);
}
