// What the server is doing, from /ready and /metrics: asked every two seconds while somebody looks.

import { metricsText, readiness } from "./api.js";
import { Chart } from "./charts.js";
import { byId, h } from "./dom.js";
import { Snapshot } from "./metrics_text.js";
import { calibration, facts, nowTiles, positions, totalTiles } from "./status_figures.js";

const EVERY_MS = 2000;
const KEPT = 150; // scrapes: five minutes
const MINUTE = 30; // scrapes
const POSITIONS = 8;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
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
  #goneSince = null;

  constructor() {
    const at = (name, options) => new Chart(byId(`chart-${name}`), options);
    this.charts = {
      requests: at("requests", {
        series: [{ label: "running", colour: "trunk" }, { label: "waiting", colour: "leaf" }],
        x: time, y: { ...fromZero, axis: { incrs: WHOLE } },
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
      const [state, text] = await Promise.all([readiness(signal), metricsText(signal)]);
      this.#take(new Snapshot(text, performance.now() / 1000));
      this.#goneSince = null;
      showState(state);
    } catch (error) {
      if (signal.aborted) return;
      this.#goneSince ??= new Date();
      showGone(this.#goneSince, error.message);
    }
    if (!signal.aborted) this.#timer = setTimeout(() => this.#poll(), EVERY_MS);
  }

  #take(snapshot) {
    const last = this.#snapshots.at(-1);
    // Another start of the server counts from zero: what was before has nothing to do with it.
    if (last && snapshot.value("uptime_seconds") < last.value("uptime_seconds")) this.#snapshots = [];
    this.#snapshots.push(snapshot);
    this.#snapshots = this.#snapshots.slice(-KEPT);
    const aMinuteAgo = this.#snapshots.at(-Math.min(this.#snapshots.length, MINUTE));
    byId("facts").replaceChildren(...facts(snapshot).map(fact));
    byId("tiles-now").replaceChildren(...nowTiles(aMinuteAgo, snapshot).map(tile));
    byId("tiles-total").replaceChildren(...totalTiles(snapshot).map(tile));
    this.#overTime();
    this.charts.positions.show(positions(snapshot, POSITIONS));
    this.charts.calibration.show(calibration(snapshot));
  }

  #overTime() {
    const all = this.#snapshots;
    const now = all.at(-1).seconds;
    const seconds = all.map((each) => Math.round(each.seconds - now));
    const gauge = (name) => all.map((each) => each.value(name));
    this.charts.requests.show([seconds, gauge("num_requests_running"), gauge("num_requests_waiting")]);
    this.charts.kv.show([seconds, all.map((each) => each.mean("kv_cache_usage_perc"))]);
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

const pair = ([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))];
const fact = (each) => h("div", {}, ...pair(each));
const tile = (each) => h("div", { class: "tile", data: { tile: each[0] } }, ...pair(each));

const WORDS = {
  serving: "Serving",
  starting: "Starting",
  draining: "Stopping",
  dead: "The engine has stopped",
};

function showState({ state, message }) {
  setState(WORDS[state] ? state : "unknown", WORDS[state] ?? state, false);
  const isDead = state === "dead";
  if (isDead) explain("The engine has stopped", `No question can be answered until the server is started again. It says: ${message}`);
  byId("status-error").hidden = !isDead;
}

function showGone(since, message) {
  setState("down", "Not reachable", true);
  const time = since.toLocaleTimeString();
  explain(`No answer since ${time}`, `${message} It may have been stopped, or the network is gone. Asked again every two seconds; the figures below are from before ${time}.`);
  byId("status-error").hidden = false;
}

function setState(state, words, isStale) {
  const element = byId("state");
  element.dataset.state = state;
  if (element.textContent !== words) element.textContent = words; // said once by a screen reader
  byId("view-status").classList.toggle("is-stale", isStale);
}

function explain(title, text) {
  const box = byId("status-error");
  if (box.firstElementChild.textContent === title) return;
  box.firstElementChild.textContent = title;
  box.lastElementChild.textContent = text;
}
