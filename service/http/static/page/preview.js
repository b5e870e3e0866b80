// Single frames of a job, from the server: the thumbnail and the pictures of both comparisons.
import {headers, refuse} from "./api.js";
import {el, icon} from "./dom.js";

const EVERY = 5000;  // milliseconds between two pictures of a running job

export function address(job, view, width, t = null) {
  const query = new URLSearchParams({view, width});
  if (t != null) query.set("t", t.toFixed(4));
  return `${job.links.preview}?${query}`;
}

// A frame as a picture and its time. Throws what the server refuses: 409 while no frame is finished.
export async function frame(job, view, width, t = null, signal = null) {
  const answer = await fetch(address(job, view, width, t), {headers: headers(), signal});
  if (!answer.ok) return refuse(answer);
  const time = answer.headers.get("Skipvsr-Time");
  return {picture: await answer.blob(), time: time == null ? t : Number(time)};
}

export class Thumbnail {
  constructor() {
    this.picture = el("img", {alt: "", class: "absent", decoding: "async", loading: "lazy"});
    this.picture.onload = () => this.picture.classList.remove("absent");
    this.picture.onerror = () => this.picture.classList.add("absent");
    this.element = el("div", {class: "thumbnail"}, icon("film"), this.picture);
    this.state = "";
    this.at = 0;
  }

  show(job) {
    const {state} = job, moved = state === "running" && job.progress.frames_done !== this.frames && Date.now() - this.at > EVERY;
    if (!job.links.preview || (state === this.state && !moved) || document.hidden) return;
    const early = state === "queued" || !job.progress.frames_done, width = 320;
    this.state = state;
    this.frames = job.progress.frames_done;
    this.at = Date.now();
    this.picture.src = early || state !== "running" ? address(job, state === "done" ? "result" : "source", width, 0) : address(job, "result", width) + `&n=${this.frames}`;
  }
}
