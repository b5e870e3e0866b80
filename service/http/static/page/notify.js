// The title and, if wanted, notifications: how jobs proceed while the page is in the background.
import {$, announce} from "./dom.js";
import {percent, STATES} from "./text.js";

const WANTED = "skipvsr_notify";
const ENDS = {done: "is done", failed: "has failed"};

export class Notifier {
  constructor() {
    this.button = $("#notify");
    this.button.hidden = !("Notification" in window) || !isSecureContext;  // browsers allow them on HTTPS and localhost only
    this.button.onclick = () => this.toggle();
    this.show();
  }

  get on() {
    return !this.button.hidden && Notification.permission === "granted" && localStorage.getItem(WANTED) === "yes";
  }

  async toggle() {
    const wanted = !this.on && (await Notification.requestPermission()) === "granted";
    if (wanted) localStorage.setItem(WANTED, "yes"); else localStorage.removeItem(WANTED);
    if (!wanted && Notification.permission === "denied") announce("The browser blocks notifications of this page.");
    this.show();
  }

  show() {
    this.button.setAttribute("aria-pressed", String(this.on));
    this.button.textContent = this.on ? "Notifications on" : "Notify me";
  }

  // A job has changed its state.
  changed(job) {
    announce(`${job.filename}: ${STATES[job.state]}`);
    if (this.on && document.hidden && ENDS[job.state]) new Notification(`${job.filename} ${ENDS[job.state]}`, {tag: job.id, icon: "/static/icon.svg"});
  }

  // "42 % · clip.mp4"
  title(jobs) {
    const running = jobs.filter(job => job.state === "running"), [first] = running;
    const share = first?.progress.frames_total ? `${percent(first.progress.frames_done / first.progress.frames_total)} · ` : "";
    const title = first ? `${share}${first.filename}${running.length > 1 ? ` and ${running.length - 1} more` : ""}` : "SkipVSR";
    if (document.title !== title) document.title = title;
  }
}
