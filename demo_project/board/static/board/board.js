// The board: each frame is a record, and each record a price in its row.

import { decoration } from "../chat/js/dom.js";
import { showConnection } from "../chat/js/status.js";
import { RecoveringSocket } from "../kafka_layer/socket.js";

// How many prices make the line of a course; the drawings in the page are as wide.
const LONGEST = 40;

const two = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
const amount = new Intl.NumberFormat("en", two);
const difference = new Intl.NumberFormat("en", { ...two, signDisplay: "exceptZero" });

class Row {
  #cells;
  // null where changes may be missing.
  #prices = [];
  #records = 0;

  constructor(row) {
    const [price, change, drawing, line, records] = [
      ".price",
      ".change",
      "svg",
      "path",
      "td.changes",
    ].map((selector) => row.querySelector(selector));
    this.#cells = { price, change, drawing, line, records };
  }

  show(price) {
    const { price: cell, change, records } = this.#cells;
    const before = this.#prices.at(-1) ?? null;
    const cents = before === null ? 0 : Math.round((price - before) * 100);
    const direction = cents > 0 ? "up" : cents < 0 ? "down" : "same";
    this.#prices = [...this.#prices, price].slice(-LONGEST);

    // A new element, whose animation begins.
    const text = document.createElement("span");
    text.className = direction;
    text.textContent = amount.format(price);
    cell.replaceChildren(text);
    change.className = `number change ${direction}`;
    change.replaceChildren(
      decoration({ up: "▲", down: "▼", same: "" }[direction]),
      before === null ? "" : ` ${difference.format(cents / 100)}`,
    );
    records.textContent = ++this.#records;
    this.#draw();
  }

  breakOff() {
    if (this.#prices.length) {
      this.#prices.push(null);
    }
  }

  #draw() {
    const known = this.#prices.filter((price) => price !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const first = LONGEST - this.#prices.length;
    const points = this.#prices.map((price, at) => {
      const pen = this.#prices[at - 1] == null ? "M" : "L";
      const y = high === low ? 0.5 : (high - price) / (high - low);
      return price === null ? "" : `${pen}${first + at} ${y.toFixed(3)}`;
    });
    this.#cells.line.setAttribute("d", points.join(""));
    this.#cells.drawing.ariaLabel = `From ${amount.format(low)} to ${amount.format(high)}`;
  }
}

const page = JSON.parse(document.getElementById("page").textContent);
const note = document.getElementById("note");
const button = document.getElementById("switch");
const rows = new Map(
  Array.from(document.querySelectorAll("#prices tr"), (row) => [row.dataset.name, new Row(row)]),
);

const frames = {
  welcome({ worker }) {
    showConnection("open", worker);
  },
  price({ name, price }) {
    rows.get(name)?.show(price);
  },
};

/** @param position where an earlier connection ended; "" for none. */
function connect(position) {
  const socket = new RecoveringSocket(page.socket, { position });
  showConnection("connecting");
  button.textContent = "Disconnect";
  button.onclick = () => socket.close();
  socket.onmessage = ({ data: frame }) => frames[frame.type]?.(frame);
  socket.onrecovered = ({ detail: { count } }) => {
    const changes = count === 1 ? "one change" : `${count} changes`;
    note.textContent = `Back, with ${changes} of the meantime.`;
  };
  socket.onunrecovered = () => {
    note.textContent = "Changes of the meantime cannot be had any more. These are the last prices.";
    for (const row of rows.values()) {
      row.breakOff();
    }
  };
  socket.onstate = ({ detail: state }) => {
    // "open" is shown by the welcome, which tells the worker too.
    if (state !== "open") {
      note.textContent = "";
      showConnection(state);
    }
  };
  socket.onclose = () => {
    button.textContent = "Connect again";
    button.onclick = () => connect(socket.position);
  };
}

connect("");
