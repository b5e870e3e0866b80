// The jobs that the page knows, kept up to date: by events while the page is visible, else by asking now and then.
import {ask} from "./api.js";

export const PAGE = 20;
const RUNNING = 50;
const SOON = 300, WITH_EVENTS = 20e3, ACTIVE = 1000, IDLE = 5000, HIDDEN = 10e3, RETRY_EVENTS = 30e3;  // milliseconds
export const FILTERS = {
  all: [], active: ["running", "queued", "paused"], done: ["done"], failed: ["failed"], cancelled: ["cancelled"],
};

export class Jobs extends EventTarget {
  constructor() {
    super();
    this.jobs = new Map();
    this.order = [];       // ids as shown
    this.filter = "all";
    this.search = "";
    this.offset = 0;
    this.total = 0;
    this.more = false;
    this.counts = null;
    this.error = null;
    this.events = null;
    this.noEvents = 0;     // when the server last had no events
    this.round = 0;
    this.others = new Map();  // id → state of jobs that events have told of
  }

  show({filter = this.filter, search = this.search, offset = 0}) {
    Object.assign(this, {filter, search, offset});
    return this.refresh();
  }

  // Ask for what the page shows: running jobs first, then a page of the newest.
  async refresh() {
    clearTimeout(this.timer);
    this.hurry = false;
    const round = ++this.round;
    try {
      const first = this.filter === "all" || this.filter === "active";
      const [running, page] = await Promise.all([first && !this.offset ? this.list(["running"], RUNNING, 0) : null, this.list(FILTERS[this.filter], PAGE, this.offset)]);
      if (round !== this.round) return;  // a newer request is on its way
      this.take(running?.jobs || [], page);
      this.error = null;
    } catch (error) {
      if (round !== this.round) return;
      this.error = error;
    }
    this.dispatchEvent(new Event("change"));
    this.listen();
    this.timer = setTimeout(() => this.refresh(), this.pause());
  }

  list(states, limit, offset) {
    const query = new URLSearchParams({limit, offset});
    for (const state of states) query.append("state", state);
    if (this.search) query.set("q", this.search);
    return ask(`/jobs?${query}`);
  }

  take(running, page) {
    const {jobs} = page, known = new Set(jobs.map(job => job.id));
    const all = [...running.filter(job => !known.has(job.id)), ...jobs];
    const fresh = [...all.filter(job => job.state === "running"), ...all.filter(job => job.state !== "running")];
    this.order = fresh.map(job => job.id);
    for (const job of fresh) this.set(job);
    this.total = page.total;
    this.more = page.next !== null;
    this.counts = page.counts;
    for (const id of this.jobs.keys()) if (!this.order.includes(id)) this.jobs.delete(id);
  }

  // Take a job's newer document.
  set(job) {
    const before = this.jobs.get(job.id);
    this.jobs.set(job.id, job);
    if (before && before.state !== job.state) this.dispatchEvent(new CustomEvent("state", {detail: job}));
  }

  // A job that has just changed by an answer or an event.
  update(job) {
    const before = this.jobs.get(job.id);
    this.set(job);
    if (!before) {
      const place = this.order.findIndex(id => this.jobs.get(id)?.state !== "running");
      this.order.splice(place < 0 ? this.order.length : place, 0, job.id);
    }
    if (before?.state !== job.state) this.soon();
    this.dispatchEvent(new Event("change"));
  }

  removed(id) {
    this.order = this.order.filter(other => other !== id);
    this.jobs.delete(id);
    this.dispatchEvent(new Event("change"));
    this.soon();
  }

  soon() {
    if (this.hurry) return;
    this.hurry = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), SOON);
  }

  pause() {
    if (document.hidden) return HIDDEN;
    if (this.events?.readyState === EventSource.OPEN) return WITH_EVENTS;
    return [...this.jobs.values()].some(job => ["queued", "running"].includes(job.state)) ? ACTIVE : IDLE;
  }

  // Browsers open six connections to a server, so only a visible page holds one for events.
  listen() {
    if (document.hidden || this.error?.status) { this.events?.close(); this.events = null; return; }
    if (this.events || Date.now() - this.noEvents < RETRY_EVENTS) return;
    const events = this.events = new EventSource("/events");
    events.addEventListener("job", event => this.happened(JSON.parse(event.data)));
    events.addEventListener("removed", event => { const {id} = JSON.parse(event.data); if (this.jobs.has(id)) this.removed(id); });
    events.onopen = () => { this.soon(); this.dispatchEvent(new Event("connected")); };
    events.onerror = () => {
      this.dispatchEvent(new Event("lost"));
      if (events.readyState !== EventSource.CLOSED) return;  // the browser connects again
      this.events = null;
      this.noEvents = Date.now();
      this.soon();
    };
  }

  happened(job) {
    if (this.jobs.has(job.id)) this.update(job);
    else if (this.others.get(job.id) !== job.state) this.soon();  // a new job, or one that another page shows
    this.others.set(job.id, job.state);
  }
}
