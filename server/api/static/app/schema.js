// JSON schemas of an OpenAPI document in words. Knows nothing of the page.

/** What `$ref` stands for. */
export function resolve(schema, document) {
  let found = schema;
  while (found?.$ref) {
    const path = found.$ref.replace(/^#\//, "").split("/");
    found = path.reduce((place, name) => place?.[name], document);
  }
  return found ?? {};
}

/** The kinds of value that a schema lets through, but null: it always means "not given" here. */
function alternatives(schema, document) {
  const own = resolve(schema, document);
  const choices = own.anyOf ?? own.oneOf;
  if (!choices) return own.type === "null" ? [] : [own];
  return choices.flatMap((choice) => alternatives(choice, document));
}

/** Such as "text", "number, 0 to 2", "list of text". */
export function inWords(schema, document) {
  const words = alternatives(schema, document).map((choice) => kind(choice, document));
  return [...new Set(words)].join(", or ");
}

function kind(schema, document) {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") {
    const of = schema.items ? inWords(schema.items, document) : "";
    return of ? `list of ${of}` : "list";
  }
  const name = { string: "text", integer: "whole number", boolean: "true or false" }[schema.type];
  return `${name ?? schema.type ?? "anything"}${bounds(schema)}`;
}

const LARGE = 2 ** 31 - 1; // bounds from here on are the number's, not the field's

function bounds({ minimum, maximum, exclusiveMinimum, maxLength }) {
  const least = exclusiveMinimum ?? minimum;
  const above = exclusiveMinimum === undefined ? "" : "above ";
  const hasLeast = least !== undefined && Math.abs(least) < LARGE;
  const hasMost = maximum !== undefined && Math.abs(maximum) < LARGE;
  if (hasLeast && hasMost) return `, ${above}${least} to ${maximum}`;
  if (hasLeast) return above ? `, above ${least}` : `, ${least} or more`;
  if (hasMost) return `, at most ${maximum}`;
  return maxLength > 1 ? `, at most ${maxLength.toLocaleString("en")} characters` : "";
}

/** Fields of the objects in a schema, those of its alternatives and of a list's items too:
 * [{name, schema, isRequired}]. A field that several of them have stands there once. */
export function fieldsOf(schema, document) {
  const fields = new Map();
  for (const choice of alternatives(schema, document)) {
    if (choice.items) for (const field of fieldsOf(choice.items, document)) fields.set(field.name, field);
    for (const [name, value] of Object.entries(choice.properties ?? {})) {
      const isRequired = (choice.required ?? []).includes(name);
      if (!fields.has(name)) fields.set(name, { name, schema: value, isRequired });
    }
  }
  return [...fields.values()];
}
