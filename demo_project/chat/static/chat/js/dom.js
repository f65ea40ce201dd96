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

/** How long something took, as people say it: "7 ms", "1.5 s", "15 s", "2 min". */
export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (milliseconds < 999.5) {
    return `${Math.max(1, Math.round(milliseconds))} ms`;
  }
  if (seconds < 99.5) {
    return `${seconds < 9.95 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`;
  }
  return `${Math.round(seconds / 60)} min`;
}

/** For the eye alone: a screen reader skips it. */
export function decoration(text) {
  const node = element("span", "", text);
  node.ariaHidden = "true";
  return node;
}
