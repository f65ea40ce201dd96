// A websocket of JSON frames that comes back by itself.

const FIRST_DELAY = 500;
const LONGEST_DELAY = 10_000;
// A page that lost its worker is sent on by those that have more pages than others; so often.
const CROWDED = 4503;
const SENT_ON = 3;

/**
 * Events: `frame` with the parsed frame as its detail, and `state` with one of
 * "connecting", "open", "waiting" (for the next try) and "ended" (for good).
 */
export class Connection extends EventTarget {
  #url;
  #socket = null;
  #failures = 0;
  #timer = null;
  #ended = false;
  #lost = false;
  #sentOn = 0;

  constructor(path) {
    super();
    this.#url = new URL(path, location.href);
    this.#url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => this.#retryNow());
  }

  open() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#emit("state", "connecting");
    const url = new URL(this.#url);
    if (this.#lost && this.#sentOn < SENT_ON) {
      url.searchParams.set("lost", "1");
    }
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.addEventListener("open", () => {
      this.#failures = 0;
      this.#emit("state", "open");
    });
    socket.addEventListener("message", ({ data }) => {
      this.#lost = false;
      this.#sentOn = 0;
      this.#emit("frame", JSON.parse(data));
    });
    socket.addEventListener("close", ({ code }) => {
      if (socket !== this.#socket) {
        return; // reconnect() or end() dropped it
      }
      if (code === CROWDED) {
        this.#sentOn++;
        this.open();
      } else {
        this.#lost = true;
        this.#retryLater();
      }
    });
  }

  /** Returns whether the frame could be handed to the socket. */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      return false;
    }
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  reconnect() {
    if (!this.#ended) {
      this.#drop();
      this.open();
    }
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#drop();
    this.#emit("state", "ended");
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #retryLater() {
    this.#socket = null;
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
    // Spread, so that a worker that ends does not get all its browsers back at once.
    this.#timer = setTimeout(() => this.open(), longest * (0.5 + Math.random() / 2));
    this.#emit("state", "waiting");
  }

  #retryNow() {
    if (this.#timer !== null && document.visibilityState === "visible") {
      this.open();
    }
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
