// Building elements. Text always becomes a text node, never markup.

/** element("p", "hint", "Hello, ", nameElement) */
export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) {
    node.className = className;
  }
  node.append(...children);
  return node;
}

export function spoken(text) {
  return element("span", "visually-hidden", text);
}

/** For the eye alone: a screen reader skips it. */
export function decoration(text) {
  const node = element("span", "", text);
  node.ariaHidden = "true";
  return node;
}
