// Marks where each token of rendered text came from.
//
// Rendering drops Markdown's marks and keeps the order of all else, so the rendered characters are a
// subsequence of the text's: they are matched greedily from the start. Offsets count characters
// (code points), as the server does.

const FAR = 400; // characters of markup between two rendered ones, at most: a long link's address

/** Wraps the rendered text's tokens in spans of the classes `o-trunk`, `o-leaf`, `o-target`. */
export function tint(root, text, steps) {
  const owners = ownerOfEach(text, steps);
  const source = Array.from(text);
  let place = 0;
  for (const node of textNodes(root)) {
    const characters = Array.from(node.data);
    const found = characters.map((character) => {
      const at = find(source, character, place);
      if (at === -1) return null;
      place = at + 1;
      return owners[at] ?? null;
    });
    wrap(node, characters, found);
  }
}

function ownerOfEach(text, steps) {
  const tokens = steps.flatMap((step, index) =>
    step.tokens.map(({ source, offset }) => ({ source, offset, step: index })),
  );
  const owners = [];
  tokens.forEach((token, index) => {
    const end = tokens[index + 1]?.offset ?? text.length;
    for (let place = Math.max(token.offset, 0); place < end; place++) owners[place] = token;
  });
  return owners;
}

const ENTITIES = { "<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;", "'": "&#39;" };

function find(source, character, from) {
  if (source[from] === character) return from;
  // Line breaks between blocks are the renderer's own.
  const far = character === "\n" ? 2 : FAR;
  const end = Math.min(source.length, from + far);
  for (let at = from; at < end; at++) {
    if (source[at] === character) return at;
    const entity = source[at] === "&" ? ENTITIES[character] : undefined;
    if (entity && source.slice(at, at + entity.length).join("") === entity) return at;
  }
  return -1;
}

function textNodes(root) {
  const nodes = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement?.closest("[data-untinted]")) nodes.push(walker.currentNode);
  }
  return nodes;
}

function wrap(node, characters, owners) {
  const parts = [];
  for (let start = 0; start < characters.length; ) {
    let end = start + 1;
    while (end < characters.length && owners[end] === owners[start]) end++;
    parts.push(part(characters.slice(start, end).join(""), owners[start]));
    start = end;
  }
  node.replaceWith(...parts);
}

function part(text, owner) {
  if (owner === null) return document.createTextNode(text);
  const span = document.createElement("span");
  span.className = `token o-${owner.source}`;
  span.dataset.step = owner.step;
  span.textContent = text;
  return span;
}
