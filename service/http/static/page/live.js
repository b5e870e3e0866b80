// A running job's newest finished frame: source, bicubic, result. Asks for the next one when the job has moved.
import {el, say, setText} from "./dom.js";
import {frame} from "./preview.js";
import {clock} from "./text.js";

const EVERY = 1500;  // milliseconds between two rounds
const VIEWS = {source: "Source", bicubic: "Bicubic", result: "Result"};

export class LiveView {
  constructor(job) {
    this.pictures = Object.fromEntries(Object.keys(VIEWS).map(view => [view, el("img", {alt: `${VIEWS[view]}: newest finished frame of ${job.filename}`, hidden: true})]));
    this.time = el("p", {class: "soft"});
    this.note = el("p", {class: "soft", text: "Loading the newest frame…"});
    this.element = el("div", {class: "live"},
      el("div", {class: "three"}, ...Object.entries(VIEWS).map(([view, name]) => el("figure", {}, el("div", {class: "frame"}, this.pictures[view]), el("figcaption", {text: name})))),
      this.note, this.time);
    this.shown = -1;
    this.abort = new AbortController();
    this.show(job);
  }

  show(job) {
    this.job = job;
    if (job.progress.frames_done !== this.shown) this.soon();
  }

  soon() {
    if (!this.busy && !this.timer && !document.hidden) this.timer = setTimeout(() => this.round(), Math.max(0, EVERY - (Date.now() - (this.at || 0))));
  }

  async round() {
    this.timer = 0;
    this.busy = true;
    this.at = Date.now();
    const {job} = this, done = job.progress.frames_done, {signal} = this.abort;
    try {
      const width = Math.round(Math.min(1280, (this.element.clientWidth || 900) * devicePixelRatio / 2));
      const newest = await frame(job, "result", width, null, signal);
      const [source, bicubic] = await Promise.all(["source", "bicubic"].map(view => frame(job, view, width, newest.time, signal)));
      for (const [view, {picture}] of Object.entries({source, bicubic, result: newest})) this.put(this.pictures[view], picture);
      setText(this.time, newest.time == null ? "" : `Newest finished frame, at ${clock(newest.time)}`);
      say(this.note, "");
      this.shown = done;
    } catch (error) {
      if (error.name === "AbortError") return;
      say(this.note, error.status === 409 ? "The first frames are not finished yet." : "The newest frame did not load. The next try follows.");
    }
    this.busy = false;
    if (this.job.progress.frames_done !== this.shown) this.soon();
  }

  put(place, picture) {
    const old = place.src;
    place.src = URL.createObjectURL(picture);
    place.hidden = false;
    if (old) place.decode().catch(() => {}).then(() => URL.revokeObjectURL(old));
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    for (const picture of Object.values(this.pictures)) if (picture.src) URL.revokeObjectURL(picture.src);
  }
}
