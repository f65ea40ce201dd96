// The chat page: connects the parts of the page with the websocket.
//
// A new kind of frame gets a handler in `frames` and, if it shows something, a module.

import { RecoveringSocket } from "../../kafka_layer/socket.js";
import { Composer } from "./composer.js";
import { Fleet } from "./fleet.js";
import { HereList } from "./here.js";
import { Live } from "./live.js";
import { MessageLog } from "./log.js";
import { Outbox } from "./outbox.js";
import { Panel } from "./panel.js";
import { Roster } from "./roster.js";
import { showConnection, showKafka } from "./status.js";
import { Typing } from "./typing.js";

const page = JSON.parse(document.getElementById("page").textContent);
// By this name the others know the page again when it reconnects.
const tab = Math.random().toString(36).slice(2, 12);

let welcomes = 0;
// Whether this connection is in its room: what is sent before might be lost.
let welcomed = false;
// Whether its worker reaches Kafka.
let kafka = true;

const socket = new RecoveringSocket(`${page.socket}&tab=${tab}`);
const send = (frame) => socket.send(JSON.stringify(frame));
const log = new MessageLog(page.you);
const outbox = new Outbox((frame) => welcomed && send(frame), log);
const panel = new Panel();
const fleet = new Fleet();
const live = new Live(send);
const here = new HereList(page.you);
const roster = new Roster(page.you, () => send({ type: "who" }));
const typing = new Typing(page.you, () => send({ type: "typing" }));
const composer = new Composer((text, person) => {
  typing.sent();
  const taken = outbox.post(
    person === null
      ? { type: "say", text }
      : { type: "direct", to: { id: person.id, name: person.name }, text },
  );
  if (!taken) {
    composer.showProblem("Please wait until your last messages have arrived.");
  }
  return taken;
});

/** Kafka can be reached from this worker, or not. */
function setKafka(connected) {
  kafka = connected;
  showKafka(connected);
  panel.setKafka(connected);
  if (connected && welcomed) {
    live.start();
  } else {
    live.stop();
    fleet.pause();
    here.setStale(true);
  }
}

const frames = {
  welcome({ worker, process, kafka: connected, room, connection: name }) {
    welcomed = true;
    showConnection("open", worker);
    panel.showWorker(worker, process);
    log.addWelcome(room, worker, { again: welcomes++ > 0 });
    roster.start(name);
    here.setStale(false);
    fleet.own(worker);
    fleet.start();
    setKafka(connected);
    composer.setEnabled(true);
    outbox.sendAgain();
  },
  message(message) {
    outbox.settle(message.id);
    log.addMessage(message);
    fleet.count(message.sent_by);
    typing.stop(message.author);
  },
  direct(message) {
    outbox.settle(message.id);
    log.addDirect(message);
    fleet.count(message.sent_by);
  },
  echo({ id }) {
    live.echo(id);
  },
  worker(report) {
    fleet.heard(report);
    live.showRate(fleet.rate());
  },
  kafka({ connected, seconds }) {
    if (connected === kafka) {
      return;
    }
    if (connected) {
      log.addRecovery(seconds);
      here.setStale(false);
      fleet.start();
      outbox.sendAgainLater();
    }
    setKafka(connected);
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
  problem({ text, id }) {
    composer.showProblem(text, outbox.refuse(id));
  },
  refusal({ text }) {
    log.addRefusal(text, page.join);
  },
};

socket.onmessage = ({ data: frame }) => frames[frame.type]?.(frame);
socket.onunrecovered = () => log.beginAnew();
socket.onstate = ({ detail: state }) => {
  // "open" is shown by the welcome, which tells the worker too.
  if (state === "open") {
    return;
  }
  welcomed = false;
  showConnection(state);
  roster.pause();
  here.setStale(true);
  fleet.pause();
  live.stop();
  // While it reconnects one can go on writing: the outbox keeps it.
  if (state === "closed") {
    composer.setEnabled(false);
  }
};
outbox.addEventListener("latency", ({ detail }) => live.add(detail));
panel.addEventListener("reconnect", () => socket.reconnect());
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
