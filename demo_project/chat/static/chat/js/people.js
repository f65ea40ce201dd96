// How people look.

import { element } from "./dom.js";

export function avatar(person) {
  return paintAvatar(element("span", "avatar"), person);
}

export function paintAvatar(node, person) {
  node.textContent = initials(person.name);
  node.style.setProperty("--hue", parseInt(person.id.slice(0, 4), 16) % 360);
  node.ariaHidden = "true";
  return node;
}

function initials(name) {
  const words = name.split(" ");
  const chosen = words.length > 1 ? [words[0], words.at(-1)] : words;
  return chosen.map((word) => [...word][0].toLocaleUpperCase()).join("");
}
