// How people look.

import { element } from "./dom.js";

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
  node.style.setProperty("--hue", (parseInt(person.id.slice(0, 4), 16) || 0) % 360);
  node.ariaHidden = "true";
  return node;
}

function initials(name) {
  const words = name.split(" ");
  const chosen = words.length > 1 ? [words[0], words.at(-1)] : words;
  return chosen.map((word) => [...word][0].toLocaleUpperCase()).join("");
}
