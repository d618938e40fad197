// What stays in the browser between visits, besides conversations: settings and switches, and the API
// key where a person wants it kept.

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
  } catch {
    // full, or switched off: it is not kept
  }
}

export const load = (name, fallback) => read(localStorage, name) ?? fallback;
export const save = (name, value) => write(localStorage, name, value);

/** Of this tab alone; it outlives a reload. */
export const loadInTab = (name) => read(sessionStorage, name);
export const saveInTab = (name, value) => write(sessionStorage, name, value);

let key = load("key", null); // in memory alone, unless it is to be kept

export const currentKey = () => key;
export const isKeyKept = () => load("key", null) !== null;

export function useKey(given, isToBeKept) {
  key = given;
  save("key", isToBeKept ? given : null);
}

export function forgetKey() {
  useKey(null, false);
}
