// Where a message is written.

export class Composer {
  #form = document.getElementById("composer");
  #text = document.getElementById("composer-text");
  #send = this.#form.querySelector(".send");
  #problem = document.getElementById("composer-problem");
  #submit;
  #enabled = false;
  #lastSent = "";

  /** @param submit is given the text and returns whether it was sent. */
  constructor(submit) {
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
      }
    });
    this.#text.addEventListener("input", () => this.#refresh());
    this.#refresh();
    if (matchMedia("(hover: hover)").matches) {
      this.#text.focus();
    }
  }

  setEnabled(enabled) {
    this.#enabled = enabled;
    this.#refresh();
  }

  /** Says why the last message was not taken, and hands it back. */
  showProblem(text) {
    this.#problem.textContent = text;
    if (this.#text.value === "") {
      this.#text.value = this.#lastSent;
    }
    this.#send.ariaDisabled = String(!this.#canSend());
  }

  #trySend() {
    if (!this.#canSend() || !this.#submit(this.#text.value)) {
      return;
    }
    this.#lastSent = this.#text.value;
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
