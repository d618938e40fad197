// The server's API: requests with the key, errors as the server words them, streams.

import { events } from "./sse.js";
import { currentKey } from "./store.js";

const UNREACHABLE = "The server can’t be reached.";

/** What the server answered instead: its own message, and the field at fault. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

function headers() {
  const key = currentKey();
  return {
    "content-type": "application/json",
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Something before the server answered, such as a proxy.
  }
  const message = error?.message ?? `the server answered ${response.status}`;
  return new ApiError(message, { status: response.status, code: error?.code, param: error?.param });
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(UNREACHABLE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The served model's name. */
export async function servedModel() {
  const response = await request("v1/models", { headers: headers() });
  return (await response.json()).data[0].id;
}

/** {state, message} of the server: serving, starting, dead, or what else it says; needs no key. */
export async function readiness(signal) {
  let response;
  try {
    response = await fetch("ready", { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(UNREACHABLE);
  }
  if (response.ok) return { state: "serving" };
  const { status, error } = await response.json().catch(() => ({}));
  return { state: status ?? (error ? "dead" : `answers ${response.status}`), message: error?.message ?? "" };
}

/** Prometheus's text; needs no key. */
export async function metricsText(signal) {
  return (await request("metrics", { signal })).text();
}

/**
 * The chunks of a streamed chat.
 *
 * Throws ApiError: the server refused, failed while answering, or the connection ended early.
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke before the answer was complete.");
  }
  throw new ApiError("The connection ended before the answer was complete.");
}
