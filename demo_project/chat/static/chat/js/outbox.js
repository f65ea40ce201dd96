// One's own messages that are on their way: each waits here until it comes back from the room.
//
// A worker that dies, or a Kafka that stays away for too long, may take a message along. So what
// has not come back is sent again, with the same id: it arrives once.

const MOST = 8;
const SHOW_AFTER = 700;
// What waited in the worker for Kafka to come back is here sooner than this.
const TRUST_FOR = 5_000;

/** Event: `latency`, with the milliseconds in which a message came back. */
export class Outbox extends EventTarget {
  #send;
  #log;
  #waiting = new Map();
  #again = null;

  /**
   * @param send hands a frame to the connection; what it cannot take is sent when it is back.
   * @param log shows what takes long.
   */
  constructor(send, log) {
    super();
    this.#send = send;
    this.#log = log;
  }

  /** Sends a message; returns false when too many wait already. */
  post(frame) {
    if (this.#waiting.size >= MOST) {
      return false;
    }
    const entry = { frame: { ...frame, id: newId() }, since: performance.now(), tries: 0 };
    entry.timer = setTimeout(() => {
      entry.item = this.#log.addWaiting(entry.frame.text);
    }, SHOW_AFTER);
    this.#waiting.set(entry.frame.id, entry);
    this.#try(entry);
    return true;
  }

  /** A message came back from the room, or from another page of one's own. */
  settle(id) {
    const entry = this.#remove(id);
    if (entry?.tries === 1) {
      const detail = performance.now() - entry.since;
      this.dispatchEvent(new CustomEvent("latency", { detail }));
    }
  }

  /** A message was refused; returns its text, or undefined if it is none of these. */
  refuse(id) {
    return this.#remove(id)?.frame.text;
  }

  /** Another connection is open: what the last one had may be lost. */
  sendAgain() {
    clearTimeout(this.#again);
    for (const entry of this.#waiting.values()) {
      this.#try(entry);
    }
  }

  /** Kafka is back: the worker sends what it kept, and this what it had to give up. */
  sendAgainLater() {
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.sendAgain(), TRUST_FOR);
  }

  #try(entry) {
    entry.tries += Number(this.#send(entry.frame));
  }

  #remove(id) {
    const entry = this.#waiting.get(id);
    if (entry !== undefined) {
      this.#waiting.delete(id);
      clearTimeout(entry.timer);
      entry.item?.remove();
    }
    return entry;
  }
}

function newId() {
  // Also where the page is not served from a secure address, unlike randomUUID.
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
