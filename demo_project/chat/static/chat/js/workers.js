// How workers look: each has its own hue, the same on every page.

import { element } from "./dom.js";

const HUES = [255, 155, 60, 320, 200, 20, 105, 285];
// A worker for jobs has another hue than the web worker of the same number.
const JOB_SHIFT = 3;

/** @param worker its name, or null for what no worker sent: a program wrote it to Kafka. */
export function workerBadge(worker) {
  if (worker === null) {
    return element("span", "badge outside", element("span", "badge-name", "Kafka"));
  }
  const badge = tint(element("span", "badge", element("span", "badge-name", worker)), worker);
  badge.classList.toggle("job", isForJobs(worker));
  return badge;
}

/** Gives `node` and what is in it the worker's colours. */
export function tint(node, worker) {
  node.classList.add("hue");
  node.style.setProperty("--hue", hueOf(worker));
  return node;
}

/** Compares for sorting: web workers, workers for jobs, programs outside. */
export function compareWorkers(a, b) {
  const rank = (worker) => (worker === null ? 2 : Number(isForJobs(worker)));
  return rank(a) - rank(b) || (a ?? "").localeCompare(b ?? "", undefined, { numeric: true });
}

export function isForJobs(worker) {
  return worker.startsWith("job-");
}

function hueOf(worker) {
  const number = Number(worker.match(/\d+$/)?.[0] ?? 1);
  const shift = isForJobs(worker) ? JOB_SHIFT : 0;
  return HUES[(number + shift + HUES.length - 1) % HUES.length];
}
