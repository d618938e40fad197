// One answer as it comes in: its text, its tokens with their origin, its steps, its clocks. Knows
// nothing of the page.

/** Gathers the chunks of one stream. */
export class Answer {
  text = "";
  thinking = "";
  steps = [];
  report = null;
  usage = null;
  finishReason = null;
  model = null;
  firstTokenSeconds = null;
  decodeSeconds = 0;
  #started = performance.now();
  #firstToken = null;
  #textBegin = 0; // where the text begins in what offsets count: behind the thinking, if there is any

  /** Takes one chunk of the stream. */
  add(chunk) {
    this.model ??= chunk.model;
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.speculation) this.report = chunk.speculation;
    const choice = chunk.choices[0];
    if (!choice) return;
    this.thinking += choice.delta.reasoning_content ?? "";
    const isFirst = this.text === "" && choice.delta.content;
    this.text += choice.delta.content ?? "";
    this.finishReason = choice.finish_reason ?? this.finishReason;
    if (isFirst && this.thinking && chunk.speculation_step) this.#findText(chunk.speculation_step);
    if (chunk.speculation_step) this.#addStep(chunk.speculation_step);
    else if (choice.delta.content || choice.delta.reasoning_content) this.#tick();
  }

  /** The text so far ends where the step's last token does. */
  #findText({ tokens }) {
    const { text_offset: begin, token } = tokens.at(-1);
    this.#textBegin = Math.max(0, begin + Array.from(token).length - Array.from(this.text).length);
  }

  /** Tokens of thinking have negative offsets. */
  #addStep(step) {
    this.#tick();
    const isThinking = this.thinking !== "" && this.text === "";
    const tokens = step.tokens.map(({ token, source, text_offset }) => ({
      token, source, offset: isThinking ? -1 : text_offset - this.#textBegin,
    }));
    this.steps.push({ ...step, tokens, at: this.decodeSeconds });
  }

  #tick() {
    const now = performance.now();
    this.#firstToken ??= now;
    this.firstTokenSeconds ??= (now - this.#started) / 1000;
    this.decodeSeconds = (now - this.#firstToken) / 1000;
  }

  /** What is kept of it. */
  toJSON() {
    const { text, thinking, steps, report, usage, finishReason, model } = this;
    const { firstTokenSeconds, decodeSeconds } = this;
    return {
      text, thinking, steps, report, usage, finishReason, model, firstTokenSeconds, decodeSeconds,
    };
  }
}

/** Counts of a step for the strip and its words. */
export function stepCounts(step) {
  const leaves = step.accepted.filter((node) => step.nodes[node - 1].kind === "leaf").length;
  return { drafted: step.nodes.length, accepted: step.accepted.length, leaves };
}

/** How long a step took, by the server's own clock. */
export const secondsOf = (step) => step.draft_seconds + step.verify_seconds + step.other_seconds;

/**
 * Figures of an answer, complete or not; rates count from the first token on.
 *
 * A page that got no processor reads many chunks at once, and its clock then says next to nothing: no
 * answer was faster than its steps.
 */
export function figures({ steps = [], decodeSeconds = 0, firstTokenSeconds = null, usage }) {
  const fromSteps = steps.reduce((sum, step) => sum + step.tokens.length, 0);
  const tokens = usage?.completion_tokens ?? fromSteps;
  const least = steps.slice(1).reduce((sum, step) => sum + secondsOf(step), 0);
  const seconds = Math.max(decodeSeconds, least);
  const firstBatch = steps[0]?.tokens.length ?? 1;
  const counts = steps.map(stepCounts);
  const drafted = counts.reduce((sum, count) => sum + count.drafted, 0);
  const accepted = counts.reduce((sum, count) => sum + count.accepted, 0);
  return {
    tokens,
    tokensPerSecond: seconds > 0 ? (tokens - firstBatch) / seconds : null,
    tokensPerStep: steps.length ? fromSteps / steps.length : null,
    acceptance: drafted ? accepted / drafted : null,
    firstTokenSeconds,
  };
}
