// Who is typing: told to the others now and then, shown until they stop.

import { decoration } from "./dom.js";

const TELL_EVERY = 2_500;
const SHOW_FOR = 4_000;

export class Typing {
  #you;
  #tell;
  #line = document.getElementById("typing");
  #toldAt = -TELL_EVERY;
  #typing = new Map();

  /** @param tell says to the others that one is typing. */
  constructor(you, tell) {
    this.#you = you;
    this.#tell = tell;
  }

  /** One is typing. */
  typed() {
    if (performance.now() - this.#toldAt >= TELL_EVERY) {
      this.#toldAt = performance.now();
      this.#tell();
    }
  }

  /** What was typed is sent: the next key is news. */
  sent() {
    this.#toldAt = -TELL_EVERY;
  }

  show(person) {
    if (person.id === this.#you.id) {
      return; // another page of one's own
    }
    clearTimeout(this.#typing.get(person.id)?.timer);
    const timer = setTimeout(() => this.stop(person), SHOW_FOR);
    this.#typing.set(person.id, { name: person.name, timer });
    this.#refresh();
  }

  stop(person) {
    clearTimeout(this.#typing.get(person.id)?.timer);
    if (this.#typing.delete(person.id)) {
      this.#refresh();
    }
  }

  #refresh() {
    const words = sentence([...this.#typing.values()].map(({ name }) => name));
    // For the eye alone: read out, it would interrupt all the time.
    this.#line.replaceChildren(...(words ? [decoration(words)] : []));
  }
}

function sentence(names) {
  if (names.length > 2) {
    return "Several people are typing…";
  }
  return names.length ? `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing…` : "";
}
