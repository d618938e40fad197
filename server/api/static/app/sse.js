// Server-sent events out of a byte stream. Chunks may end anywhere: inside a line, between \r and
// \n, inside a character. What is not complete is carried over to the next chunk.

/** Collects text and hands out the data of complete events. */
export class EventParser {
  #line = "";
  #data = [];
  #afterCarriageReturn = false;

  /** Reads text; returns the data of the events that it completes. */
  push(text) {
    const events = [];
    for (const part of text.split(/(\r\n|\r|\n)/)) {
      if (part === "") continue;
      if (part !== "\n" && part !== "\r" && part !== "\r\n") {
        this.#line += part;
        this.#afterCarriageReturn = false;
        continue;
      }
      // A \r at the end of one chunk and a \n at the start of the next are one line break.
      const isSecondHalf = part === "\n" && this.#afterCarriageReturn;
      this.#afterCarriageReturn = part === "\r";
      if (!isSecondHalf) this.#endLine(events);
    }
    return events;
  }

  #endLine(events) {
    const line = this.#line;
    this.#line = "";
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line === "data" || line.startsWith("data:")) {
      this.#data.push(line.slice(5).replace(/^ /, ""));
    } // Comments (pings) and other fields say nothing here.
  }
}

/** The data of each event of a response's body; closing the generator closes the connection. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // with stream: true it keeps half a character
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // of a connection that is already gone
  }
}
