// The settings' form and the request's fields. An empty field leaves the server's default, but for the
// length, which would be all that the context has left.

import { byId, h } from "./dom.js";
import { load, save } from "./store.js";

// name, label, hint, smallest, largest, step
const NUMBERS = {
  sampling: [
    ["temperature", "Temperature", "0 is greedy; default: the model's", 0, 2, 0.1],
    ["top_p", "Top p", "share of probability kept", 0.01, 1, 0.01],
    ["top_k", "Top k", "most probable tokens kept; 0 keeps all", 0, null, 1],
    ["min_p", "Min p", "least share of the best token's", 0, 1, 0.01],
    ["max_tokens", "Max tokens", "longest answer", 1, null, 1],
    ["seed", "Seed", "same seed, same answer", null, null, 1],
  ],
  penalties: [
    ["presence_penalty", "Presence", "−2 to 2", -2, 2, 0.1],
    ["frequency_penalty", "Frequency", "−2 to 2", -2, 2, 0.1],
    ["repetition_penalty", "Repetition", "1 is off", 0.01, 100, 0.05],
  ],
  speculation: [
    ["max_depth", "Max depth", "longest proposal, 1 to 16", 1, 16, 1],
    ["max_nodes", "Max nodes", "most tokens verified, 1 to 64", 1, 64, 1],
  ],
};
const LENGTH = 300; // tokens: an answer that is read in one go
const PLACEHOLDERS = { max_tokens: String(LENGTH), seed: "random" };
const ALL_NUMBERS = Object.values(NUMBERS).flat();
const TEXTS = ["system", "stop", "policy"];

/** Puts the number fields into the form, fills it with what was kept, and keeps what changes. */
export function initSettings() {
  for (const [group, fields] of Object.entries(NUMBERS)) {
    byId(`fields-${group}`).append(...fields.map(numberField));
  }
  const kept = load("settings", {});
  for (const name of names()) input(name).value = kept[name] ?? "";
  byId("settings-form").addEventListener("input", (event) => {
    event.target.removeAttribute("aria-invalid");
    save("settings", Object.fromEntries(names().map((name) => [name, input(name).value])));
  });
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  byId("settings-reset").addEventListener("click", reset);
}

function numberField([name, label, hint, min, max, step]) {
  const id = `set-${name}`;
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    h("input", {
      id, min, max, step: name === "seed" ? 1 : step, type: "number", inputmode: "decimal",
      placeholder: PLACEHOLDERS[name] ?? "default", "aria-describedby": `${id}-hint`, autocomplete: "off",
    }),
    h("small", { id: `${id}-hint` }, hint),
  );
}

const names = () => [...ALL_NUMBERS.map(([name]) => name), ...TEXTS];
const input = (name) => byId(`set-${name}`);

function reset() {
  for (const name of names()) {
    input(name).value = "";
    input(name).removeAttribute("aria-invalid");
  }
  save("settings", {});
}

/** The system prompt, or "". */
export const systemPrompt = () => input("system").value.trim();

/** The request's fields but its messages. Draws a seed where none is given, so that the answer can
 * be replayed. */
export function requestFields() {
  const fields = { max_tokens: LENGTH, seed: Math.floor(Math.random() * 2 ** 53) };
  const speculation = { steps: true };
  const nested = new Set(NUMBERS.speculation.map(([name]) => name));
  for (const [name] of ALL_NUMBERS) {
    const text = input(name).value.trim();
    if (text !== "") (nested.has(name) ? speculation : fields)[name] = Number(text);
  }
  const stop = input("stop").value.split("\n").filter((line) => line !== "");
  if (stop.length) fields.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
  if (input("policy").value) speculation.policy = input("policy").value;
  return { ...fields, speculation };
}

/** Whether a person said how long answers may be. */
export const isLengthGiven = () => input("max_tokens").value.trim() !== "";

/** Marks the field that the server's error names. */
export function markInvalid(param) {
  const name = (param ?? "").split(".").filter((part) => part !== "speculation")[0];
  if (names().includes(name)) input(name).setAttribute("aria-invalid", "true");
}
