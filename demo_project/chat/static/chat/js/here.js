// The list of who is here, in which one chooses whom to write to alone.

import { decoration, element, spoken } from "./dom.js";
import { avatar } from "./people.js";
import { compareWorkers, tint } from "./workers.js";

/** Event: `address`, with the chosen person as its detail. */
export class HereList extends EventTarget {
  #you;
  #list = document.getElementById("here");
  #counts = document.querySelectorAll("[data-here-count]");

  constructor(you) {
    super();
    this.#you = you;
  }

  /** @param people as `Roster.people` returns them. */
  show(people) {
    // New rows take the focus away from the row it was on.
    const focused = document.activeElement?.closest("#here button")?.dataset.person;
    this.#list.replaceChildren(...people.map((person) => this.#row(person)));
    this.#list.querySelector(`button[data-person="${CSS.escape(focused ?? "")}"]`)?.focus();
    for (const node of this.#counts) {
      node.textContent = String(people.length);
    }
  }

  /** Whether the list may be out of date, because the connection is lost. */
  setStale(stale) {
    this.#list.classList.toggle("stale", stale);
  }

  #row(person) {
    const name = element("span", "here-name", person.name);
    const own = person.id === this.#you.id;
    const content = [avatar(person), name, ...pages(person), workers(person)];
    if (own) {
      name.append(element("span", "here-you", " (you)"));
      return element("li", "", element("span", "here-row", ...content));
    }
    const button = element("button", "here-row", spoken("Write to "), ...content);
    button.type = "button";
    button.dataset.person = person.id;
    button.title = `Write to ${person.name} alone`;
    button.addEventListener("click", () => {
      this.dispatchEvent(new CustomEvent("address", { detail: person }));
    });
    return element("li", "", button);
  }
}

function pages(person) {
  if (person.pages === 1) {
    return [];
  }
  const words = spoken(`, ${person.pages} pages`);
  return [element("span", "here-pages", decoration(`×${person.pages}`), words)];
}

function workers(person) {
  const names = [...person.workers].sort(compareWorkers);
  const dots = element("span", "here-workers", spoken(`, on ${names.join(" and ")}`));
  for (const name of names) {
    const dot = tint(element("span", "worker-dot"), name);
    dot.title = name;
    dot.ariaHidden = "true";
    dots.append(dot);
  }
  return dots;
}
