// The details beside the chat: opened and closed on a phone, and what can be pressed there.

/** Event: `reconnect`, when another connection is asked for. */
export class Panel extends EventTarget {
  #panel = document.getElementById("panel");
  #chat = document.querySelector("main");
  #toggle = document.getElementById("panel-toggle");
  #kill = document.getElementById("kill");
  #killProblem = document.getElementById("kill-problem");

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
    this.#kill?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#killWorker();
    });
  }

  /** Uncovers the chat, where the panel covers it. */
  close() {
    this.#open(false);
  }

  /**
   * Names the worker that serves this page, for those who may end it.
   *
   * @param process tells which process it is, should the worker be started anew.
   */
  showWorker(worker, process) {
    if (this.#kill) {
      this.#kill.elements.process.value = process;
      for (const node of document.querySelectorAll("[data-worker]")) {
        node.textContent = worker;
      }
    }
  }

  /** Kafka carries the order to the worker that is to end. */
  setKafka(connected) {
    if (this.#kill) {
      this.#kill.querySelector("button").disabled = !connected;
    }
  }

  async #killWorker() {
    this.#killProblem.textContent = "";
    try {
      const body = new URLSearchParams(new FormData(this.#kill));
      const answer = await fetch(this.#kill.action, { method: "POST", body });
      if (!answer.ok) {
        this.#killProblem.textContent = "That did not work. Please try again.";
      }
    } catch {
      // The process that should have answered may be the one that ended.
    }
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
