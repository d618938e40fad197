// A step's proposal as a tree: depth to the right, the trunk on the first row, alternatives below it.

import { duration, h, percent, svg } from "./dom.js";

const NODE = { width: 104, height: 40, gapX: 28, gapY: 10 };

const SOURCES = {
  draft: "proposed by the draft",
  lookup: "found in the text so far",
  grammar: "forced by the grammar",
  beam: "a beam search of the draft",
};

/** Spaces and line breaks made visible. */
export function visible(token) {
  return token.replace(/^ /, "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** A panel for one step. */
export function stepPanel(step, index, onclose) {
  const seconds = ["draft", "verify", "other"].map((part) => `${part} ${duration(step[`${part}_seconds`])}`);
  const said = h("span", { class: "said" });
  for (const { token, source } of step.tokens) {
    said.append(h("span", { class: `token o-${source}` }, visible(token)));
  }
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close the step" }, "×");
  close.addEventListener("click", onclose);
  return h(
    "section",
    { class: "step-panel", "aria-label": `Step ${index + 1}` },
    h("header", {}, h("strong", {}, `Step ${index + 1}`), said, h("span", { class: "grow" }), close),
    h("p", { class: "hint" }, [SOURCES[step.source] ?? "nothing was proposed", ...seconds].join(" · ")),
    step.nodes.length ? drawing(step) : null,
  );
}

/** Columns by depth; a first child stays on its parent's row where that is free. */
export function layout(nodes) {
  const depths = [0];
  const rows = [0];
  const free = [1];
  nodes.forEach(({ parent }, index) => {
    const depth = depths[parent] + 1;
    const row = Math.max(rows[parent], free[depth] ?? 0);
    depths[index + 1] = depth;
    rows[index + 1] = row;
    free[depth] = row + 1;
  });
  return { depths, rows };
}

function drawing(step) {
  const { depths, rows } = layout(step.nodes);
  const stepX = NODE.width + NODE.gapX;
  const stepY = NODE.height + NODE.gapY;
  const at = (node) => ({ x: 2 + depths[node] * stepX, y: 2 + rows[node] * stepY });
  const width = (Math.max(...depths) + 1) * stepX - NODE.gapX + 4;
  const height = (Math.max(...rows) + 1) * stepY - NODE.gapY + 4;
  const accepted = new Set(step.accepted);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  step.nodes.forEach(({ parent }, index) => {
    picture.append(edge(at(parent), at(index + 1), accepted.has(index + 1)));
  });
  picture.append(box(at(0), step.root, "root", ""));
  step.nodes.forEach((node, index) => {
    const kind = accepted.has(index + 1) ? `accepted ${node.kind}` : "rejected";
    const sure = node.confidence === null ? "" : percent(node.confidence);
    picture.append(box(at(index + 1), node.token, kind, sure, node.confidence ?? 0));
  });
  return h(
    "div",
    { class: "tree scroll-x", tabindex: 0, role: "group", "aria-label": "Proposed tokens" },
    picture,
    inWords(step, accepted),
  );
}

function edge(from, to, isAccepted) {
  const x1 = from.x + NODE.width;
  const y1 = from.y + NODE.height / 2;
  const y2 = to.y + NODE.height / 2;
  const middle = x1 + NODE.gapX / 2;
  const d = `M${x1},${y1} C${middle},${y1} ${middle},${y2} ${to.x},${y2}`;
  return svg("path", { d, class: isAccepted ? "edge accepted" : "edge" });
}

function box({ x, y }, token, kind, sure, confidence = 0) {
  const shown = Array.from(visible(token));
  const label = shown.length > 10 ? `${shown.slice(0, 9).join("")}…` : shown.join("");
  const group = svg("g", { class: `node ${kind}`, transform: `translate(${x},${y})` });
  group.append(svg("rect", { width: NODE.width, height: NODE.height, rx: 8 }));
  group.append(svg("text", { x: 10, y: sure ? 17 : 24, class: "name" }, label));
  if (sure) {
    const room = NODE.width - 56;
    group.append(
      svg("rect", { x: 10, y: 26, width: room, height: 4, rx: 2, class: "track" }),
      svg("rect", { x: 10, y: 26, width: Math.max(2, room * confidence), height: 4, rx: 2, class: "sure" }),
      svg("text", { x: NODE.width - 8, y: 32, class: "percent" }, sure),
    );
  }
  group.append(svg("title", {}, visible(token)));
  return group;
}

/** The drawing for those who don't see it. */
function inWords(step, accepted) {
  const list = h("ol", { class: "visually-hidden" });
  step.nodes.forEach(({ token, kind, confidence, parent }, index) => {
    const above = parent === 0 ? "the root" : `node ${parent}`;
    const sure = confidence === null ? "" : `, confidence ${percent(confidence)}`;
    const what = accepted.has(index + 1) ? "accepted" : "not accepted";
    list.append(h("li", {}, `“${token}” after ${above}, ${kind}${sure}, ${what}`));
  });
  return list;
}
