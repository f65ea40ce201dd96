/** Where the position is kept: "session" also over a reload of the page. */
export type PositionStorage = "memory" | "session";

export interface RecoveringSocketOptions {
  /** "memory" by default. */
  storage?: PositionStorage;
  /** Where to begin: a position of the moment before the page's data was loaded. */
  position?: string;
  /** Subprotocols of the application. */
  protocols?: string | string[];
}

/** "waiting" for the next try; "closed" for good. */
export type ConnectionState = "connecting" | "open" | "waiting" | "closed";

/**
 * Why messages may be missing. "unknown": the server told no position before the connection broke,
 * or it speaks another subprotocol.
 */
export type UnrecoveredReason =
  | "expired"
  | "truncated"
  | "epoch"
  | "future"
  | "limit"
  | "undecodable"
  | "flushed"
  | "user"
  | "invalid"
  | "timeout"
  | "unavailable"
  | "unknown"
  | (string & {});

export interface RecoveringSocketEventMap {
  /** A connection is open; each time. */
  open: Event;
  /** What the application sent: parsed, if it is JSON. */
  message: MessageEvent;
  /** It has ended for good: by `close()`, or by a close code from 4400 to 4499. */
  close: CloseEvent;
  /** What was missed has come: so many messages of the server. */
  recovered: CustomEvent<{ count: number }>;
  /** Something may be missing: load the state anew. */
  unrecovered: CustomEvent<{ reason: UnrecoveredReason }>;
  /** The page was too slow for the server to keep all for it; a verdict follows. */
  gap: CustomEvent<{ reason: string }>;
  state: CustomEvent<ConnectionState>;
}

/** A WebSocket that comes back by itself and gets what it missed, or says that it cannot. */
export class RecoveringSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** @param url the address, which may be relative to the page and begin with http. */
  constructor(url: string | URL, options?: RecoveringSocketOptions);

  readonly url: string;
  readonly readyState: number;
  readonly state: ConnectionState;
  /** That of the present connection: "kafka-layer.v1" if the server keeps positions. */
  readonly protocol: string;
  readonly bufferedAmount: number;
  binaryType: BinaryType;
  /** Up to where this page has everything; "" if that is unknown. */
  readonly position: string;

  /** Sends to the server; returns false, and drops it, while there is no connection. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): boolean;
  /** Ends it for good. */
  close(code?: number, reason?: string): void;
  /** Drops the connection and makes another one at once. */
  reconnect(): void;

  onopen: ((event: RecoveringSocketEventMap["open"]) => void) | null;
  onmessage: ((event: RecoveringSocketEventMap["message"]) => void) | null;
  onclose: ((event: RecoveringSocketEventMap["close"]) => void) | null;
  onrecovered: ((event: RecoveringSocketEventMap["recovered"]) => void) | null;
  onunrecovered: ((event: RecoveringSocketEventMap["unrecovered"]) => void) | null;
  ongap: ((event: RecoveringSocketEventMap["gap"]) => void) | null;
  onstate: ((event: RecoveringSocketEventMap["state"]) => void) | null;

  addEventListener<K extends keyof RecoveringSocketEventMap>(
    type: K,
    listener: (this: RecoveringSocket, event: RecoveringSocketEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof RecoveringSocketEventMap>(
    type: K,
    listener: (this: RecoveringSocket, event: RecoveringSocketEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

declare global {
  /** The same class, for scripts that are no modules. */
  // eslint-disable-next-line no-var
  var RecoveringSocket: typeof import("./socket.js").RecoveringSocket;
}
