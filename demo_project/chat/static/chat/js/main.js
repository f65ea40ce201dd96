// The chat page: connects the parts of the page with the websocket.
//
// A new kind of frame gets a handler in `frames` and, if it shows something, a module.

import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { MessageLog } from "./log.js";
import { Panel } from "./panel.js";
import { showConnection } from "./status.js";

const page = JSON.parse(document.getElementById("page").textContent);

const connection = new Connection(page.socket);
const log = new MessageLog(page.you);
const panel = new Panel(page.you);
const composer = new Composer((text) => connection.send({ type: "say", text }));

let welcomes = 0;

const frames = {
  welcome({ worker, room }) {
    showConnection("open", worker);
    panel.showWorker(worker);
    log.addWelcome(room, worker, { again: welcomes++ > 0 });
  },
  message(message) {
    log.addMessage(message);
    panel.count(message.sent_by);
  },
  problem({ text }) {
    composer.showProblem(text);
  },
  refusal({ text }) {
    connection.end();
    log.addRefusal(text, page.join);
  },
};

connection.addEventListener("frame", ({ detail }) => frames[detail.type]?.(detail));
connection.addEventListener("state", ({ detail: state }) => {
  composer.setEnabled(state === "open");
  // "open" is shown by the welcome, which tells the worker too.
  if (state !== "open") {
    showConnection(state);
  }
});
panel.addEventListener("reconnect", () => connection.reconnect());

connection.open();
