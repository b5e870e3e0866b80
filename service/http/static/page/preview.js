// Single frames of a job, from the server: the thumbnail and the pictures of both comparisons.
import {headers, refuse} from "./api.js";
import {el, icon} from "./dom.js";

const WIDTH = 320, AGAIN = 20e3;  // of a thumbnail in pixels; milliseconds until the next try

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

// A frame of the source, from the video's first tenth: the very first is often black.
export class Thumbnail {
  constructor() {
    this.picture = el("img", {alt: "", class: "absent", decoding: "async", loading: "lazy"});
    this.picture.onload = () => this.picture.classList.remove("absent");
    this.picture.onerror = () => { this.failed = Date.now(); };
    this.element = el("div", {class: "thumbnail"}, icon("film"), this.picture);
  }

  show(job) {
    const again = this.failed && Date.now() - this.failed > AGAIN;  // the server was busy
    if (!job.links.preview || (this.picture.src && !again)) return;
    this.failed = 0;
    this.picture.src = address(job, "source", WIDTH, (job.input?.duration_seconds || 0) / 10);
  }
}
