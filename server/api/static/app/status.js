// What the server is doing, from /metrics alone: asked every two seconds while somebody looks.

import { metricsText } from "./api.js";
import { Chart } from "./charts.js";
import { byId, h, percent } from "./dom.js";
import { Snapshot } from "./metrics_text.js";

const EVERY_MS = 2000;
const KEPT = 150; // scrapes: five minutes
const POSITIONS = 8;
const BINS = 10;
const PARTS = ["draft", "verify", "other"];

const ago = (plot, ticks) => ticks.map((tick) => (tick === 0 ? "now" : `${tick} s`));
const time = { scale: { range: (plot, min) => [Math.min(min, -60), 0] }, axis: { values: ago } };
const shares = {
  scale: { range: [0, 1] },
  axis: { values: (plot, ticks) => ticks.map((tick) => `${Math.round(tick * 100)} %`) },
};
const fromZero = { scale: { range: (plot, min, max) => [0, Math.max(1, max * 1.15)] } };

export class Status {
  #snapshots = [];
  #timer = null;
  #abort = null;

  constructor() {
    const at = (name, options) => new Chart(byId(`chart-${name}`), options);
    this.charts = {
      requests: at("requests", {
        series: [{ label: "running", colour: "trunk" }, { label: "waiting", colour: "leaf" }],
        x: time, y: fromZero,
      }),
      kv: at("kv", { series: [{ label: "KV cache", colour: "trunk" }], x: time, y: shares }),
      speed: at("speed", { series: [{ label: "tokens/s", colour: "trunk" }], x: time, y: fromZero }),
      positions: at("positions", {
        series: [{ label: "accepted", colour: "trunk", bars: true }],
        x: { scale: { range: [0.4, POSITIONS + 0.6] }, axis: { incrs: [1], space: 18 } }, y: shares,
      }),
      calibration: at("calibration", {
        series: [
          { label: "calibrated", colour: "muted", dash: [4, 4] },
          { label: "accepted", colour: "trunk", points: true },
        ],
        x: { scale: { range: [0, 1] }, axis: shares.axis }, y: shares,
      }),
      parts: at("parts", {
        series: [
          { label: "draft", colour: "leaf" },
          { label: "verify", colour: "trunk" },
          { label: "other", colour: "muted" },
        ],
        x: time,
        y: {
          scale: { range: (plot, min, max) => [0, max * 1.15 || 1] },
          axis: { values: (plot, ticks) => ticks.map((tick) => `${tick} ms`), size: 56 },
        },
      }),
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  start() {
    if (this.#abort) return;
    this.#abort = new AbortController();
    this.#poll();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  redraw() {
    for (const chart of Object.values(this.charts)) chart.redraw();
  }

  async #poll() {
    const { signal } = this.#abort;
    try {
      this.#take(new Snapshot(await metricsText(signal), performance.now() / 1000));
      byId("status-error").hidden = true;
    } catch (error) {
      if (signal.aborted) return;
      byId("status-error").textContent = error.message;
      byId("status-error").hidden = false;
    }
    if (!signal.aborted) this.#timer = setTimeout(() => this.#poll(), EVERY_MS);
  }

  #take(snapshot) {
    this.#snapshots.push(snapshot);
    this.#snapshots = this.#snapshots.slice(-KEPT);
    showTiles(snapshot);
    this.#overTime();
    this.charts.positions.show(positions(snapshot));
    this.charts.calibration.show(calibration(snapshot));
  }

  #overTime() {
    const all = this.#snapshots;
    const now = all.at(-1).seconds;
    const seconds = all.map((each) => Math.round(each.seconds - now));
    const gauge = (name) => all.map((each) => each.value(name));
    this.charts.requests.show([seconds, gauge("num_requests_running"), gauge("num_requests_waiting")]);
    this.charts.kv.show([seconds, gauge("kv_cache_usage_perc")]);
    this.charts.speed.show([
      seconds,
      between(all, (before, after) => rate(before, after, "generation_tokens_total")),
    ]);
    const ofPart = (part) => between(all, (before, after) => msPerStep(before, after, part));
    this.charts.parts.show([seconds, ...PARTS.map(ofPart)]);
  }
}

/** A figure of each pair of neighbours; null for the first. */
function between(all, figure) {
  return all.map((after, index) => (index === 0 ? null : figure(all[index - 1], after)));
}

const rate = (before, after, name) =>
  (after.value(name) - before.value(name)) / (after.seconds - before.seconds);

/** Mean milliseconds of a part in the steps between two scrapes; null where there was none. */
function msPerStep(before, after, part) {
  const steps = after.value("step_duration_seconds_count") - before.value("step_duration_seconds_count");
  const spent =
    after.value("spec_decode_seconds_total", { part }) -
    before.value("spec_decode_seconds_total", { part });
  return steps > 0 ? (1000 * spent) / steps : null;
}

function positions(snapshot) {
  const drafts = snapshot.value("spec_decode_num_drafts_total");
  const numbers = Array.from({ length: POSITIONS }, (_, index) => index);
  const accepted = numbers.map((position) =>
    snapshot.value("spec_decode_num_accepted_tokens_per_pos_total", { position: String(position) }),
  );
  return [numbers.map((n) => n + 1), accepted.map((count) => (drafts ? count / drafts : null))];
}

/** Share of right tokens over the middle of each bin of confidence. */
function calibration(snapshot) {
  const middles = Array.from({ length: BINS }, (_, index) => (index + 0.5) / BINS);
  const shareOf = middles.map((_, index) => {
    const bin = `${(index / BINS).toFixed(1)}-${((index + 1) / BINS).toFixed(1)}`;
    const count = (accepted) => snapshot.value("spec_decode_calibration_total", { bin, accepted });
    const all = count("true") + count("false");
    return all ? count("true") / all : null;
  });
  return [middles, middles, shareOf];
}

function showTiles(snapshot) {
  const total = (name) => snapshot.value(`spec_decode_${name}_total`);
  const ratio = (above, below) => (below > 0 ? above / below : null);
  const speedup = ratio(total("plain_seconds"), total("decode_seconds"));
  const acceptance = ratio(total("num_accepted_tokens"), total("num_draft_tokens"));
  const perStep = ratio(total("num_accepted_tokens"), total("num_drafts"));
  const tiles = [
    ["Running", snapshot.value("num_requests_running")],
    ["Waiting", snapshot.value("num_requests_waiting")],
    ["KV cache", percent(snapshot.value("kv_cache_usage_perc"))],
    ["Tokens generated", snapshot.value("generation_tokens_total").toLocaleString("en")],
    ["Speedup", speedup === null ? "–" : `${speedup.toFixed(2)}×`],
    ["Tokens a speculative step", perStep === null ? "–" : (1 + perStep).toFixed(2)],
    ["Drafted tokens accepted", acceptance === null ? "–" : percent(acceptance)],
  ];
  byId("tiles").replaceChildren(
    ...tiles.map(([name, value]) =>
      h("div", { class: "tile", data: { tile: name } }, h("dt", {}, name), h("dd", {}, String(value))),
    ),
  );
}
