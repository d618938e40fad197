// An answer as a message of a conversation: with what it was asked, and how it ended.

import { requestFields, systemPrompt } from "./settings.js";

const LEFT = "This answer is not complete: the page was left before it was.";

/** One that is about to come, by the settings as they are now. */
export const newAnswer = () => ({ role: "assistant", content: "", system: systemPrompt(), request: requestFields() });

/** What it is as long as it has not ended. */
export const unfinished = { notice: LEFT, isBroken: true };

/** Takes over what an `Answer` has so far. */
export function keepAnswer(kept, answer) {
  const { text, ...rest } = answer.toJSON();
  Object.assign(kept, { content: text, ...rest });
}

/** What is to be said under an answer, by how it ended. */
export function ending(error, answer) {
  if (error?.name === "AbortError") return { notice: "Stopped.", isBroken: false };
  if (error) return { notice: `This answer is not complete. ${error.message}`, isBroken: true };
  const isCut = answer.finishReason === "length";
  const tokens = answer.usage?.completion_tokens;
  const notice = isCut ? `Cut at ${tokens ?? "the most"} tokens; “Max tokens” in the settings allows more.` : "";
  return { notice, isBroken: false };
}
