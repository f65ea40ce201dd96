// The figures in the details: messages per second and latency, as they are now.

import { duration } from "./dom.js";

const EVERY = 2_000;
const SAMPLES = 15;
// Bars of the chart, one for each EVERY: the last minute.
const BARS = 30;
// A probe that takes longer is lost.
const PATIENCE = 10_000;

/** Asks for an echo now and then, as long as somebody looks, and measures with all that return. */
export class Live {
  #rate = document.getElementById("rate");
  #latency = document.getElementById("latency");
  #chart = document.getElementById("rate-chart");
  #most = document.getElementById("chart-most");
  #send;
  #rates = [];
  #peak = 0;
  #samples = [];
  #running = false;
  #probe = null;
  #probes = 0;

  /** @param send hands a frame to the connection. */
  constructor(send) {
    this.#send = send;
    setInterval(() => this.#tick(), EVERY);
  }

  /** Connected, and Kafka can be reached: there is something to measure. */
  start() {
    this.#running = true;
    this.#ask();
  }

  stop() {
    this.#running = false;
    this.#probe = null;
    this.#samples = [];
    this.#latency.textContent = "–";
    this.#rate.textContent = "–";
  }

  /** Shows the messages per second of all workers together, which one of them just told. */
  showRate(rate) {
    if (this.#running) {
      this.#rate.textContent = format(rate);
      this.#peak = Math.max(this.#peak, rate);
    }
  }

  /** A probe came back. */
  echo(id) {
    if (this.#probe?.id === id) {
      this.add(performance.now() - this.#probe.since);
      this.#probe = null;
    }
  }

  /** Counts something that this page sent and that came back after so many milliseconds. */
  add(milliseconds) {
    this.#samples = [...this.#samples, milliseconds].slice(-SAMPLES);
    if (this.#running) {
      this.#latency.textContent = duration(median(this.#samples));
    }
  }

  #tick() {
    if (!this.#running) {
      return;
    }
    this.#rates = [...this.#rates, this.#peak].slice(-BARS);
    this.#peak = 0;
    this.#draw();
    this.#ask();
  }

  #ask() {
    const lost = this.#probe === null || performance.now() - this.#probe.since > PATIENCE;
    if (lost && document.visibilityState === "visible") {
      this.#probe = { id: String(++this.#probes), since: performance.now() };
      this.#send({ type: "probe", id: this.#probe.id });
    }
  }

  #draw() {
    // A quiet chat is a flat line, and not a mountain range of small numbers.
    const most = Math.max(2, Math.ceil(Math.max(...this.#rates)));
    this.#most.textContent = format(most);
    const first = BARS - this.#rates.length;
    const bars = this.#rates.map((rate, index) => {
      const height = Math.max(0.04, rate / most);
      return `M${first + index + 0.15} 1v${-height}h0.7v${height}z`;
    });
    this.#chart.setAttribute("d", bars.join(""));
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function format(value) {
  return value.toLocaleString(undefined, {
    minimumFractionDigits: 0,
    maximumFractionDigits: value < 10 ? 1 : 0,
  });
}
