// Where a message is written: to the room, or to one person alone.

/** Event: `typing`, when something is typed for the room. */
export class Composer extends EventTarget {
  #form = document.getElementById("composer");
  #text = document.getElementById("composer-text");
  #label = this.#form.querySelector("label");
  #send = this.#form.querySelector(".send");
  #problem = document.getElementById("composer-problem");
  #to = document.getElementById("composer-to");
  #toName = document.getElementById("composer-to-name");
  #toAway = document.getElementById("composer-to-away");
  #roomWords = this.#label.textContent;
  #submit;
  #person = null;
  #enabled = false;

  /** @param submit is given a text and a person, null for the room; returns whether it went. */
  constructor(submit) {
    super();
    this.#submit = submit;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#trySend();
    });
    this.#text.addEventListener("keydown", (event) => {
      // While an input method composes, Enter picks a word.
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#trySend();
      } else if (event.key === "Escape" && this.#person !== null) {
        this.address(null);
      }
    });
    this.#text.addEventListener("input", () => {
      this.#refresh();
      if (this.#person === null && this.#canSend() && !this.#text.value.startsWith("/")) {
        this.dispatchEvent(new Event("typing"));
      }
    });
    document.getElementById("composer-to-room").addEventListener("click", () => this.address(null));
    this.#refresh();
    if (matchMedia("(hover: hover)").matches) {
      this.#text.focus();
    }
  }

  /** Writes to one person alone from now on, or to the room again if it is null. */
  address(person) {
    this.#person = person;
    this.#to.hidden = person === null;
    this.#toName.textContent = person?.name ?? "";
    this.#toAway.hidden = true;
    const words = person === null ? this.#roomWords : `Message to ${person.name} alone`;
    this.#label.textContent = words;
    this.#text.placeholder = person === null ? this.#text.dataset.placeholder : words;
    this.#form.classList.toggle("direct", person !== null);
    this.#text.focus();
  }

  /** Tells who is in the room, to say so when the person written to is not. */
  showHere(people) {
    const away = this.#person !== null && !people.some(({ id }) => id === this.#person.id);
    this.#toAway.hidden = !away;
  }

  setEnabled(enabled) {
    this.#enabled = enabled;
    this.#refresh();
  }

  /** Says what went wrong, and hands the text back that was refused, if it was one. */
  showProblem(problem, text = "") {
    this.#problem.textContent = problem;
    if (this.#text.value === "") {
      this.#text.value = text;
    }
    this.#send.ariaDisabled = String(!this.#canSend());
  }

  #trySend() {
    if (!this.#canSend() || !this.#submit(this.#text.value, this.#person)) {
      return;
    }
    this.#text.value = "";
    this.#refresh();
  }

  #refresh() {
    this.#problem.textContent = "";
    this.#send.ariaDisabled = String(!this.#canSend());
  }

  #canSend() {
    return this.#enabled && this.#text.value.trim() !== "";
  }
}
