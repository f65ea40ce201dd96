// Who is here. Each page keeps its own list, from what the pages of the room tell each other.

// A page that is reloaded says goodbye and comes back.
const FAREWELL_GRACE = 2_000;
const ANSWER_TIME = 2_000;
// Connections of a worker that was lost never say goodbye.
const STALE_AFTER = 30_000;
const SUSPICIOUS_AFTER = 500;

/**
 * A member is an open page: {connection, tab, person, worker}. Events: `change`, and `arrived`
 * and `gone` with a person's name and worker as their detail.
 */
export class Roster extends EventTarget {
  #you;
  #callRoll;
  #connection = null;
  #members = new Map();
  #farewells = new Map();
  #answered = new Set();
  #next = null;
  #end = null;

  /** @param callRoll asks all pages of the room to answer; returns whether it could. */
  constructor(you, callRoll) {
    super();
    this.#you = you;
    this.#callRoll = callRoll;
    document.addEventListener("visibilitychange", () => {
      if (this.#connection !== null) {
        this.#callSoon(SUSPICIOUS_AFTER);
      }
    });
  }

  /** This page is in the room, as the connection of this name. */
  start(connection) {
    this.#connection = connection;
    this.#callSoon(0);
  }

  /** This page is cut off, and cannot tell who is here. */
  pause() {
    this.#connection = null;
    clearTimeout(this.#next);
    clearTimeout(this.#end);
  }

  here(member) {
    this.#put(member);
    // One's own answer proves that answers arrive; whoever gives none soon after is gone.
    if (member.connection === this.#connection) {
      clearTimeout(this.#end);
      this.#end = setTimeout(() => this.#removeSilent(), ANSWER_TIME);
    }
  }

  joined(member) {
    const known = this.#isHere(member.person);
    this.#put(member);
    if (!known) {
      this.#emit("arrived", { name: member.person.name, worker: member.worker });
    }
  }

  left({ connection }) {
    if (this.#members.has(connection) && !this.#farewells.has(connection)) {
      const timer = setTimeout(() => this.#remove(connection), FAREWELL_GRACE);
      this.#farewells.set(connection, timer);
    }
  }

  /** Returns [{id, name, workers, pages}], oneself first, then by name. */
  people() {
    const people = new Map();
    for (const { person, worker } of this.#members.values()) {
      const entry = people.get(person.id) ?? { ...person, workers: new Set(), pages: 0 };
      entry.workers.add(worker);
      entry.pages += 1;
      people.set(person.id, entry);
    }
    const isYou = ({ id }) => id === this.#you.id;
    return [...people.values()].sort(
      (a, b) => isYou(b) - isYou(a) || a.name.localeCompare(b.name) || a.id.localeCompare(b.id),
    );
  }

  #put(member) {
    this.#answered.add(member.connection);
    const before = [...this.#members.values()].find(
      (other) =>
        other.tab === member.tab &&
        other.person.id === member.person.id &&
        other.connection !== member.connection,
    );
    if (before) {
      // The same page again. If it could not say goodbye, others could not either.
      if (!this.#farewells.has(before.connection) && before.person.id !== this.#you.id) {
        this.#callSoon(SUSPICIOUS_AFTER);
      }
      this.#forget(before.connection);
    }
    this.#members.set(member.connection, member);
    this.#emit("change");
  }

  #remove(connection) {
    const member = this.#members.get(connection);
    if (member === undefined) {
      return;
    }
    this.#forget(connection);
    this.#emit("change");
    if (!this.#isHere(member.person)) {
      this.#emit("gone", { name: member.person.name, worker: member.worker });
    }
  }

  #forget(connection) {
    clearTimeout(this.#farewells.get(connection));
    this.#farewells.delete(connection);
    this.#members.delete(connection);
  }

  #isHere(person) {
    return [...this.#members.values()].some((member) => member.person.id === person.id);
  }

  #callSoon(delay) {
    clearTimeout(this.#next);
    this.#next = setTimeout(() => {
      clearTimeout(this.#end);
      this.#answered = new Set();
      // A page that nobody looks at can wait; it asks when it is looked at.
      if (document.visibilityState === "visible" || this.#members.size === 0) {
        this.#callRoll();
      }
      // Spread, so that the pages of a room do not ask all at once.
      this.#callSoon(STALE_AFTER * (1 + Math.random() / 2));
    }, delay);
  }

  #removeSilent() {
    for (const connection of [...this.#members.keys()]) {
      if (!this.#answered.has(connection)) {
        this.#remove(connection);
      }
    }
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
