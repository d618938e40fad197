// The status page's figures, out of snapshots of /metrics.

import { duration, percent } from "./dom.js";

const BINS = 10;
const NONE = "–";

/** What serves here: [[name, value]]. */
export function facts(snapshot) {
  const { model_name, version, draft, policy, kernels, precision } = snapshot.labels("server_info") ?? {};
  const all = [
    ["Version", version],
    ["Up for", span(snapshot.value("uptime_seconds"))],
    ["Model", model_name && precision ? `${model_name} (${precision})` : model_name],
    ["Draft", draft && draft !== "none" ? `${draft}, policy ${policy}` : draft],
    ["Computed by", kernels],
  ];
  return all.filter(([, value]) => value);
}

/** Of the last minute, up to which `before` lies back. */
export function nowTiles(before, now) {
  const seconds = now.seconds - before.seconds;
  const tokens = now.value("generation_tokens_total") - before.value("generation_tokens_total");
  return [
    ["Tokens per second", seconds > 0 ? (tokens / seconds).toFixed(1) : NONE],
    ["Running", now.value("num_requests_running")],
    ["Waiting", now.value("num_requests_waiting")],
    ["KV cache in use", percent(now.mean("kv_cache_usage_perc"))],
  ];
}

export function totalTiles(snapshot) {
  const total = (name) => snapshot.value(`spec_decode_${name}_total`);
  const speedup = ratio(total("plain_seconds"), total("decode_seconds"));
  const acceptance = ratio(total("num_accepted_tokens"), total("num_draft_tokens"));
  const perStep = ratio(total("num_accepted_tokens"), total("num_drafts"));
  const inWords = (value, words) => (value === null ? NONE : words(value));
  return [
    ["Tokens generated", snapshot.value("generation_tokens_total").toLocaleString("en")],
    ["To the first token (median)", inWords(snapshot.median("time_to_first_token_seconds"), duration)],
    ["Between tokens (median)", inWords(snapshot.median("inter_token_latency_seconds"), duration)],
    ["Speedup", inWords(speedup, (value) => `${value.toFixed(2)}×`)],
    ["Tokens a speculative step", inWords(perStep, (value) => (1 + value).toFixed(2))],
    ["Drafted tokens accepted", inWords(acceptance, percent)],
  ];
}

const ratio = (above, below) => (below > 0 ? above / below : null);

/** 59 → "59 s", 3700 → "1 h 1 min" */
function span(seconds) {
  const minutes = Math.floor(seconds / 60);
  const [days, hours] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/** Share of proposals that were right at a position. */
export function positions(snapshot, count) {
  const drafts = snapshot.value("spec_decode_num_drafts_total");
  const numbers = Array.from({ length: count }, (_, index) => index);
  const accepted = numbers.map((position) =>
    snapshot.value("spec_decode_num_accepted_tokens_per_pos_total", { position: String(position) }),
  );
  return [numbers.map((n) => n + 1), accepted.map((right) => ratio(right, drafts))];
}

/** Share of right tokens over the middle of each bin of confidence. */
export function calibration(snapshot) {
  const middles = Array.from({ length: BINS }, (_, index) => (index + 0.5) / BINS);
  const shareOf = middles.map((_, index) => {
    const bin = `${(index / BINS).toFixed(1)}-${((index + 1) / BINS).toFixed(1)}`;
    const count = (accepted) => snapshot.value("spec_decode_calibration_total", { bin, accepted });
    return ratio(count("true"), count("true") + count("false"));
  });
  return [middles, middles, shareOf];
}
