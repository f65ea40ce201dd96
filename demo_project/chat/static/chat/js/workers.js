// How workers look: each has its own hue, the same on every page.

import { element } from "./dom.js";

const HUES = [255, 155, 60, 320, 200, 20, 105, 285];

export function workerBadge(worker) {
  return tint(element("span", "badge", worker), worker);
}

/** Gives `node` and what is in it the worker's colours. */
export function tint(node, worker) {
  node.classList.add("hue");
  node.style.setProperty("--hue", hueOf(worker));
  return node;
}

function hueOf(worker) {
  const number = Number(worker.match(/\d+$/)?.[0] ?? 1);
  return HUES[(number + HUES.length - 1) % HUES.length];
}
