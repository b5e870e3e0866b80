// The API key: asked for when the server wants one, and what the key may do.
import {$, announce, say} from "./dom.js";
import {ask, key, setKey, whenLocked} from "./api.js";

export class Session {
  constructor(unlocked) {
    this.form = $("#key");
    this.unlocked = unlocked;
    this.scopes = null;  // null: not known, or no key is needed
    this.form.onsubmit = event => { event.preventDefault(); this.unlock(); };
    $("#change").onclick = () => { this.form.hidden = false; this.form.key.select(); };
    $("#change").hidden = !key();
    whenLocked(reason => this.lock(reason));
  }

  may(scope) {
    return !this.scopes || this.scopes.includes(scope);
  }

  // Ask for a key, and say why the last one does not work. Chosen videos stay.
  lock(reason) {
    const fresh = this.form.hidden;
    this.form.hidden = false;
    $("#composer").hidden = true;
    say($(".error", this.form), reason);
    if (fresh && document.activeElement === document.body) this.form.key.focus();
  }

  async unlock() {
    setKey(this.form.key.value);
    try {
      await ask("/session", {method: "POST"});
      await this.learn();
      this.form.hidden = true;
      $("#change").hidden = false;
      say($(".error", this.form), "");
      announce("Unlocked");
      this.unlocked();
    } catch (error) { say($(".error", this.form), error.message); }
  }

  // Offer only what the key may do.
  async learn() {
    this.scopes = key() ? (await ask("/session")).scopes : null;
    $("#composer").hidden = !this.may("submit");
  }
}
