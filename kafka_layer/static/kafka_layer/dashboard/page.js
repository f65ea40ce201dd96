// @ts-check
// The page for staff: gets the reports of all servers, keeps ten minutes of them, and draws.

/**
 * The report of one server; a server of an earlier version reports less.
 * @typedef {{
 *   silent: number, at?: number, host?: string, pid?: number, version?: string, state?: string,
 *   since?: number, channels?: number, groups?: number, users?: number, lag?: number,
 *   waiting?: number, queued?: number, latency_p50?: number | null, latency_p99?: number | null,
 *   sent?: number, delivered?: number, failed?: number, recovered?: number, behind?: number,
 *   sent_by_kind?: Counts, delivered_by_kind?: Counts, dropped?: Counts, not_recovered?: Counts,
 *   jobs?: Record<string, Counts>, lag_by_topic?: Counts, work?: Counts,
 *   streams?: Record<string, Stream>, largest_groups?: [string, number][],
 * }} Told
 * @typedef {Record<string, number>} Counts
 * @typedef {{
 *   state: string, detail?: string | null, lag: number, records_per_second: number,
 *   delivered: number, errors: Counts,
 * }} Stream
 * @typedef {{
 *   channel: string, waiting: number | null, workers: number, stream: string | null,
 *   trouble: string,
 * }} Backlog
 * @typedef {{
 *   prefix: string, server: string | null, state: string, trouble: string,
 *   servers: Record<string, Told>, backlogs: Backlog[], backlog_trouble: string,
 *   ticket?: string,
 * }} Picture
 * @typedef {{ report: Told, heard: number, rates: Map<string, number> | null }} Known
 */

const SUBPROTOCOL = "kafka-layer.dashboard";
const TICKET = "kafka-layer.ticket.";
// The server closes with this code from time to time, to check again whether the user may look.
const ASK_AGAIN = 4000;

// Milliseconds.
const SECOND = 1000;
const KEPT = 600 * SECOND;
const TIMEOUT = 5 * SECOND;
// Time without a picture after which a connection counts as lost.
const DEAF = 8 * SECOND;
// Time between two attempts to open a websocket that was refused; meanwhile the page uses HTTP.
const TRY_SOCKET = 60 * SECOND;
const SILENT = 5 * SECOND;
const GONE = 60 * SECOND;
// Time between two samples from which on the line has a gap.
const GAP = 5 * SECOND;
const SAVE = 10 * SECOND;
const NEWS = 30 * SECOND;
const MOST_SERIES = 300;

/** @type {Record<string, string>} */
const KINDS = {
  group: "Groups",
  user: "Users",
  all: "Everybody",
  channel: "Single channels",
  job: "Jobs",
  stream: "Streams",
  any: "All kinds",
};

// Text

const locale = "en";
const rough = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });

/** @param {number | null | undefined} value */
function figure(value) {
  if (value === null || value === undefined) {
    return "–";
  }
  const size = Math.abs(value);
  return (size >= 10_000 ? short : size >= 100 ? whole : rough).format(value);
}

/** @param {number} seconds */
function duration(seconds) {
  const steps = /** @type {[number, string][]} */ ([
    [86_400, "d"],
    [3600, "h"],
    [60, "min"],
  ]);
  const [size, unit] = steps.find(([each]) => seconds >= each) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
}

/** @param {Iterable<number>} values */
function sum(values) {
  let total = 0;
  for (const value of values) {
    total += value;
  }
  return total;
}

// Elements. Text always becomes a text node, never markup.

/**
 * @param {string} tag
 * @param {string} className
 * @param {(Node | string)[]} children
 */
function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) {
    node.className = className;
  }
  node.append(...children);
  return node;
}

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {Node[]} children
 */
function drawing(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/**
 * Changes a text only if it differs, so that selections and screen readers are not disturbed.
 * @param {Node} node
 * @param {string} text
 */
function write(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

// The connection

/**
 * Events: `picture`, and `state`: "live", "asking" (by HTTP, without a websocket), "waiting" or
 * "refused" (for good: the user may not see the page, or no longer).
 */
class Link extends EventTarget {
  #layer = new URLSearchParams({ layer: document.body.dataset.layer ?? "" });

  async run() {
    let lost = 0;
    for (;;) {
      try {
        const picture = await this.#ask();
        lost = 0;
        if (!(await this.#listen(picture.ticket ?? ""))) {
          await this.#askOften();
        }
      } catch (error) {
        if (error instanceof Refused) {
          this.#emit("state", "refused");
          return;
        }
        this.#emit("state", "waiting");
        lost = Math.min(lost + 1, 6);
      }
      // Random, because all pages of a server lose it at the same time.
      await delay(SECOND * (0.2 + lost * Math.random()));
    }
  }

  async #ask() {
    const answer = await fetch(new URL(`state?${this.#layer}`, location.href), {
      signal: AbortSignal.timeout(TIMEOUT),
    });
    // Some projects redirect every user without a session to their login.
    if (answer.status === 403 || answer.redirected) {
      throw new Refused();
    }
    if (!answer.ok) {
      throw new Error(`The answer was ${answer.status}.`);
    }
    const picture = /** @type {Picture} */ (await answer.json());
    this.#emit("picture", picture);
    return picture;
  }

  async #askOften() {
    this.#emit("state", "asking");
    for (const until = Date.now() + TRY_SOCKET; Date.now() < until; ) {
      await delay(SECOND);
      await this.#ask();
    }
  }

  /**
   * Listens to the websocket until it ends; returns whether it brought a picture.
   * @param {string} ticket
   */
  #listen(ticket) {
    const address = new URL("socket", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, [SUBPROTOCOL, TICKET + ticket]);
    return new Promise((resolve) => {
      let heard = false;
      let timer = setTimeout(() => end(), TIMEOUT);
      const emit = this.#emit.bind(this);
      /** @param {CloseEvent} [event] */
      function end(event) {
        clearTimeout(timer);
        socket.onmessage = socket.onclose = null;
        socket.close();
        if (heard && event?.code !== ASK_AGAIN) {
          emit("state", "waiting");
        }
        resolve(heard);
      }
      socket.onmessage = ({ data }) => {
        clearTimeout(timer);
        timer = setTimeout(() => end(), DEAF);
        if (!heard) {
          heard = true;
          emit("state", "live");
        }
        emit("picture", JSON.parse(data));
      };
      socket.onclose = end;
    });
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

class Refused extends Error {}

/** @param {number} milliseconds */
function delay(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// Ten minutes of samples, which survive a reload

class Samples {
  /** When each sample was taken, in milliseconds since the epoch. @type {number[]} */
  times = [];
  /** By name, as long as `times`; null where nothing is known. @type {Map<string, (number|null)[]>} */
  series = new Map();
  #key;
  #savedAt = Date.now();

  /** @param {string} layer */
  constructor(layer) {
    this.#key = `kafka-layer dashboard ${location.pathname} ${layer}`;
    try {
      const stored = JSON.parse(sessionStorage.getItem(this.#key) ?? "{}");
      this.times = stored.times ?? [];
      this.series = new Map(Object.entries(stored.series ?? {}));
    } catch {
      // If storage is forbidden, a reload starts without samples.
    }
    addEventListener("pagehide", () => this.#save());
  }

  /** @param {Map<string, number | null>} values */
  add(values) {
    const now = Date.now();
    const first = this.times.findIndex((time) => time > now - KEPT && time <= now);
    const dropped = first === -1 ? this.times.length : first;
    this.times.splice(0, dropped);
    this.times.push(now);
    for (const name of values.keys()) {
      if (!this.series.has(name) && this.series.size < MOST_SERIES) {
        this.series.set(name, Array(this.times.length - 1 + dropped).fill(null));
      }
    }
    for (const [name, past] of this.series) {
      past.splice(0, dropped);
      const value = values.get(name) ?? null;
      past.push(value === null ? null : Number(value.toPrecision(4)));
      if (past.every((each) => each === null)) {
        this.series.delete(name);
      }
    }
    if (now - this.#savedAt > SAVE) {
      this.#save();
    }
  }

  /** @param {string} name */
  past(name) {
    return this.series.get(name) ?? [];
  }

  /**
   * The values of a series in the last so many milliseconds.
   * @param {string} name
   * @param {number} span
   */
  since(name, span) {
    const from = (this.times.at(-1) ?? 0) - span;
    return this.past(name).filter(
      (value, at) => value !== null && this.times[at] >= from,
    );
  }

  #save() {
    this.#savedAt = Date.now();
    try {
      const series = Object.fromEntries(this.series);
      sessionStorage.setItem(this.#key, JSON.stringify({ times: this.times, series }));
    } catch {
      // Storage is full, or forbidden.
    }
  }
}

// From pictures to figures

/**
 * The counters of a report, by name.
 * @param {Told} report
 */
function counters(report) {
  const found = /** @type {Map<string, number>} */ (new Map());
  const sent = report.sent_by_kind ?? { any: report.sent ?? 0 };
  const delivered = report.delivered_by_kind ?? { any: report.delivered ?? 0 };
  for (const [prefix, counts] of /** @type {[string, Counts][]} */ ([
    ["sent", sent],
    ["delivered", delivered],
    ["dropped", report.dropped ?? {}],
    ["not recovered", report.not_recovered ?? {}],
  ])) {
    for (const [name, count] of Object.entries(counts)) {
      // Commands between servers, such as those for this page, are no messages.
      if (name !== "command") {
        found.set(`${prefix}.${name}`, count);
      }
    }
  }
  found.set("recovered.all", report.recovered ?? 0);
  for (const [name, stream] of Object.entries(report.streams ?? {})) {
    found.set(`stream delivered.${name}`, stream.delivered);
  }
  return found;
}

/**
 * Messages that a server has not read, without commands between servers.
 * @param {Told} report
 */
function lag(report) {
  const topics = Object.entries(report.lag_by_topic ?? { all: report.lag ?? 0 });
  return sum(topics.filter(([name]) => !/-(group-mgmt|ack)$/.test(name)).map(([, each]) => each));
}

/** The servers that this page knows; they are kept while its own connection is lost. */
class Servers {
  /** @type {Map<string, Known>} */
  all = new Map();
  #complete = false;

  /**
   * Takes a picture; returns the names of servers that came and of those that went.
   * @param {Picture} picture
   */
  take(picture) {
    const now = Date.now();
    const came = [];
    for (const [name, report] of Object.entries(picture.servers)) {
      const heard = now - report.silent * SECOND;
      const known = this.all.get(name);
      if (known === undefined) {
        if (report.silent * SECOND < GONE) {
          this.all.set(name, { report, heard, rates: null });
          came.push(name);
        }
      } else if (heard > known.heard) {
        known.rates = rates(known, report);
        known.report = report;
        known.heard = heard;
      }
    }
    const went = [...this.all].filter(([, { heard }]) => now - heard > GONE).map(([name]) => name);
    for (const name of went) {
      this.all.delete(name);
    }
    // The servers of the first pictures are not new.
    const isFirst = !this.#complete;
    this.#complete ||= came.length === 0;
    return { came: isFirst ? [] : came, went };
  }

  /** The servers that are not silent. */
  present() {
    const now = Date.now();
    return [...this.all].filter(([, { heard }]) => now - heard <= SILENT);
  }

  /**
   * The rates of all servers together, by name.
   */
  rates() {
    const totals = /** @type {Map<string, number>} */ (new Map());
    for (const [, { rates }] of this.present()) {
      for (const [name, rate] of rates ?? []) {
        totals.set(name, (totals.get(name) ?? 0) + rate);
      }
    }
    return totals;
  }
}

/**
 * The growth of each counter a second, between two reports of a server.
 * @param {Known} known
 * @param {Told} report
 */
function rates(known, report) {
  const seconds = (report.at ?? 0) - (known.report.at ?? 0);
  if (seconds <= 0) {
    return known.rates;
  }
  const before = counters(known.report);
  const grown = /** @type {Map<string, number>} */ (new Map());
  for (const [name, count] of counters(report)) {
    grown.set(name, Math.max(0, count - (before.get(name) ?? 0)) / seconds);
  }
  return grown;
}

/**
 * @param {Known} known
 * @param {string} prefix
 */
function rateOf(known, prefix) {
  if (known.rates === null) {
    return null;
  }
  return sum([...known.rates].filter(([name]) => name.startsWith(prefix)).map(([, rate]) => rate));
}

/**
 * One sample of all figures that are drawn.
 * @param {Servers} servers
 * @param {Picture} picture
 */
function sampled(servers, picture) {
  const values = /** @type {Map<string, number | null>} */ (new Map());
  const present = servers.present();
  const reports = present.map(([, { report }]) => report);
  for (const [name, rate] of servers.rates()) {
    if (!name.startsWith("stream delivered.")) {
      values.set(name, rate);
    }
  }
  values.set("servers", present.length);
  values.set("backlog.lag", sum(reports.map(lag)));
  for (const name of /** @type {const} */ (["waiting", "queued"])) {
    values.set(`backlog.${name}`, sum(reports.map((report) => report[name] ?? 0)));
  }
  for (const name of /** @type {const} */ (["latency_p50", "latency_p99"])) {
    const ages = reports.map((report) => report[name]).filter((age) => typeof age === "number");
    values.set(name, ages.length ? Math.max(...ages) * 1000 : null);
  }
  for (const [name, known] of present) {
    values.set(`server.${name}`, rateOf(known, "delivered."));
  }
  for (const [name, { waiting }] of workers(servers, picture)) {
    values.set(`work.${name}`, waiting);
  }
  for (const [name, { perSecond }] of streams(servers)) {
    values.set(`stream.${name}`, perSecond);
  }
  return values;
}

/**
 * @param {Servers} servers
 * @param {Picture} picture
 */
function workers(servers, picture) {
  /** @type {Map<string, {waiting: number | null, workers: number | null, stream: string | null, trouble: string, shares: [string, number][], done: number, failed: number}>} */
  const found = new Map();
  /** @param {string} channel */
  const entry = (channel) => {
    let work = found.get(channel);
    if (work === undefined) {
      const nothing = { waiting: null, workers: null, stream: null, trouble: "" };
      work = { ...nothing, shares: [], done: 0, failed: 0 };
      found.set(channel, work);
    }
    return work;
  };
  for (const { channel, ...backlog } of picture.backlogs) {
    Object.assign(entry(channel), backlog);
  }
  for (const [name, { report }] of servers.present()) {
    for (const [channel, partitions] of Object.entries(report.work ?? {})) {
      const work = entry(channel);
      if (partitions) {
        work.shares.push([process(name, report), partitions]);
      }
    }
    for (const [channel, { done = 0, failed = 0 }] of Object.entries(report.jobs ?? {})) {
      const work = entry(channel);
      work.done += done;
      work.failed += failed;
    }
  }
  return new Map([...found].sort(([a], [b]) => a.localeCompare(b)));
}

// The worst first.
const STREAM_STATES = ["stopped", "held up", "waiting", "paused", "loading", "reading", "idle"];

/** @param {Servers} servers */
function streams(servers) {
  /** @type {Map<string, {states: Map<string, number>, details: Set<string>, perSecond: number, delivered: number | null, lag: number, errors: number}>} */
  const found = new Map();
  for (const [, { report, rates }] of servers.present()) {
    for (const [name, stream] of Object.entries(report.streams ?? {})) {
      const nothing = { states: new Map(), details: new Set(), perSecond: 0, delivered: null };
      const told = found.get(name) ?? { ...nothing, lag: 0, errors: 0 };
      found.set(name, told);
      told.states.set(stream.state, (told.states.get(stream.state) ?? 0) + 1);
      if (stream.detail) {
        told.details.add(stream.detail);
      }
      // Each server reads the whole stream.
      told.perSecond = Math.max(told.perSecond, stream.records_per_second);
      told.lag = Math.max(told.lag, stream.lag);
      const delivered = rates?.get(`stream delivered.${name}`);
      if (delivered !== undefined) {
        told.delivered = (told.delivered ?? 0) + delivered;
      }
      told.errors += sum(Object.values(stream.errors));
    }
  }
  return new Map([...found].sort(([a], [b]) => a.localeCompare(b)));
}

/** @param {Servers} servers */
function groups(servers) {
  const members = /** @type {Map<string, number>} */ (new Map());
  for (const [, { report }] of servers.present()) {
    for (const [name, count] of report.largest_groups ?? []) {
      members.set(name, (members.get(name) ?? 0) + count);
    }
  }
  return new Map([...members].sort(([, a], [, b]) => b - a).slice(0, 20));
}

/**
 * The short name of a server.
 * @param {string} name
 * @param {Told} report
 */
function process(name, report) {
  return report.host === undefined ? name : `${report.host}, pid ${report.pid}`;
}

// Drawings. 600 wide, a unit for each second; 100 high.

/** @param {number} most */
function scale(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most) ?? most;
}

/**
 * @param {Samples} samples
 * @param {string} name
 * @param {number} top
 * @param {boolean} filled whether it encloses the area down to 0.
 */
function path(samples, name, top, filled = false) {
  const now = samples.times.at(-1) ?? 0;
  let text = "";
  let before = -Infinity;
  let x = 0;
  samples.past(name).forEach((value, at) => {
    const time = samples.times[at];
    if (value === null) {
      return;
    }
    const next = Number((600 - (now - time) / SECOND).toFixed(1));
    const y = Number((100 - (Math.min(value, top) / top) * 100).toFixed(1));
    const goesOn = time - before <= GAP;
    if (filled && !goesOn) {
      text += text && `V100Z`;
      text += `M${next} 100`;
    }
    text += `${goesOn || filled ? "L" : "M"}${next} ${y}`;
    before = time;
    x = next;
  });
  return text && filled ? `${text}L${x} 100Z` : text;
}

/** A line without axes, in a cell beside its number. */
class Spark {
  node;
  #line = drawing("path", { class: "line" });

  constructor() {
    const size = { viewBox: "0 -4 600 108", preserveAspectRatio: "none" };
    this.node = drawing("svg", { class: "spark s0", "aria-hidden": "true", ...size }, this.#line);
  }

  /**
   * @param {Samples} samples
   * @param {string} name
   */
  draw(samples, name) {
    const top = Math.max(1, ...samples.past(name).map((value) => value ?? 0));
    this.#line.setAttribute("d", path(samples, name, top));
  }
}

/**
 * @typedef {{
 *   title: string, unit: string, empty: string, times?: number,
 *   series: (samples: Samples) => [string, string][],
 * }} CardSettings
 */

/** A chart of several lines, with a table of its figures. */
class Card {
  node = element("article", "card");
  #settings;
  #body = element("div");
  #empty = element("p", "empty hint");
  #most = element("span", "most");
  #drawing;
  #rows = element("tbody");
  /** @type {Map<string, {line: SVGElement, area: SVGElement, row: HTMLElement, cells: HTMLElement[]}>} */
  #series = new Map();

  /** @param {CardSettings} settings */
  constructor(settings) {
    this.#settings = settings;
    const heading = element("div", "card-heading");
    heading.append(element("h3", "", settings.title), element("p", "hint", settings.unit));
    this.#drawing = drawing(
      "svg",
      { role: "img", viewBox: "0 0 600 100", preserveAspectRatio: "none" },
      drawing("path", { class: "grid", d: "M0 0H600M0 50H600M0 100H600" }),
    );
    const chart = element("div", "chart");
    chart.append(this.#most, this.#drawing);
    chart.append(element("span", "", "10 min ago"), element("span", "now", "now"));
    const head = element("tr");
    head.append(scoped("col", "", settings.title));
    for (const title of ["Now", "1 min", "10 min", "Most"]) {
      head.append(scoped("col", "number", title));
    }
    const table = element("table", "", element("thead", "", head), this.#rows);
    this.#empty.textContent = settings.empty;
    this.#body.append(chart, table);
    this.node.append(heading, this.#body, this.#empty);
  }

  /** @param {Samples} samples */
  draw(samples) {
    const { times = 1 } = this.#settings;
    const series = this.#settings.series(samples);
    const most = Math.max(
      0,
      ...series.flatMap(([name]) => samples.past(name).map((value) => value ?? 0)),
    );
    const isEmpty = most === 0;
    this.#body.hidden = isEmpty;
    this.#empty.hidden = !isEmpty;
    const top = scale(most * times) / times;
    write(this.#most, figure(top * times));
    const said = [];
    const names = new Set(series.map(([name]) => name));
    for (const [name, { line, area, row }] of this.#series) {
      if (!names.has(name)) {
        this.#series.delete(name);
        for (const node of [line, area, row]) {
          node.remove();
        }
      }
    }
    for (const [name, label] of series) {
      const { line, area, cells } = this.#series.get(name) ?? this.#add(name, label);
      line.setAttribute("d", path(samples, name, top));
      area.setAttribute("d", series.length === 1 ? path(samples, name, top, true) : "");
      const all = samples.since(name, KEPT).map(Number);
      const minute = samples.since(name, 60 * SECOND).map(Number);
      const last = samples.past(name).at(-1) ?? null;
      const figures = [
        last,
        minute.length ? sum(minute) / minute.length : null,
        all.length ? sum(all) / all.length : null,
        all.length ? Math.max(...all) : null,
      ].map((value) => figure(value === null ? null : value * times));
      cells.forEach((cell, at) => write(cell, figures[at]));
      said.push(`${label} ${figures[0]} now, ${figures[3]} at most`);
    }
    this.#drawing.setAttribute(
      "aria-label",
      `${this.#settings.title}, ${this.#settings.unit}, over 10 minutes: ${said.join("; ")}`,
    );
  }

  /**
   * @param {string} name
   * @param {string} label
   */
  #add(name, label) {
    const used = new Set([...this.#series.values()].map(({ line }) => line.classList[1]));
    const look = ["s0", "s1", "s2", "s3", "s4", "s5"].find((each) => !used.has(each)) ?? "s5";
    const line = drawing("path", { class: `line ${look}` });
    const area = drawing("path", { class: `area ${look}` });
    this.#drawing.append(area, line);
    const swatch = drawing(
      "svg",
      { class: "swatch", viewBox: "0 0 20 8", "aria-hidden": "true" },
      drawing("path", { class: `line ${look}`, d: "M0 4H20" }),
    );
    const cells = [0, 1, 2, 3].map(() => element("td", "number"));
    const heading = scoped("row", "", label);
    heading.prepend(swatch);
    const row = element("tr", "", heading, ...cells);
    this.#rows.append(row);
    const made = { line, area, row, cells };
    this.#series.set(name, made);
    return made;
  }
}

/**
 * @param {string} scope
 * @param {string} className
 * @param {(Node | string)[]} children
 */
function scoped(scope, className, ...children) {
  const cell = element("th", className, ...children);
  cell.setAttribute("scope", scope);
  return cell;
}

// Tables

/**
 * A column. `make` prepares a cell and returns a function that shows a row's data in it.
 * @template T
 * @typedef {{
 *   title: string, className?: string,
 *   make: (cell: HTMLElement) => (data: T, id: string) => void,
 * }} Column
 */

/**
 * @template T
 * @param {string} title
 * @param {(data: T, id: string) => string} text
 * @param {string} className
 * @returns {Column<T>}
 */
function textColumn(title, text, className = "number") {
  return { title, className, make: (cell) => (data, id) => write(cell, text(data, id)) };
}

/**
 * A figure with its course of the last ten minutes.
 * @template T
 * @param {string} title
 * @param {Samples} samples
 * @param {string} prefix
 * @param {(data: T) => string} text
 * @returns {Column<T>}
 */
function courseColumn(title, samples, prefix, text) {
  return {
    title,
    className: "number",
    make: (cell) => {
      const spark = new Spark();
      const value = element("span", "figure");
      cell.append(element("span", "with-spark", spark.node, value));
      return (data, id) => {
        spark.draw(samples, prefix + id);
        write(value, text(data));
      };
    },
  };
}

/** @template T */
class Table {
  #body = element("tbody");
  #scroll;
  #empty = element("p", "empty");
  #columns;
  /** @type {Map<string, {row: HTMLElement, show: ((data: T, id: string) => void)[]}>} */
  #rows = new Map();

  /**
   * @param {string} id of its heading; the sheet has `-sheet` behind it.
   * @param {Column<T>[]} columns the first one heads the row.
   */
  constructor(id, columns) {
    this.#columns = columns;
    const head = element("tr");
    for (const { title, className } of columns) {
      head.append(scoped("col", className ?? "", title));
    }
    const table = element("table", "", element("thead", "", head), this.#body);
    table.setAttribute("aria-labelledby", id);
    this.#scroll = element("div", "scroll", table);
    this.#scroll.tabIndex = 0;
    this.#scroll.setAttribute("role", "group");
    this.#scroll.setAttribute("aria-labelledby", id);
    byId(`${id}-sheet`).append(this.#scroll, this.#empty);
  }

  /**
   * @param {Map<string, T>} data by row, in order.
   * @param {string} empty what to say where there is none.
   * @param {(data: T) => string} look the class of a row.
   */
  show(data, empty, look = () => "") {
    this.#scroll.hidden = data.size === 0;
    this.#empty.hidden = data.size > 0;
    write(this.#empty, data.size ? "" : empty);
    for (const [id, { row }] of this.#rows) {
      if (!data.has(id)) {
        row.remove();
        this.#rows.delete(id);
      }
    }
    let at = 0;
    for (const [id, each] of data) {
      const { row, show } = this.#rows.get(id) ?? this.#add(id);
      if (this.#body.children[at] !== row) {
        this.#body.insertBefore(row, this.#body.children[at] ?? null);
      }
      at += 1;
      row.className = look(each);
      for (const one of show) {
        one(each, id);
      }
    }
  }

  /** @param {string} id */
  #add(id) {
    const row = element("tr");
    const show = this.#columns.map(({ className = "", make }, at) => {
      const cell = at ? element("td", className) : scoped("row", className);
      row.append(cell);
      return make(cell);
    });
    const made = { row, show };
    this.#rows.set(id, made);
    return made;
  }
}

// The page

const layer = document.body.dataset.layer ?? "";
const samples = new Samples(layer);
const servers = new Servers();
const link = new Link();
/** @type {Picture | null} */
let picture = null;
let linkState = "waiting";
let paused = false;
let newsAt = 0;

/** @param {string} prefix */
const byKind = (prefix) => (/** @type {Samples} */ all) =>
  Object.entries(KINDS)
    .map(([kind, label]) => /** @type {[string, string]} */ ([`${prefix}.${kind}`, label]))
    .filter(([name]) => all.past(name).some((value) => value));

/**
 * @param {Samples} all
 * @param {string} prefix
 * @param {(name: string) => string} label
 * @returns {[string, string][]}
 */
function named(all, prefix, label) {
  return [...all.series.keys()]
    .filter((name) => name.startsWith(prefix) && all.past(name).some((value) => value))
    .map((name) => [name, label(name.slice(prefix.length))]);
}

const cards = [
  new Card({
    title: "Sent",
    unit: "messages a second",
    empty: "No message was sent in the last 10 minutes.",
    series: byKind("sent"),
  }),
  new Card({
    title: "Delivered",
    unit: "messages a second, to channels",
    empty: "No message reached a channel in the last 10 minutes.",
    series: byKind("delivered"),
  }),
  new Card({
    title: "Latency",
    unit: "ms, of the slowest server",
    empty: "No message has come yet.",
    series: () => [
      ["latency_p50", "Median"],
      ["latency_p99", "99th percentile"],
    ],
  }),
  new Card({
    title: "Waiting",
    unit: "messages",
    empty: "Nothing waited in the last 10 minutes.",
    series: () => [
      ["backlog.lag", "To be read"],
      ["backlog.waiting", "In memory"],
      ["backlog.queued", "To be written"],
    ],
  }),
  new Card({
    title: "Dropped",
    unit: "messages a minute, by cause",
    empty: "No message was dropped in the last 10 minutes.",
    times: 60,
    series: (all) => named(all, "dropped.", (cause) => cause),
  }),
  new Card({
    title: "Recoveries",
    unit: "browsers a minute",
    empty: "No browser came back in the last 10 minutes.",
    times: 60,
    series: (all) => [
      ...named(all, "recovered.", () => "Got all missed messages"),
      ...named(all, "not recovered.", (reason) => `Not recovered: ${reason}`),
    ],
  }),
];
byId("cards").append(...cards.map(({ node }) => node));

/** @type {{title: string, value: HTMLElement, small: HTMLElement, tile: HTMLElement}[]} */
const tiles = ["Servers", "Sent", "Delivered", "Latency", "Lag", "Dropped"].map((title) => {
  const value = element("span", "value");
  const small = element("span", "small");
  const tile = element("div", "tile", element("dt", "", title), element("dd", "", value, small));
  return { title, value, small, tile };
});
byId("tiles").append(...tiles.map(({ tile }) => tile));

/** @param {Known} known */
function silence({ heard }) {
  const silent = Date.now() - heard;
  return silent > SILENT ? Math.round(silent / SECOND) : 0;
}

/** @type {Table<Known>} */
const serverTable = new Table("servers", [
  {
    title: "Server",
    make: (cell) => {
      const title = element("span");
      const tag = element("span", "tag");
      const small = element("span", "small");
      cell.append(title, tag, small);
      return ({ report }, id) => {
        write(title, id);
        tag.hidden = id !== picture?.server;
        write(tag, tag.hidden ? "" : "this page’s");
        write(small, `${process(id, report)}${report.version ? ` · ${report.version}` : ""}`);
      };
    },
  },
  {
    title: "State",
    make: (cell) => {
      const text = element("span", "state");
      cell.append(text);
      return (known) => {
        const silent = silence(known);
        const isWell = known.report.state === "connected";
        text.dataset.state = silent ? "bad" : isWell ? "good" : "wait";
        write(text, silent ? `silent for ${silent} s` : (known.report.state ?? "answers"));
      };
    },
  },
  textColumn("Up", ({ report: { since } }) =>
    since ? duration(Date.now() / SECOND - since) : "–",
  ),
  textColumn("Channels", ({ report }) => figure(report.channels)),
  textColumn("Groups", ({ report }) => figure(report.groups)),
  textColumn("Users", ({ report }) => figure(report.users)),
  courseColumn("Delivered a second", samples, "server.", (known) =>
    figure(silence(known) ? null : rateOf(known, "delivered.")),
  ),
  textColumn("Latency", ({ report: { latency_p99: age } }) =>
    typeof age === "number" ? `${figure(age * 1000)} ms` : "–",
  ),
  textColumn("Lag", ({ report }) => figure(lag(report))),
  textColumn("Dropped", ({ report }) => figure(sum(Object.values(report.dropped ?? {})))),
]);

/** @typedef {ReturnType<typeof workers> extends Map<string, infer T> ? T : never} Work */
/** @type {Table<Work>} */
const workTable = new Table("work", [
  {
    title: "Channel",
    make: (cell) => {
      const title = element("span");
      const small = element("span", "small");
      cell.append(title, small);
      return ({ stream, trouble }, id) => {
        write(title, id);
        write(small, trouble || (stream ? `records of the stream ${stream}` : ""));
      };
    },
  },
  courseColumn("Waiting", samples, "work.", ({ waiting }) => figure(waiting)),
  textColumn("Workers", ({ workers }) => figure(workers)),
  {
    title: "Partitions of each",
    make: (cell) => ({ shares }) => {
      const texts = shares.map(([server, count]) => `${count} at ${server}`);
      if (cell.textContent !== (texts.join("") || "–")) {
        cell.replaceChildren(...texts.map((text) => element("span", "small", text)));
        if (!texts.length) {
          cell.textContent = "–";
        }
      }
    },
  },
  textColumn("Done", ({ done }) => figure(done)),
  textColumn("Failed", ({ failed }) => figure(failed)),
]);

/** @typedef {ReturnType<typeof streams> extends Map<string, infer T> ? T : never} StreamRow */
/** @type {Table<StreamRow>} */
const streamTable = new Table("streams", [
  {
    title: "Stream",
    make: (cell) => {
      const title = element("span");
      const small = element("span", "small");
      cell.append(title, small);
      return ({ details }, id) => {
        write(title, id);
        write(small, [...details].join(" "));
      };
    },
  },
  {
    title: "State",
    make: (cell) => {
      const text = element("span", "state");
      cell.append(text);
      return ({ states }) => {
        const worst = STREAM_STATES.find((state) => states.has(state)) ?? [...states.keys()][0];
        const is = STREAM_STATES.indexOf(worst);
        text.dataset.state = is < 0 || is > 4 ? "good" : is < 3 ? "bad" : "wait";
        const count = states.get(worst) ?? 0;
        // One without channels reads none, which is well.
        const all = sum(states.values()) - (worst === "idle" ? 0 : (states.get("idle") ?? 0));
        write(text, count === all ? worst : `${worst} on ${count} of ${all}`);
      };
    },
  },
  courseColumn("Records a second", samples, "stream.", ({ perSecond }) => figure(perSecond)),
  textColumn("Delivered a second", ({ delivered }) => figure(delivered)),
  textColumn("Lag", ({ lag }) => figure(lag)),
  textColumn("Errors", ({ errors }) => figure(errors)),
]);

let largest = 1;
/** @type {Table<number>} */
const groupTable = new Table("groups", [
  textColumn("Group", (_, id) => id, ""),
  textColumn("Members", (members) => figure(members)),
  {
    title: "Compared",
    className: "wide",
    make: (cell) => {
      const bar = drawing("rect", { height: 8, rx: 2, width: 0 });
      const size = { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" };
      cell.append(drawing("svg", { class: "bar-of-group", ...size }, bar));
      return (members) => bar.setAttribute("width", String((members / largest) * 100));
    },
  },
]);

function showTiles() {
  const totals = servers.rates();
  const present = servers.present();
  /** @param {string} prefix */
  const rate = (prefix) => {
    const found = [...totals].filter(([name]) => name.startsWith(prefix));
    return present.some(([, { rates }]) => rates !== null) ? sum(found.map(([, each]) => each)) : null;
  };
  const channels = sum(present.map(([, { report }]) => report.channels ?? 0));
  const [p50, p99] = ["latency_p50", "latency_p99"].map((name) => samples.past(name).at(-1) ?? null);
  const unread = samples.past("backlog.lag").at(-1) ?? null;
  const dropped = droppedLately();
  const silent = servers.all.size - present.length;
  /** @type {Record<string, [string, string, string, boolean]>} */
  const told = {
    Servers: [
      figure(present.length),
      "",
      silent ? `${silent} silent` : `${figure(channels)} channel${channels === 1 ? "" : "s"}`,
      silent > 0,
    ],
    Sent: [figure(rate("sent.")), "/s", "to Kafka", false],
    Delivered: [figure(rate("delivered.")), "/s", "to channels", false],
    Latency: [figure(p50), p50 === null ? "" : "ms", `p99: ${figure(p99)} ms`, false],
    Lag: [figure(unread), "", "messages to be read", false],
    Dropped: [figure(dropped), "", "in 10 minutes", dropped > 0],
  };
  for (const { title, value, small, tile } of tiles) {
    const [text, unit, more, alarms] = told[title];
    const shown = text + (unit && ` ${unit}`);
    if (value.textContent !== shown) {
      value.replaceChildren(text, ...(unit ? [element("span", "unit", ` ${unit}`)] : []));
    }
    write(small, p99 === null && title === "Latency" ? "no message yet" : more);
    tile.classList.toggle("alarm", alarms);
  }
}

/** The number of messages that were dropped while this page was open. */
function droppedLately() {
  let dropped = 0;
  for (const [name] of named(samples, "dropped.", String)) {
    samples.past(name).forEach((value, at) => {
      const span = at ? samples.times[at] - samples.times[at - 1] : SECOND;
      dropped += ((value ?? 0) * Math.min(span, GAP)) / SECOND;
    });
  }
  return Math.round(dropped);
}

const LINK = {
  live: () => `Live${picture?.server ? ` from ${picture.server}` : ""}`,
  asking: () => "Live by HTTP",
  waiting: () => "Connecting…",
  refused: () => "No access",
};

function showLink() {
  byId("link").dataset.state = linkState;
  write(byId("link-text"), LINK[/** @type {keyof typeof LINK} */ (linkState)]());
  const [text, isBad, code] = trouble();
  const note = byId("note");
  note.classList.toggle("bad", isBad);
  if (note.dataset.text !== text) {
    note.dataset.text = text;
    note.replaceChildren(...(text ? [text] : []), ...(code ? [" ", element("code", "", code)] : []));
  }
}

/** @returns {[string, boolean, string]} */
function trouble() {
  if (linkState === "refused") {
    return ["You may not see this page. Log in again, and reload it.", true, ""];
  }
  if (linkState === "waiting") {
    return picture ? ["The server of this page does not answer. The page tries another one.", true, ""] : ["", false, ""];
  }
  if (picture?.state === "disconnected") {
    const so = "Messages wait. The figures of other servers come when it is back.";
    return [`Kafka cannot be reached. ${so}`, true, ""];
  }
  if (picture?.state === "closed") {
    return ["The layer of this process is closed.", true, ""];
  }
  if (picture?.trouble) {
    return [picture.trouble, true, ""];
  }
  if (linkState === "asking") {
    const line = 'path("kafka/", URLRouter(kafka_layer.urls.websocket_urlpatterns))';
    return ["This page gets its figures by HTTP. For a websocket, add to asgi.py", false, line];
  }
  return ["", false, ""];
}

/** @param {string} text */
function tell(text) {
  newsAt = Date.now();
  write(byId("news"), text);
}

function show() {
  showLink();
  if (Date.now() - newsAt > NEWS) {
    write(byId("news"), "");
  }
  if (paused || picture === null) {
    return;
  }
  showTiles();
  for (const card of cards) {
    card.draw(samples);
  }
  const byName = [...servers.all].sort(([a], [b]) => a.localeCompare(b));
  serverTable.show(
    new Map(byName),
    picture.state === "starting" ? "This server is starting." : "No server has answered yet.",
    (known) => (silence(known) ? "silent" : ""),
  );
  const noWork = picture.backlog_trouble
    ? `The backlogs are not known: ${picture.backlog_trouble}`
    : "There is no worker channel: no job was sent, and no worker receives.";
  workTable.show(workers(servers, picture), noWork);
  streamTable.show(streams(servers), "The settings name no stream.");
  const found = groups(servers);
  largest = Math.max(1, ...found.values());
  groupTable.show(found, "No channel is in a group.");
}

link.addEventListener("picture", (event) => {
  picture = /** @type {CustomEvent<Picture>} */ (event).detail;
  const { came, went } = servers.take(picture);
  for (const name of came) {
    tell(`Server ${name} has started.`);
  }
  for (const name of went) {
    tell(`Server ${name} has not answered for a minute.`);
  }
  const last = samples.times.at(-1) ?? 0;
  if (Date.now() - last > 0.8 * SECOND) {
    samples.add(sampled(servers, picture));
  }
  show();
});
link.addEventListener("state", (event) => {
  linkState = /** @type {CustomEvent<string>} */ (event).detail;
  show();
});

const pause = byId("pause");
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  show();
});

// Redraw each second, because a server becomes silent without an event.
setInterval(show, SECOND);
link.run();
