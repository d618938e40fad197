// A request as text that sends it from elsewhere: curl in a shell, or OpenAI's client in Python. A key
// is never part of it: both read it from the environment.

const KEY_VARIABLE = "OPENAI_API_KEY";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A command for a shell. */
export function curl({ method = "POST", url, body, needsKey = false }) {
  const verb = method === "GET" || method === "POST" ? "" : ` -X ${method}`;
  const parts = [`curl${verb} ${quoted(url)}`];
  if (needsKey) parts.push(`-H "Authorization: Bearer $${KEY_VARIABLE}"`);
  if (body !== undefined) {
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body, null, 2))}`);
  }
  return `${parts.join(" \\\n  ")}\n`;
}

const OPENAI_FIELDS = new Set([
  "model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty",
  "frequency_penalty",
]);

/** A program for Python with the package `openai`. What OpenAI doesn't have goes along as extra. */
export function python({ baseUrl, body, needsKey = false }) {
  const fields = Object.entries(body).filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI_FIELDS.has(name)));
  const all = Object.keys(extra).length ? [...fields, ["extra_body", extra]] : fields;
  const given = all.map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
  const key = needsKey ? `os.environ["${KEY_VARIABLE}"]` : '"none"';
  return (
    `${needsKey ? "import os\n\n" : ""}from openai import OpenAI\n\n` +
    `client = OpenAI(base_url=${literal(baseUrl)}, api_key=${key})\n` +
    `answer = client.chat.completions.create(\n${given})\n` +
    "print(answer.choices[0].message.content)\n"
  );
}

/** A value of JSON as Python writes it. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const inner = Array.isArray(value)
    ? value.map((item) => literal(item, deeper))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, deeper)}`);
  if (!inner.length) return open + close;
  return `${open}\n${inner.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}`;
}
