// Prometheus's text format → samples. Knows the format and not the metrics.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };

/** Samples by name: [{labels, value}]. Comments and what is not understood are left out. */
export function parseMetrics(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line.trim());
    if (!match) continue;
    const [, name, labels = "", value] = match;
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels: parseLabels(labels), value: parseValue(value) });
  }
  return samples;
}

function parseLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, escaped) => ESCAPES[escaped] ?? escaped);
  }
  return labels;
}

function parseValue(text) {
  return { "+Inf": Infinity, "-Inf": -Infinity }[text] ?? Number(text);
}

/** One scrape of this server. */
export class Snapshot {
  constructor(text, seconds) {
    this.samples = parseMetrics(text);
    this.seconds = seconds;
  }

  /** Sum over the samples of `glidecape:name` that have these labels; 0 where there is none. */
  value(name, labels = {}) {
    const wanted = Object.entries(labels);
    return (this.samples.get(`glidecape:${name}`) ?? [])
      .filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value))
      .reduce((sum, sample) => sum + sample.value, 0);
  }

  /** Mean over the samples of `glidecape:name`: of a share, where several engines serve. */
  mean(name) {
    const values = (this.samples.get(`glidecape:${name}`) ?? []).map(({ value }) => value);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
  }

  /** The labels of a metric's first sample; null where there is none. */
  labels(name) {
    return this.samples.get(`glidecape:${name}`)?.[0]?.labels ?? null;
  }

  /** Of a histogram, by a straight line inside the bucket; null where nothing was observed. */
  median(name) {
    const counts = new Map(); // of all engines together
    for (const { labels, value } of this.samples.get(`glidecape:${name}_bucket`) ?? []) {
      counts.set(labels.le, (counts.get(labels.le) ?? 0) + value);
    }
    const buckets = [...counts]
      .map(([le, count]) => ({ upTo: parseValue(le), count }))
      .sort((one, other) => one.upTo - other.upTo);
    const half = (buckets.at(-1)?.count ?? 0) / 2;
    if (half === 0) return null;
    const index = buckets.findIndex(({ count }) => count >= half);
    const { upTo, count } = buckets[index];
    const below = buckets[index - 1] ?? { upTo: 0, count: 0 };
    if (upTo === Infinity) return below.upTo;
    return below.upTo + ((upTo - below.upTo) * (half - below.count)) / (count - below.count);
  }
}
