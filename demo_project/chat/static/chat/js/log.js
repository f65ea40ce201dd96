// The list of messages and notices.

import { decoration, duration, element, spoken } from "./dom.js";
import { avatar, isProgram } from "./people.js";
import { workerBadge } from "./workers.js";

const LONGEST_LOG = 500;
const NEAR_END = 80;
const FOLLOWS_WITHIN = 120;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** Event: `address`, with the person whose name was chosen as its detail. */
export class MessageLog extends EventTarget {
  #you;
  #scroller = document.getElementById("log");
  #list = document.getElementById("messages");
  #waiting = document.getElementById("waiting");
  #jump = document.getElementById("jump");
  #latest = null;

  constructor(you) {
    super();
    this.#you = you;
    this.#jump.addEventListener("click", () => {
      this.#toEnd();
      this.#scroller.focus();
    });
    let atEnd = true;
    this.#scroller.addEventListener("scroll", () => {
      atEnd = this.#isNearEnd();
      this.#jump.hidden ||= atEnd;
    });
    // The log gets smaller when a keyboard opens or the composer grows.
    new ResizeObserver(() => atEnd && this.#toEnd()).observe(this.#scroller);
  }

  addMessage(message) {
    this.#addBubble(message, isProgram(message.author) ? "program" : "");
  }

  /** A message that only its author and one other person get. */
  addDirect(message) {
    const item = this.#addBubble(message, "direct");
    item.dataset.with = this.#isYou(message.author) ? message.to.id : message.author.id;
  }

  addAnnouncement(announcement) {
    const head = element(
      "p",
      "announcement-head",
      element("span", "announcement-title", "Announcement"),
      element("time", "", timeOf(announcement)),
      this.#route(announcement),
    );
    this.#addApart(
      element("li", "announcement", head, element("p", "announcement-text", announcement.text)),
    );
  }

  addWelcome(room, worker, { again }) {
    const words = again ? "Connected again, through" : `You are in #${room}, connected through`;
    this.#addApart(element("li", "notice", words, workerBadge(worker)));
  }

  /** Not all that was said meanwhile can be had: begins anew, with the last messages. */
  beginAnew() {
    this.#list.replaceChildren();
    const words = "Some messages were missed and cannot be had any more. These are the last ones.";
    this.#addApart(element("li", "notice", words));
  }

  addArrival(name, worker) {
    const words = element("span", "", element("strong", "", name), " joined, through");
    this.#addApart(element("li", "notice", words, workerBadge(worker)));
  }

  addDeparture(name) {
    const words = element("span", "", element("strong", "", name), " left");
    this.#addApart(element("li", "notice", words));
  }

  /** Kafka is back after so many seconds. */
  addRecovery(seconds) {
    const after = seconds > 0 ? ` after ${duration(seconds * 1000)}` : "";
    this.#addApart(element("li", "notice", `Kafka is back${after}.`));
  }

  /** Shows below the others a message that did not come back yet; its caller removes it. */
  addWaiting(text) {
    const state = element("p", "message-head", element("span", "tag", "waiting"));
    const body = element("div", "message-body", state, element("p", "message-text", text));
    const item = element("li", "message own waiting", body);
    this.#waiting.append(item);
    this.#toEnd();
    return item;
  }

  addRefusal(text, joinAddress) {
    const link = element("a", "", "Join again");
    link.href = joinAddress;
    this.#addApart(element("li", "notice error", text, link), { scroll: true });
  }

  #addBubble(message, kind) {
    const own = this.#isYou(message.author);
    const follows = this.#follows(message);
    const body = element("div", "message-body");
    if (!follows) {
      body.append(this.#head(message, own));
    }
    const text = element("p", "message-text", ...question(message), message.text);
    if (message.sent_at !== null) {
      text.title = `${timeOf(message)}, ${duration(message.transit_ms)} on its way`;
    }
    body.append(text);
    const item = element("li", `message ${kind}`, body);
    item.classList.toggle("own", own);
    item.classList.toggle("follows", follows);
    if (!own && !follows) {
      item.prepend(avatar(message.author));
    }
    this.#add(item, { scroll: own });
    this.#latest = message;
    return item;
  }

  #head(message, own) {
    // One's own messages are told by their side and colour.
    const head = element("div", "message-head", own ? spoken("You ") : this.#author(message.author));
    if (message.to) {
      const to = this.#isYou(message.to) ? "you" : message.to.name;
      head.append(element("span", "tag", `only to ${to}`));
    }
    if (message.answers) {
      head.append(element("span", "tag", "background job"));
    }
    if (message.sent_at !== null) {
      head.append(element("time", "", timeOf(message)));
    }
    head.append(this.#route(message));
    return head;
  }

  #author(person) {
    if (isProgram(person)) {
      return element("span", "author", person.name);
    }
    const button = element("button", "author", person.name);
    button.type = "button";
    button.title = `Write to ${person.name} alone`;
    button.addEventListener("click", () => {
      this.dispatchEvent(new CustomEvent("address", { detail: person }));
    });
    return button;
  }

  /** The way of a message: in words for the newest, as coloured dots for all above it. */
  #route(message) {
    const route = element("span", "route", spoken("through "), workerBadge(message.sent_by));
    if (message.sent_by !== message.delivered_by) {
      route.append(decoration("→"), spoken(" to "), workerBadge(message.delivered_by));
    }
    if (message.transit_ms !== null) {
      route.append(element("span", "transit", duration(message.transit_ms)));
    }
    route.title = route.textContent;
    return route;
  }

  /** Whether the message goes on where the one above it ended, and needs no head. */
  #follows(message) {
    const latest = this.#latest;
    return (
      latest !== null &&
      !message.answers &&
      latest.author.id === message.author.id &&
      latest.author.name === message.author.name &&
      latest.to?.id === message.to?.id &&
      latest.sent_by === message.sent_by &&
      message.sent_at - latest.sent_at < FOLLOWS_WITHIN
    );
  }

  #isYou(person) {
    return person.id === this.#you.id;
  }

  /** Adds something that is no message: the next message has a head again. */
  #addApart(item, options) {
    this.#add(item, options);
    this.#latest = null;
  }

  #add(item, { scroll = false } = {}) {
    const follow = scroll || this.#isNearEnd();
    this.#list.append(item);
    while (this.#list.childElementCount > LONGEST_LOG) {
      this.#list.firstElementChild.remove();
    }
    if (follow) {
      this.#toEnd();
    } else {
      this.#jump.hidden = false;
    }
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = true;
  }
}

/** What an answer answers. */
function question({ answers }) {
  if (!answers) {
    return [];
  }
  const command = element("code", "", answers.command);
  return [element("span", "question", `${answers.person.name}: `, command)];
}

function timeOf(message) {
  return clock.format(message.sent_at * 1000);
}
