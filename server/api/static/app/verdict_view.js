// What a comparison shows, above the two answers.

import { RUNS } from "./comparison.js";
import { h } from "./dom.js";

const times = (ratio) => `${ratio.toFixed(2)}×`;

export class VerdictView {
  element = h("div", { class: "verdict", hidden: true });

  /** While it is measured; `run` counts from 1. */
  measuring(run) {
    this.#show("", h("span", { class: "spinner" }), h("span", {}, `Measuring, run ${run} of ${RUNS}: with and without speculation in turn …`));
  }

  replaying() {
    this.#show("", h("span", { class: "spinner" }), h("span", {}, "The same answer once more, without speculation …"));
  }

  hide() {
    this.element.hidden = true;
  }

  /** `result`: of `verdict`; null where it could not be measured. `isSame`: the shown texts. */
  show(result, isSame) {
    const same = isSame && (result?.isSame ?? true);
    const texts = h("span", { class: same ? "same" : "different" }, same ? "equal text" : "the texts differ");
    if (result === null) this.#show("", h("span", {}, "The answer is too short to be measured."), texts);
    else if (result.disturbed) this.#show("disturbed", h("strong", {}, "Disturbed measurement"), h("span", {}, why(result)), texts);
    else this.#show("measured", h("strong", { class: "ratio" }, times(result.ratio)), h("span", {}, words(result)), texts);
    this.element.dataset.same = String(same);
    if (result) {
      const { ratio, tokensPerStep, count } = result;
      Object.assign(this.element.dataset, { ratio, perStep: tokensPerStep, pairs: count });
    }
  }

  #show(kind, ...children) {
    this.element.dataset.kind = kind;
    this.element.replaceChildren(...children);
    this.element.hidden = false;
  }

  /** For those who don't see it. */
  get text() {
    return this.element.textContent;
  }
}

function spread({ low, high, count }) {
  return count > 1 ? `${count} pairs of runs, ${times(low)} to ${times(high)}` : "one pair of runs";
}

function words(result) {
  const what = result.ratio >= 1 ? "as fast with speculation" : "as fast with speculation, which doesn’t pay here";
  const { speculating, plain, tokensPerStep } = result;
  return (
    `${what}: ${speculating.toFixed(1)} against ${plain.toFixed(1)} tokens/s, ` +
    `${tokensPerStep.toFixed(2)} tokens a step (${spread(result)})`
  );
}

function why(result) {
  const again = "Something else kept this machine busy: compare again when it is quiet.";
  if (result.disturbed === "limit") {
    return `${times(result.high)} was measured, and ${result.tokensPerStep.toFixed(2)} tokens a step allow no more than that. ${again}`;
  }
  return `The runs contradict each other, ${times(result.low)} to ${times(result.high)}. ${again}`;
}
