// A WebSocket that comes back by itself and gets the messages that it missed, or says that it
// cannot. For consumers with a recovery mixin of kafka_layer; docs/recovery.md describes the frames.

const SUBPROTOCOL = "kafka-layer.v1";
const POSITION = "kafka-layer.position.";
const GAP = 4008;
// What a page offers that was connected and has no position: the verdict on it is "invalid", and the
// application loads the state anew.
const LOST = "lost";

// Milliseconds.
const FIRST_DELAY = 500;
const LONGEST_DELAY = 20_000;
// A connection that lasted so long was a good one: the next delay is a short one again.
const STABLE_AFTER = 5_000;
const HANDSHAKE_TIMEOUT = 20_000;
// How much later than promised a frame may come, and how long frames that wait in a page that slept
// have to be delivered.
const LATE = 10_000;
const WAKING = 1_000;

/**
 * Events, besides `open`, `message` and `close` of a WebSocket (`close` only at the end):
 *
 * - `recovered`: what was missed has come, `detail.count` messages of the server.
 * - `unrecovered`: something may be missing, for `detail.reason`; the page loads its state anew.
 * - `gap`: the page was too slow, and the server had to drop messages; the verdict follows.
 * - `state`: `detail` is "connecting", "open", "waiting" (for the next try) or "closed" (for good).
 */
export class RecoveringSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;
  CONNECTING = 0;
  OPEN = 1;
  CLOSING = 2;
  CLOSED = 3;

  #url;
  #protocols;
  #storage;
  #binaryType = "blob";
  #state = "connecting";
  #socket = null;
  // The position that the server told last, and the highest offset of each lane since the verdict.
  #token = "";
  #places = new Map();
  #lost = false;
  #openedAt = 0;
  #failures = 0;
  #retry;
  // The longest silence that the server allows itself, and when it was heard last.
  #silence = Infinity;
  #heardAt = 0;
  #suspectedAt = 0;
  #watch;
  #listening = new AbortController();

  /**
   * @param url the address, which may be relative to the page and begin with http.
   * @param options `storage`: "session" keeps the position over a reload of the page, "memory" does
   *   not; `position`: where to begin, of the moment before the page's data was loaded;
   *   `protocols`: subprotocols of the application.
   */
  constructor(url, { storage = "memory", position = "", protocols = [] } = {}) {
    super();
    if (storage !== "memory" && storage !== "session") {
      throw new TypeError(`storage is "memory" or "session", not ${storage}`);
    }
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#protocols = [protocols].flat();
    this.#storage = storage === "session" ? new Stored(`kafka-layer ${this.#url}`) : null;
    this.#setPosition(position || this.#storage?.read() || "");
    // Throws for a wrong address or subprotocol.
    this.#connect();
    this.#listen();
  }

  get url() {
    return this.#url.href;
  }

  get readyState() {
    return { connecting: 0, open: 1, waiting: 0, closed: 3 }[this.#state];
  }

  /** As the detail of the event `state`. */
  get state() {
    return this.#state;
  }

  get protocol() {
    return this.#socket?.protocol ?? "";
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    this.#binaryType = type;
    if (this.#socket) {
      this.#socket.binaryType = type;
    }
  }

  /** Up to where this page has everything; "" if that is unknown. */
  get position() {
    const places = Array.from(this.#places, ([lane, offset]) => `${lane}.${offset}`);
    return this.#token && [this.#token, ...places].join("~");
  }

  /** Sends to the server; returns false, and drops it, while there is no connection. */
  send(data) {
    // A WebSocket that is closing takes it, and drops it.
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      return false;
    }
    this.#socket.send(data);
    return true;
  }

  /** Ends it for good. */
  close(code, reason) {
    // Throws for a code that a page may not use.
    this.#socket?.close(code, reason);
    this.#end(code ?? 1000, reason ?? "");
  }

  /** Drops the connection and makes another one at once. */
  reconnect() {
    if (this.#state !== "closed") {
      this.#connect();
    }
  }

  #connect() {
    this.#drop();
    const position = this.position || (this.#lost ? LOST : "");
    const offers = position ? [SUBPROTOCOL, POSITION + position] : [SUBPROTOCOL];
    const socket = new WebSocket(this.#url, [...offers, ...this.#protocols]);
    socket.binaryType = this.#binaryType;
    this.#socket = socket;
    this.#watch = setTimeout(() => this.#lose(), HANDSHAKE_TIMEOUT);
    // #drop() takes these away: what comes from a replaced socket is ignored.
    socket.onopen = () => this.#opened(position !== "");
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    // The last step, as in all that tells the page: it may close or reconnect at once.
    this.#setState("connecting");
  }

  #opened(asks) {
    const socket = this.#socket;
    this.#openedAt = Date.now();
    this.#lost = false;
    const isAnswered = socket.protocol === SUBPROTOCOL;
    if (!isAnswered) {
      // Nor does that server say when it will be heard.
      this.#silence = Infinity;
    }
    this.#hear();
    this.#setState("open");
    if (this.#socket === socket) {
      this.dispatchEvent(new Event("open"));
    }
    if (asks && !isAnswered && this.#socket === socket) {
      this.#judge({ recovered: false, reason: "unknown" });
    }
  }

  #closed(code, reason) {
    if (code >= 4400 && code <= 4499) {
      this.#end(code, reason);
      return;
    }
    this.#lose();
    if (code === GAP && this.#state !== "closed") {
      this.#emit("gap", { reason });
    }
  }

  /** Tries again later; the connection is gone, or counts as gone. */
  #lose() {
    if (this.#state === "open" && Date.now() - this.#openedAt >= STABLE_AFTER) {
      this.#failures = 0;
    }
    this.#drop();
    if (this.#state === "closed") {
      return;
    }
    // Spread evenly, because everybody comes back at the same time.
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
    this.#retry = setTimeout(() => this.#connect(), longest * Math.random());
    this.#setState("waiting");
  }

  #end(code, reason) {
    this.#save();
    this.#drop();
    this.#listening.abort();
    if (this.#state !== "closed") {
      this.#setState("closed");
      this.dispatchEvent(new CloseEvent("close", { code, reason, wasClean: true }));
    }
  }

  #drop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#watch);
    this.#lost ||= this.#state === "open";
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  // Frames

  #receive(data) {
    this.#hear();
    if (typeof data !== "string" || this.#socket.protocol !== SUBPROTOCOL) {
      this.#deliver(typeof data === "string" ? parsed(data) : data);
      return;
    }
    const frame = parsed(data) ?? {};
    if (frame.p !== undefined && this.#has(frame.p)) {
      return;
    }
    if (frame.d !== undefined) {
      this.#deliver(frame.d);
    }
    // Only now: what the page has not got must come again.
    if (frame.p !== undefined) {
      this.#raise(frame.p);
    }
    if (frame.r !== undefined) {
      this.#judge(frame.r);
    }
    if (frame.t !== undefined) {
      this.#token = frame.t;
      this.#silence = (frame.i ?? Infinity) * 1000 + LATE;
      this.#hear();
      this.#storage?.write(this.position);
    }
  }

  #deliver(data) {
    this.dispatchEvent(new MessageEvent("message", { data, origin: this.#url.origin }));
  }

  #judge({ recovered, reason, count }) {
    if (recovered) {
      this.#emit("recovered", { count });
    } else {
      const wasLost = !this.position && reason === "invalid";
      this.#setPosition("");
      this.#storage?.remove();
      this.#emit("unrecovered", { reason: wasLost ? "unknown" : reason });
    }
  }

  #has(place) {
    const [lane, offset] = split(place);
    return offset <= (this.#places.get(lane) ?? -1);
  }

  #raise(place) {
    const [lane, offset] = split(place);
    this.#places.set(lane, offset);
  }

  #setPosition(position) {
    const [token, ...places] = position.split("~");
    this.#token = token;
    this.#places = new Map(places.map(split));
  }

  // Silence, and the page's sleep

  #hear() {
    this.#heardAt = Date.now();
    this.#watchFor(this.#silence);
  }

  #watchFor(milliseconds) {
    clearTimeout(this.#watch);
    if (milliseconds !== Infinity) {
      this.#watch = setTimeout(() => this.#look(), Math.max(0, milliseconds));
    }
  }

  #look() {
    if (this.#state !== "open") {
      return;
    }
    const left = this.#heardAt + this.#silence - Date.now();
    if (left > 0) {
      this.#watchFor(left);
    } else if (this.#suspectedAt !== this.#heardAt) {
      // The page may have slept, and what came meanwhile is about to be delivered.
      this.#suspectedAt = this.#heardAt;
      this.#watchFor(WAKING);
    } else {
      this.#connect();
    }
  }

  #listen() {
    const { signal } = this.#listening;
    const wake = () => {
      if (this.#state === "waiting") {
        this.#connect();
      } else {
        this.#look();
      }
    };
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.addEventListener?.("pageshow", wake, { signal });
    globalThis.addEventListener?.("pagehide", () => this.#save(), { signal });
    const document = globalThis.document;
    document?.addEventListener(
      "visibilitychange",
      () => (document.visibilityState === "visible" ? wake() : this.#save()),
      { signal },
    );
  }

  #save() {
    if (this.position) {
      this.#storage?.write(this.position);
    }
  }

  #setState(state) {
    if (this.#state !== state) {
      this.#state = state;
      this.#emit("state", state);
    }
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// onmessage and its kin.
for (const name of ["open", "message", "close", "recovered", "unrecovered", "gap", "state"]) {
  const handlers = new WeakMap();
  Object.defineProperty(RecoveringSocket.prototype, `on${name}`, {
    get() {
      return handlers.get(this) ?? null;
    },
    set(handler) {
      this.removeEventListener(name, handlers.get(this));
      handlers.set(this, handler);
      this.addEventListener(name, handler);
    },
  });
}

/** A text in the tab's storage, where the browser allows that. */
class Stored {
  #key;

  constructor(key) {
    this.#key = key;
  }

  read() {
    return this.#try((storage) => storage.getItem(this.#key)) ?? "";
  }

  write(text) {
    this.#try((storage) => storage.setItem(this.#key, text));
  }

  remove() {
    this.#try((storage) => storage.removeItem(this.#key));
  }

  #try(act) {
    try {
      return act(sessionStorage);
    } catch {
      // Full, forbidden, or a worker, which has none: as "memory".
      return null;
    }
  }
}

/** What the text means as JSON, or the text if it is none. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** A place such as "g3.1042" is an offset in a lane. */
function split(place) {
  const dot = place.lastIndexOf(".");
  return [place.slice(0, dot), Number(place.slice(dot + 1))];
}

globalThis.RecoveringSocket ??= RecoveringSocket;
