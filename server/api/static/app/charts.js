// The status page's charts, drawn with uPlot in the page's colours.

import uPlot from "../vendor/uplot-1.6.32/uPlot.esm.js";

import { byId } from "./dom.js";

const HEIGHT = 170;

const colour = (name) => getComputedStyle(byId(`c-${name}`)).color;

/** A chart that draws itself anew when its place or the page's colours change. */
export class Chart {
  #data = null;
  #plot = null;

  /** `series`: [{label, colour, bars?, points?, dash?}]; `x`, `y`: uPlot's scales and axes. */
  constructor(place, { series, x = {}, y = {} }) {
    this.place = place;
    this.series = series;
    this.x = x;
    this.y = y;
    new ResizeObserver(() => this.#resize()).observe(place);
  }

  show(data) {
    this.#data = data;
    if (this.#plot) this.#plot.setData(data);
    else this.redraw();
  }

  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    if (!this.#data || !this.place.clientWidth) return;
    this.#plot = new uPlot(this.#options(), this.#data, this.place);
  }

  #resize() {
    if (!this.#plot) this.redraw();
    else this.#plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
  }

  #options() {
    const axis = {
      stroke: colour("muted"),
      grid: { stroke: colour("line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    return {
      width: this.place.clientWidth,
      height: HEIGHT,
      padding: [10, 24, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, ...this.x.scale }, y: this.y.scale ?? {} },
      axes: [
        { ...axis, size: 28, ...this.x.axis, grid: { show: false } },
        { ...axis, size: 46, ...this.y.axis },
      ],
      series: [{}, ...this.series.map(line)],
    };
  }
}

function line({ label, colour: name, bars = false, points = false, dash }) {
  const stroke = colour(name);
  return {
    label,
    stroke,
    dash,
    width: bars ? 0 : 2,
    fill: bars ? stroke : undefined,
    paths: bars ? uPlot.paths.bars({ size: [0.62, 40], radius: 0.15 }) : undefined,
    points: { show: points, size: 6, fill: stroke },
    spanGaps: true,
  };
}
