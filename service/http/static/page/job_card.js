// A job's card: thumbnail, facts, progress, notes, and what one can do with the job.
import {$, announce, confirmed, el, icon, isWaiting, say, setAttribute, setText, setWaiting} from "./dom.js";
import {about, bytes, count, date, list, percent, rate, ROUTING, size, STATES, time} from "./text.js";
import {ask} from "./api.js";
import {Thumbnail} from "./preview.js";
import {LiveView} from "./live.js";
import {Compare} from "./compare.js";

const FINAL = ["done", "failed", "cancelled"];

export class JobCard {
  constructor(job, page) {
    this.page = page;        // {jobs, may(scope), again(job)}
    this.sent = "";          // the request that the user has just made: pause or cancel
    this.notice = "";        // the error of the last action; stays until the job changes
    this.buttons = new Map();
    this.thumbnail = new Thumbnail();
    this.title = el("h3", {tabindex: "-1", id: `name-${job.id}`});
    this.badge = el("span", {class: "badge"});
    this.facts = el("p", {class: "soft facts"});
    this.bar = el("progress", {max: "1", value: "0"});
    this.pace = el("p", {class: "soft pace"});
    this.warnings = el("details", {class: "warnings", hidden: true}, el("summary", {}, icon("warning"), el("span")), el("ul"));
    this.error = el("p", {class: "error", hidden: true});
    this.actions = el("div", {class: "actions"});
    this.extra = el("div", {class: "extra"});
    this.element = el("article", {class: "card job", id: `job-${job.id}`, "aria-labelledby": `name-${job.id}`},
      this.thumbnail.element,
      el("div", {class: "about"}, el("header", {}, this.title, this.badge), this.facts, this.bar, this.pace, this.error, this.warnings),
      this.actions, this.extra);
  }

  show(job) {
    if (this.job && (this.job.state !== job.state || JSON.stringify(this.job.links) !== JSON.stringify(job.links))) this.notice = "";
    if (this.job?.state !== job.state || job.request) this.sent = "";
    this.job = job;
    const request = this.request();
    setText(this.title, job.filename);
    setText(this.badge, STATES[request || job.state]);
    this.badge.className = `badge ${request ? "waiting" : job.state}`;
    setText(this.facts, facts(job));
    this.showProgress();
    say(this.error, this.notice || (job.error ? job.error.detail : ""));
    this.showWarnings();
    this.showActions();
    this.thumbnail.show(job);
    this.live?.show(job);
    if (this.live && job.state !== "running") this.toggleLive();
    if (this.compare && !job.links.result) this.toggleCompare();
  }

  // What the user has asked for, and the worker has not done yet.
  request() {
    return this.job.state === "running" ? this.job.request || this.sent : "";
  }

  showProgress() {
    const {job, bar} = this, {frames_done: done, frames_total: total} = job.progress;
    bar.hidden = FINAL.includes(job.state) || job.state === "queued";
    if (total || job.state !== "running") bar.value = total ? done / total : 0; else bar.removeAttribute("value");
    setAttribute(bar, "aria-label", `Progress of ${job.filename}`);
    setText(this.pace, PACE[job.state](job));
  }

  showWarnings() {
    const {warnings} = this.job, items = [...$("ul", this.warnings).children].map(item => item.textContent);
    this.warnings.hidden = !warnings.length;
    if (items.join("\n") === warnings.join("\n")) return;
    setText($("summary span", this.warnings), count(warnings.length, "warning"));
    $("ul", this.warnings).replaceChildren(...warnings.map(text => el("li", {text})));
  }

  // Buttons are kept while their action stays, so the focus stays on them.
  showActions() {
    const wanted = this.possible(), inside = this.actions.contains(document.activeElement);
    for (const [name, element] of this.buttons) if (!wanted.some(one => one[0] === name)) { element.remove(); this.buttons.delete(name); }
    wanted.forEach(([name, make], place) => {
      let element = this.buttons.get(name);
      if (!element) { element = make(); this.buttons.set(name, element); }
      if (this.actions.children[place] !== element) this.actions.insertBefore(element, this.actions.children[place] ?? null);
    });
    for (const name of ["Pause", "Cancel"]) if (this.buttons.has(name)) setWaiting(this.buttons.get(name), this.waits(name));
    if (inside && document.activeElement === document.body) (this.actions.querySelector("button, a") || this.title).focus({preventScroll: true});
  }

  // Whether a button stays only to show that its request is on its way. A job that pauses can still be cancelled.
  waits(name) {
    return name === "Pause" ? !!this.request() : name === "Cancel" && this.request() === "cancel";
  }

  possible() {
    const {job, page} = this, {links} = job, may = page.may("submit"), request = this.request();
    const post = link => async () => page.jobs.update(await ask(link, {method: "POST"}));
    return [
      links.result && ["Download", () => this.link("Download", links.result)],
      links.result && ["Compare", () => this.toggle("Compare", () => this.toggleCompare())],
      job.state === "running" && links.preview && ["Watch", () => this.toggle("Watch", () => this.toggleLive())],
      may && links.resume && ["Resume", () => this.button(job.state === "failed" ? "Try again" : "Resume", post(links.resume))],
      may && (links.pause || request) && ["Pause", () => this.button("Pause", () => this.ask("pause", links.pause))],
      may && (links.cancel || request === "cancel") && ["Cancel", () => this.button("Cancel", () => this.cancel())],
      may && FINAL.includes(job.state) && ["Again", () => this.button("Run again…", () => page.again(this.job))],
      may && FINAL.includes(job.state) && ["Delete", () => this.button("Delete", () => this.remove())],
    ].filter(Boolean);
  }

  button(text, run) {
    const button = el("button", {type: "button", text, "aria-label": `${text}: ${this.job.filename}`, onclick: async () => {
      if (isWaiting(button)) return;
      setWaiting(button, true);
      try { await run(); }
      catch (error) { if (error.status !== 401) this.fail(error.message); }
      setWaiting(button, this.waits(text));
    }});
    return button;
  }

  toggle(text, run) {
    const button = this.button(text, run);
    button.setAttribute("aria-expanded", "false");
    return button;
  }

  link(text, href) {
    return el("a", {href, text, class: "button main", download: "", "aria-label": `${text} ${this.job.filename}, upscaled`});
  }

  // Show the request at once; the buttons wait until the worker has carried it out.
  async ask(request, link) {
    this.sent = request;
    this.show(this.job);
    announce(`${this.job.filename}: ${STATES[this.job.state === "running" ? request : this.job.state]}`);
    try { this.page.jobs.update(await ask(link, {method: "POST"})); }
    catch (error) { this.sent = ""; this.show(this.job); throw error; }
  }

  async cancel() {
    const {job} = this, done = job.progress.frames_done;
    const text = done ? `${job.filename}: ${count(done, "finished frame")} and the upload are lost.` : `${job.filename}: the upload is removed from the server.`;
    if (await confirmed({title: "Cancel this job?", text, yes: "Cancel the job", no: "Keep it"})) await this.ask("cancel", job.links.cancel);
  }

  async remove() {
    const {job} = this, text = `${job.filename}: ${job.state === "done" ? "the result and the upload are" : "the job is"} removed from the server.`;
    if (!await confirmed({title: "Delete this job?", text, yes: "Delete", no: "Keep it"})) return;
    await ask(job.links.delete || job.links.self, {method: "DELETE"});
    this.page.jobs.removed(job.id);
    announce(`${job.filename} deleted`);
  }

  fail(message) {
    this.notice = message;
    say(this.error, message);
    announce(message);
  }

  toggleCompare() {
    this.compare = this.open("Compare", this.compare, () => new Compare(this.job));
  }

  toggleLive() {
    this.live = this.open("Watch", this.live, () => new LiveView(this.job));
  }

  open(name, view, make) {
    const opened = view ? null : make();
    if (view) { view.close(); view.element.remove(); }
    if (opened) { this.extra.append(opened.element); opened.start?.(); }
    if (this.buttons.has(name)) {
      setAttribute(this.buttons.get(name), "aria-expanded", String(!!opened));
      setText(this.buttons.get(name), opened ? (name === "Watch" ? "Stop watching" : "Close") : name);
      setAttribute(this.buttons.get(name), "aria-label", `${this.buttons.get(name).textContent}: ${this.job.filename}`);
    }
    return opened;
  }

  close() {
    this.compare?.close();
    this.live?.close();
  }
}

const frames = ({frames_done: done, frames_total: total}) => total ? `${done} of ${total} frames` : `${done} frames`;

// The line below the progress bar.
const PACE = {
  queued: job => list(
    job.queue ? (job.queue.position === 1 ? "next in the queue" : `number ${job.queue.position} in the queue`) : "waiting for a worker",
    job.queue?.wait_seconds != null ? `starts in ${about(job.queue.wait_seconds)}` : "",
    job.estimate?.seconds != null ? `then ${about(job.estimate.seconds)} of work` : ""),
  running: job => list(
    job.progress.frames_total ? percent(job.progress.frames_done / job.progress.frames_total) : "", frames(job.progress),
    job.progress.fps ? rate(job.progress.fps) : "", job.progress.eta_seconds != null ? `${about(job.progress.eta_seconds)} left` : ""),
  paused: job => `${frames(job.progress)} done`,
  failed: job => job.progress.frames_done ? `${frames(job.progress)} done` : "",
  cancelled: () => "",
  done: job => list(
    `${count(job.progress.frames_done, "frame")} in ${time(job.metrics.processing_seconds ?? 0)}`,
    job.metrics.skip_ratio > 0 ? `${percent(job.metrics.skip_ratio)} of the work skipped, ${job.metrics.speedup.toFixed(2)} × as fast` : ""),
};

// "1280×720 → 2560×1440 · small · Balanced · 12.3 MB · today 14:02 · kept until Tue 14:02"
function facts(job) {
  const {input, output, estimate, options} = job;
  return list(
    [size(input), size(output || estimate)].filter(Boolean).join(" → "),
    job.model || (options.model === "auto" ? "" : options.model), ROUTING[options.routing] || options.routing,
    output?.size_bytes ? bytes(output.size_bytes) : "",
    date(job.finished_at || job.created_at), job.expires_at ? `kept until ${date(job.expires_at)}` : "");
}
