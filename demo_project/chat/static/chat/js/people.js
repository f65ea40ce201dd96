// How people look.

import { element } from "./dom.js";

// Far enough apart to be told from each other.
const HUES = [265, 25, 145, 325, 85, 205, 295, 55, 175, 355, 115, 235];
const chosen = new Map();

/** A job or a script has no id, and nobody can write to it. */
export function isProgram(person) {
  return person.id === "";
}

export function avatar(person) {
  return paintAvatar(element("span", "avatar"), person);
}

export function paintAvatar(node, person) {
  node.textContent = isProgram(person) ? "" : initials(person.name);
  node.classList.toggle("program", isProgram(person));
  node.style.setProperty("--hue", hueOf(person.id));
  node.ariaHidden = "true";
  return node;
}

/** A person's own colour, unless somebody else of this page has it: then the next free one. */
function hueOf(id) {
  if (!chosen.has(id)) {
    const first = (parseInt(id.slice(0, 4), 16) || 0) % HUES.length;
    const turns = HUES.map((_, turn) => HUES[(first + turn) % HUES.length]);
    const taken = new Set(chosen.values());
    chosen.set(id, turns.find((hue) => !taken.has(hue)) ?? HUES[first]);
  }
  return chosen.get(id);
}

function initials(name) {
  const words = name.split(" ");
  const ends = words.length > 1 ? [words[0], words.at(-1)] : words;
  return ends.map((word) => [...word][0].toLocaleUpperCase()).join("");
}
