// The details beside the chat: your worker, how many messages each worker sent.

import { element } from "./dom.js";
import { compareWorkers, tint, workerBadge } from "./workers.js";

/** Event: `reconnect`, when another connection is asked for. */
export class Panel extends EventTarget {
  #panel = document.getElementById("panel");
  #chat = document.querySelector("main");
  #toggle = document.getElementById("panel-toggle");
  #worker = document.getElementById("own-worker");
  #tally = document.getElementById("tally");
  #counts = new Map();

  constructor() {
    super();
    this.#toggle.addEventListener("click", () => this.#open(!this.#isOpen()));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#isOpen()) {
        this.#open(false);
        this.#toggle.focus();
      }
    });
    // On a wide screen the panel is always beside the chat and covers nothing.
    matchMedia("(max-width: 52rem)").addEventListener("change", () => this.#open(false));
    document.getElementById("reconnect").addEventListener("click", () => {
      this.dispatchEvent(new Event("reconnect"));
    });
  }

  /** Uncovers the chat, where the panel covers it. */
  close() {
    this.#open(false);
  }

  showWorker(worker) {
    this.#worker.replaceChildren(workerBadge(worker));
  }

  /** Counts one message that was sent through `worker`; null is a program outside. */
  count(worker) {
    this.#counts.set(worker, (this.#counts.get(worker) ?? 0) + 1);
    const most = Math.max(...this.#counts.values());
    const rows = [...this.#counts].sort(([a], [b]) => compareWorkers(a, b));
    this.#tally.replaceChildren(...rows.map(([name, count]) => row(name, count, count / most)));
    document.getElementById("tally-empty").hidden = true;
  }

  #isOpen() {
    return this.#panel.classList.contains("open");
  }

  #open(open) {
    this.#chat.inert = open;
    this.#panel.classList.toggle("open", open);
    this.#toggle.ariaExpanded = String(open);
  }
}

function row(worker, count, share) {
  const fill = element("span", "fill");
  if (worker !== null) {
    tint(fill, worker);
  }
  fill.style.setProperty("--share", share);
  const badge = element("span", "", workerBadge(worker));
  return element(
    "li",
    "",
    badge,
    element("span", "", String(count)),
    element("span", "track", fill),
  );
}
