// Markdown → DOM that is safe to show: a model's text can hold any HTML.

import DOMPurify from "../vendor/dompurify-3.4.18/purify.es.js";
import hljs from "../vendor/highlight-11.12.0/highlight.min.js";
import { Marked } from "../vendor/marked-18.2.1/marked.esm.js";

import { copyText } from "./clipboard.js";
import { h, icon } from "./dom.js";

const BOXES = { true: "☑ ", false: "☐ " };

// A task's box is a sign and no input: forms have no place in an answer.
const renderer = { checkbox: ({ checked }) => BOXES[Boolean(checked)] };

// Tags that mean nothing but a look. All others are text: `vector<int>` and `<head>` are words of an
// answer, which the sanitizer would take away.
const PLAIN_TAG = /^<(?:br *\/?|\/?su[bp])>$/i;

const tokenizer = {
  html: () => undefined, // no blocks of it: what is between tags is Markdown like all else
  tag(source) {
    const [tag] = this.rules.inline.tag.exec(source) ?? [];
    return tag && { type: PLAIN_TAG.test(tag) ? "html" : "text", raw: tag, text: tag, escaped: false };
  },
};
const marked = new Marked({ gfm: true, breaks: true, renderer, tokenizer });

const SAFE = {
  RETURN_DOM_FRAGMENT: true,
  USE_PROFILES: { html: true },
  // No pictures: loading one tells its server that the answer was read.
  FORBID_TAGS: ["style", "form", "input", "button", "img", "picture", "video", "audio", "source"],
  FORBID_ATTR: ["style", "id", "name", "class"],
  ALLOW_DATA_ATTR: false,
};

/** A fragment; code is coloured where its language is known. */
export function render(text) {
  const fragment = DOMPurify.sanitize(withLanguages(marked.parse(text)), SAFE);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) scrollable(table, "Table");
  for (const item of fragment.querySelectorAll("li")) {
    if (/^\s*[☐☑] /.test(item.textContent)) item.classList.add("task");
  }
  for (const code of fragment.querySelectorAll("pre > code")) finishCode(code);
  return fragment;
}

/** Classes are forbidden, so the code's language travels in an attribute that is allowed. */
const withLanguages = (html) => html.replace(/<code class="language-([^"]*)">/g, '<code lang="$1">');

function finishCode(code) {
  const language = code.lang;
  code.removeAttribute("lang");
  if (hljs.getLanguage(language)) {
    // highlight.js escapes all text; its output holds nothing but spans.
    code.innerHTML = hljs.highlight(code.textContent, { language, ignoreIllegals: true }).value;
  }
  const pre = code.parentElement;
  const box = h("div", { class: "code" });
  pre.replaceWith(box);
  pre.tabIndex = 0; // so that keys can scroll it
  const copy = h("button", { type: "button", class: "quiet", "aria-label": "Copy code" });
  copy.append(icon("copy"));
  copy.addEventListener("click", () => copyText(code.textContent, copy));
  box.append(h("div", { class: "code-head", "data-untinted": true }, h("span", {}, language || "code"), copy), pre);
}

function scrollable(element, label) {
  const box = h("div", { class: "scroll-x", tabindex: 0, role: "group", "aria-label": label });
  element.replaceWith(box);
  box.append(element);
}
