// How much faster speculation makes an answer, measured so that it is fair: the same request with the
// same seed, with and without speculation in turn and repeated, nothing drawn meanwhile. The first to
// run of a pair changes, so that neither side always runs on a warmer machine.

import { figures } from "./answer.js";

const PAIRS = 3;
const MOST_TOKENS = 64; // of a measured run; the first tokens of the same answer
const WIDE = 1.3; // largest ratio over the smallest, from which on pairs contradict each other
const SLACK = 1.05; // a clock's noise

export const RUNS = 2 * PAIRS;

/**
 * Yields the complete pairs after each run: [{speculating, plain}], each {tokensPerSecond,
 * tokensPerStep, text}.
 *
 * `run(body)`: one answer, or null where it was stopped or failed, which ends the measurement.
 */
export async function* measure(request, run) {
  const most = Math.min(request.max_tokens ?? MOST_TOKENS, MOST_TOKENS);
  const speculating = { ...request, max_tokens: most };
  const plain = { ...speculating, speculation: { policy: "off", steps: true } };
  const pairs = [];
  for (let number = 0; number < PAIRS; number++) {
    const order = number % 2 ? [plain, speculating] : [speculating, plain];
    const pair = {};
    for (const body of order) {
      const answer = await run(body);
      if (answer === null) return;
      pair[body === plain ? "plain" : "speculating"] = measured(answer);
      if (pair.plain && pair.speculating) pairs.push(pair);
      yield pairs;
    }
  }
}

/** Of one run. Its clock starts at the first token, so the step that brought it is not counted. */
function measured(answer) {
  const first = answer.steps[0]?.tokens.length ?? 0;
  const tokens = answer.steps.reduce((sum, step) => sum + step.tokens.length, 0) - first;
  const steps = answer.steps.length - 1;
  return {
    tokensPerSecond: figures(answer).tokensPerSecond,
    tokensPerStep: steps > 0 ? tokens / steps : null,
    text: answer.text,
  };
}

const median = (values) => {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/**
 * What pairs say: {ratio, low, high, tokensPerStep, speculating, plain (tokens a second), isSame,
 * disturbed}; null where there is nothing to compare.
 *
 * A step with a proposal takes at least as long as one without, so nothing can be faster by more than
 * its tokens a step. A pair that is says that something else kept the machine busy: `disturbed` is then
 * "limit", or "spread" where the pairs contradict each other, and else null.
 */
export function verdict(pairs) {
  const ratios = pairs.map(({ speculating, plain }) => speculating.tokensPerSecond / plain.tokensPerSecond);
  if (!ratios.length || !ratios.every((ratio) => Number.isFinite(ratio) && ratio > 0)) return null;
  const of = (side, figure) => median(pairs.map((pair) => pair[side][figure]));
  const tokensPerStep = of("speculating", "tokensPerStep");
  const [low, middle, high] = [Math.min(...ratios), median(ratios), Math.max(...ratios)];
  let disturbed = null;
  if (high > tokensPerStep * SLACK) disturbed = "limit";
  else if (high > low * WIDE) disturbed = "spread";
  return {
    ratio: disturbed ? middle : Math.min(middle, tokensPerStep),
    low: disturbed ? low : Math.min(low, tokensPerStep),
    high: disturbed ? high : Math.min(high, tokensPerStep),
    tokensPerStep,
    speculating: of("speculating", "tokensPerSecond"),
    plain: of("plain", "tokensPerSecond"),
    isSame: pairs.every(({ speculating, plain }) => speculating.text === plain.text),
    disturbed,
    count: pairs.length,
  };
}
