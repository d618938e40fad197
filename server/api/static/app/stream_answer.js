// One answer from the server, with the key where the server wants one.

import { Answer } from "./answer.js";
import { streamChat } from "./api.js";
import { askForKey } from "./key_dialog.js";
import { currentKey } from "./store.js";

/** {answer, error}: the answer as far as it came; no error where it is complete. */
export async function streamAnswer(body, signal, onupdate = () => {}) {
  for (;;) {
    const key = currentKey();
    const answer = new Answer(); // its clock starts now
    try {
      for await (const chunk of streamChat(body, signal)) {
        answer.add(chunk);
        onupdate(answer);
      }
      return { answer, error: null };
    } catch (error) {
      if (error.status !== 401 || !(await askForKey(key))) return { answer, error };
    }
  }
}
