// The list of workers: which are alive, how many pages each serves, what came through each.

import { element } from "./dom.js";
import { compareWorkers, isForJobs, tint, workerBadge } from "./workers.js";

// A report comes every two seconds.
const SILENT_AFTER = 5_000;
const GONE_AFTER = 30_000;
const LOOK_EVERY = 1_000;

export class Fleet {
  #list = document.getElementById("workers");
  #empty = document.getElementById("workers-empty");
  #reports = new Map();
  #counts = new Map();
  #own = null;
  #paused = true;

  constructor() {
    setInterval(() => this.#look(), LOOK_EVERY);
  }

  /** This page is connected through `worker`. */
  own(worker) {
    this.#own = worker;
  }

  /** From now on what the workers say can be heard. */
  start() {
    this.#paused = false;
    // Nobody could be heard meanwhile: all have as much time as at first.
    for (const report of this.#reports.values()) {
      report.at = performance.now();
    }
    this.#list.classList.remove("stale");
    this.#refresh();
  }

  /** Nobody can be heard: the list may be out of date. */
  pause() {
    this.#paused = true;
    this.#list.classList.add("stale");
  }

  /** A worker said how it is. */
  heard({ worker, pages, per_second: perSecond }) {
    this.#reports.set(worker, { pages, perSecond, at: performance.now() });
    this.#refresh();
  }

  /** Counts one message that was sent through `worker`; null is a program outside. */
  count(worker) {
    this.#counts.set(worker, (this.#counts.get(worker) ?? 0) + 1);
    this.#refresh();
  }

  /** Messages per second that all workers together hand to their pages. */
  rate() {
    const alive = [...this.#reports.values()].filter((report) => !isSilent(report));
    return alive.reduce((sum, { perSecond }) => sum + perSecond, 0);
  }

  #look() {
    if (this.#paused) {
      return;
    }
    for (const [worker, { at }] of this.#reports) {
      if (performance.now() - at > GONE_AFTER) {
        this.#reports.delete(worker);
      }
    }
    this.#refresh();
  }

  #refresh() {
    const names = [...new Set([...this.#reports.keys(), ...this.#counts.keys()])];
    const most = Math.max(1, ...this.#counts.values());
    const rows = names.sort(compareWorkers).map((name) => this.#row(name, most));
    this.#list.replaceChildren(...rows);
    this.#empty.hidden = rows.length > 0;
  }

  #row(worker, most) {
    const count = this.#counts.get(worker) ?? 0;
    const fill = element("span", "fill");
    fill.style.setProperty("--share", count / most);
    if (worker !== null) {
      tint(fill, worker);
    }
    const name = element("span", "fleet-name", workerBadge(worker));
    if (worker !== null && worker === this.#own) {
      name.append(element("span", "tag", "yours"));
    }
    const report = this.#reports.get(worker);
    const row = element(
      "li",
      "",
      name,
      element("span", "fleet-state", this.#state(worker, report)),
      element("span", "track", fill),
      element("span", "fleet-count", plural(count, "message")),
    );
    row.classList.toggle("silent", worker !== null && (!report || isSilent(report)));
    return row;
  }

  #state(worker, report) {
    if (worker === null) {
      return "from outside";
    }
    if (!report || (isSilent(report) && !this.#paused)) {
      return "silent";
    }
    return isForJobs(worker) ? "jobs" : plural(report.pages, "page");
  }
}

function isSilent({ at }) {
  return performance.now() - at > SILENT_AFTER;
}

function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
