// The chat page: connects the parts of the page with the websocket.
//
// A new kind of frame gets a handler in `frames` and, if it shows something, a module.

import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { HereList } from "./here.js";
import { MessageLog } from "./log.js";
import { Panel } from "./panel.js";
import { Roster } from "./roster.js";
import { showConnection } from "./status.js";
import { Typing } from "./typing.js";

const page = JSON.parse(document.getElementById("page").textContent);
// By this name the others know the page again when it reconnects.
const tab = Math.random().toString(36).slice(2, 12);

const connection = new Connection(`${page.socket}&tab=${tab}`);
const log = new MessageLog(page.you);
const panel = new Panel();
const here = new HereList(page.you);
const roster = new Roster(page.you, () => connection.send({ type: "who" }));
const typing = new Typing(page.you, () => connection.send({ type: "typing" }));
const composer = new Composer((text, person) => {
  typing.sent();
  return connection.send(
    person === null
      ? { type: "say", text }
      : { type: "direct", to: { id: person.id, name: person.name }, text },
  );
});

let welcomes = 0;

const frames = {
  welcome({ worker, room, connection: name }) {
    showConnection("open", worker);
    panel.showWorker(worker);
    log.addWelcome(room, worker, { again: welcomes++ > 0 });
    roster.start(name);
    here.setStale(false);
  },
  message(message) {
    log.addMessage(message);
    panel.count(message.sent_by);
    typing.stop(message.author);
  },
  direct(message) {
    log.addDirect(message);
    panel.count(message.sent_by);
  },
  announcement(message) {
    log.addAnnouncement(message);
  },
  typing({ person }) {
    typing.show(person);
  },
  here({ member }) {
    roster.here(member);
  },
  joined({ member }) {
    roster.joined(member);
  },
  left({ member }) {
    roster.left(member);
    typing.stop(member.person);
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
    roster.pause();
    here.setStale(true);
  }
});
panel.addEventListener("reconnect", () => connection.reconnect());
composer.addEventListener("typing", () => typing.typed());

roster.addEventListener("change", () => {
  here.show(roster.people());
  composer.showHere(roster.people());
});
roster.addEventListener("arrived", ({ detail }) => log.addArrival(detail.name, detail.worker));
roster.addEventListener("gone", ({ detail }) => log.addDeparture(detail.name));

for (const source of [here, log]) {
  source.addEventListener("address", ({ detail: person }) => {
    panel.close();
    composer.address(person);
    composer.showHere(roster.people());
  });
}

connection.open();
