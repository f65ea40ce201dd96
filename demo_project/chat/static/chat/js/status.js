// The state of the connection, in the bar at the top.

import { spoken } from "./dom.js";
import { workerBadge } from "./workers.js";

const status = document.getElementById("connection");
const text = status.querySelector(".connection-text");

const WORDS = {
  connecting: "Connecting…",
  waiting: "Reconnecting…",
  closed: "Disconnected",
};

const kafka = document.getElementById("kafka");
const AWAY = "Kafka cannot be reached. You can go on writing: messages wait, and go out when it is back.";

/** Says for as long as it lasts that the worker cannot reach Kafka. */
export function showKafka(connected) {
  kafka.textContent = connected ? "" : AWAY;
}

/** Shows a state of the socket; "open" together with the worker it leads to. */
export function showConnection(state, worker) {
  status.dataset.state = state;
  if (state === "open") {
    text.replaceChildren(spoken("Connected through "), workerBadge(worker));
  } else {
    text.replaceChildren(WORDS[state]);
  }
}
