// The API's page: every operation of openapi.json with its examples, its fields and its answers.

import { copyText } from "./clipboard.js";
import { byId, h } from "./dom.js";
import { curl } from "./as_code.js";
import { fieldsOf, inWords, resolve } from "./schema.js";

const DEEPEST = 6; // levels of fields in fields: a schema of schemas has no end

const base = new URL(".", location.href);

function operationsOf(document) {
  return Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({ method, path, operation })),
  );
}

const anchor = ({ method, path }) => `${method}${path.replace(/[^a-z0-9_]+/gi, "-")}`;

function method(name) {
  return h("span", { class: `method ${name}` }, name);
}

function link(entry) {
  const parts = entry.path.split(/(?=\/)/).flatMap((part) => [h("wbr"), part]);
  return h("a", { href: `#${anchor(entry)}` }, method(entry.method), h("span", { class: "path" }, ...parts));
}

/** What stands between backticks is code. */
function prose(text) {
  const parts = text.split("`");
  return h("p", {}, ...parts.map((part, index) => (index % 2 ? h("code", {}, part) : part)));
}

function section(entry, document) {
  const { path, operation } = entry;
  return h(
    "section",
    { class: "operation", id: anchor(entry) },
    h("h2", {}, method(entry.method), path, operation.security ? h("span", { class: "locked" }, "needs the API key") : null),
    operation.description ? prose(operation.description) : null,
    ...examples(entry),
    fieldList("Parameters", parameters(operation), document),
    requestFields(operation, document),
    answerExample(operation),
    answers(operation),
  );
}

function examples({ method: verb, path, operation }) {
  const named = operation.requestBody?.content?.["application/json"]?.examples ?? {};
  const request = { method: verb.toUpperCase(), url: new URL(path.slice(1), base).href, needsKey: Boolean(operation.security) };
  const bodies = Object.entries(named).map(([name, { value }]) => code(name, curl({ ...request, body: value })));
  return bodies.length ? bodies : [code("curl", curl(request))];
}

function code(title, text) {
  const copy = h("button", { type: "button", class: "quiet" }, "Copy");
  copy.addEventListener("click", () => copyText(text, copy));
  return h(
    "div",
    { class: "example" },
    h("header", {}, h("span", {}, title), h("span", { class: "grow" }), copy),
    h("pre", { tabindex: 0, role: "group", "aria-label": title }, text),
  );
}

function parameters(operation) {
  return (operation.parameters ?? []).map(({ name, schema, required, description }) => ({
    name, schema: { ...schema, description }, isRequired: required,
  }));
}

function requestFields(operation, document) {
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  return schema ? fieldList("Fields of the request", fieldsOf(schema, document), document) : null;
}

function fieldList(title, fields, document) {
  if (!fields.length) return null;
  return h(
    "details",
    { class: "fields-of" },
    h("summary", {}, `${title} (${fields.length})`),
    h("dl", {}, ...fields.map((field) => row(field, document, 1))),
  );
}

function row({ name, schema, isRequired }, document, depth) {
  const words = schema.description ?? resolve(schema, document).description;
  const inner = depth < DEEPEST ? fieldsOf(schema, document) : [];
  const more = inner.length ? innerFields(inner, document, depth) : null;
  return h(
    "div",
    { class: "field-row" },
    h("dt", {}, name, isRequired ? h("span", { class: "required" }, " required") : null),
    h("dd", {}, inWords(schema, document), words ? prose(words) : null),
    more ? h("dd", {}, more) : null,
  );
}

/** They are made when they are opened: all at once would be tens of thousands. */
function innerFields(fields, document, depth) {
  const details = h("details", {}, h("summary", {}, `Its fields (${fields.length})`));
  details.addEventListener(
    "toggle",
    () => details.append(h("dl", {}, ...fields.map((field) => row(field, document, depth + 1)))),
    { once: true },
  );
  return details;
}

function answerExample(operation) {
  const example = operation.responses["200"]?.content?.["application/json"]?.example;
  return example ? code("Answer", JSON.stringify(example, null, 2)) : null;
}

function answers(operation) {
  const rows = Object.entries(operation.responses).map(([status, { description }]) =>
    h("tr", {}, h("td", {}, status), h("td", {}, description)),
  );
  return h(
    "div",
    {},
    h("h3", {}, "Answers"),
    h("table", { class: "answers" }, h("tbody", {}, ...rows)),
  );
}

async function show() {
  byId("base-url").textContent = new URL("v1", base).href;
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const document = await response.json();
  byId("version").textContent = document.info.version;
  const entries = operationsOf(document);
  byId("operations").append(...entries.map(link));
  byId("sections").append(...entries.map((entry) => section(entry, document)));
  globalThis.document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  await show();
} catch (error) {
  byId("docs-error").textContent = `The description of the API could not be read: ${error.message}`;
  byId("docs-error").hidden = false;
}
