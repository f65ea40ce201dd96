// The list of messages and notices.

import { decoration, element, spoken } from "./dom.js";
import { avatar } from "./people.js";
import { workerBadge } from "./workers.js";

const LONGEST_LOG = 500;
const NEAR_END = 80;
const FOLLOWS_WITHIN = 120;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

export class MessageLog {
  #you;
  #scroller = document.getElementById("log");
  #list = document.getElementById("messages");
  #jump = document.getElementById("jump");
  #latest = null;

  constructor(you) {
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
    const own = message.author.id === this.#you.id;
    const follows = this.#follows(message);
    const body = element("div", "message-body");
    if (!follows) {
      body.append(this.#head(message, own));
    }
    const text = element("p", "message-text", message.text);
    text.title = `${timeOf(message)}, ${message.transit_ms} ms on its way`;
    body.append(text);
    const item = element("li", "message", body);
    item.classList.toggle("own", own);
    item.classList.toggle("follows", follows);
    if (!own && !follows) {
      item.prepend(avatar(message.author));
    }
    this.#add(item, { scroll: own });
    this.#latest = message;
  }

  addWelcome(room, worker, { again }) {
    const words = again ? "Connected again, through" : `You are in #${room}, connected through`;
    const notice = element("li", "notice", words, workerBadge(worker));
    if (again) {
      notice.append("What was said in between is not shown.");
    }
    this.#add(notice);
    this.#latest = null;
  }

  addRefusal(text, joinAddress) {
    const link = element("a", "", "Join again");
    link.href = joinAddress;
    this.#add(element("li", "notice error", text, link), { scroll: true });
    this.#latest = null;
  }

  #head(message, own) {
    const head = element(
      "div",
      "message-head",
      element("span", "author", own ? "You" : message.author.name),
      element("time", "", timeOf(message)),
    );
    const route = element("span", "route", spoken("through "), workerBadge(message.sent_by));
    if (message.sent_by !== message.delivered_by) {
      route.append(decoration("→"), spoken(" to "), workerBadge(message.delivered_by));
    }
    route.append(`${message.transit_ms} ms`);
    head.append(route);
    return head;
  }

  /** Whether the message goes on where the one above it ended, and needs no head. */
  #follows(message) {
    const latest = this.#latest;
    return (
      latest !== null &&
      latest.author.id === message.author.id &&
      latest.sent_by === message.sent_by &&
      message.sent_at - latest.sent_at < FOLLOWS_WITHIN
    );
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

function timeOf(message) {
  return clock.format(message.sent_at * 1000);
}
