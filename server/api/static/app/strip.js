// The strip under an answer: one column a step, as wide as the step took long. From the bottom:
// accepted trunk, accepted leaf, the model's own token; faint above: what was proposed in vain.
//
// One control and not a button a step: steps are narrower than a finger. Arrow keys go through them.

import { secondsOf, stepCounts } from "./answer.js";
import { duration, h } from "./dom.js";

const USUAL_WIDTH = 12; // pixels of a step that takes the median time
const FIRST_SCALE = 300; // pixels a second, until there are steps enough for a median
const STEPS_OF_MEDIAN = [1, 12]; // the first one computes the prompt
const TOKEN_HEIGHT = 6;
const REJECTED_HEIGHT = 2;
const MOST_REJECTED = 16;

/** Words for one step. */
export function describeStep(step, index) {
  const { drafted, accepted, leaves } = stepCounts(step);
  const said = step.tokens.map(({ token }) => token).join("");
  const seconds = secondsOf(step);
  const leaf = leaves ? `, ${leaves} of them a leaf` : "";
  return `Step ${index + 1}: ${drafted} drafted, ${accepted} accepted${leaf}, ${duration(secondsOf(step))}: “${said}”`;
}

export class Strip {
  #steps = [];
  #drawn = 0;
  #onselect;
  selected = -1;

  /** `onselect(step index)`; −1 closes what was opened. `scale`: pixels a second; by the first
   * steps where null. Two strips of the same scale can be held against each other. */
  constructor(onselect, scale = null) {
    this.#onselect = onselect;
    this.scale = scale;
    this.columns = h("div", { class: "strip-columns" });
    this.element = h(
      "div",
      {
        class: "strip", role: "slider", tabindex: 0, "aria-label": "Steps of this answer",
        "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0,
        "aria-valuetext": "No step is open",
      },
      this.columns,
    );
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("click", (event) => {
      const column = event.target.closest(".step");
      if (column) this.toggle(Number(column.dataset.index));
    });
  }

  /** Draws the steps that are new. */
  update(steps) {
    this.#steps = steps;
    if (this.scale === null && steps.length >= STEPS_OF_MEDIAN[1]) this.scale = scaleOf(steps);
    this.columns.style.setProperty("--scale", this.scale ?? scaleOf(steps));
    for (; this.#drawn < steps.length; this.#drawn++) {
      this.columns.append(column(steps[this.#drawn], this.#drawn));
    }
    this.element.setAttribute("aria-valuemax", steps.length);
    if (this.selected === -1) this.element.scrollLeft = this.element.scrollWidth;
  }

  toggle(index) {
    this.select(index === this.selected ? -1 : index);
  }

  select(index) {
    this.columns.children[this.selected]?.classList.remove("open");
    this.selected = index;
    const open = this.columns.children[index];
    open?.classList.add("open");
    open?.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.element.setAttribute("aria-valuenow", index + 1);
    const words = index < 0 ? "No step is open" : describeStep(this.#steps[index], index);
    this.element.setAttribute("aria-valuetext", words);
    this.#onselect(index);
  }

  #key(event) {
    const last = this.#steps.length - 1;
    const target = {
      ArrowRight: Math.min(this.selected + 1, last),
      ArrowLeft: Math.max(this.selected - 1, 0),
      Home: 0,
      End: last,
      Escape: -1,
    }[event.key];
    if (target === undefined || last < 0 || (event.key === "Escape" && this.selected < 0)) return;
    event.preventDefault();
    event.stopPropagation();
    this.select(target);
  }
}

function scaleOf(steps) {
  const seconds = steps.slice(...STEPS_OF_MEDIAN).map(secondsOf).toSorted((a, b) => a - b);
  const median = seconds[seconds.length >> 1];
  return median > 0 ? USUAL_WIDTH / median : FIRST_SCALE;
}

function column(step, index) {
  const { drafted, accepted, leaves } = stepCounts(step);
  const trunk = accepted - leaves;
  const own = step.tokens.filter(({ source }) => source === "target").length;
  const data = { index, drafted, accepted, leaves };
  const element = h("div", { class: "step", data, title: describeStep(step, index) });
  element.style.setProperty("--seconds", secondsOf(step));
  const rejected = Math.min(drafted - accepted, MOST_REJECTED);
  element.append(
    bar("rejected", rejected * REJECTED_HEIGHT),
    bar("target", own * TOKEN_HEIGHT),
    bar("leaf", leaves * TOKEN_HEIGHT),
    bar("trunk", trunk * TOKEN_HEIGHT),
  );
  return element;
}

function bar(kind, height) {
  const element = h("i", { class: kind });
  element.style.height = `${height}px`;
  element.hidden = height === 0;
  return element;
}
