// Small step charts over a video's frames, as inline SVG.
import {el, setAttribute, svg} from "./dom.js";

const WIDTH = 1000, HEIGHT = 100;

// A chart of `chunks` [{first, frames}]; `value` gives a chunk's height, `words` a value's text.
class Chart {
  constructor({title, chunks, value, words, top, seek}) {
    const total = Math.max(...chunks.map(chunk => chunk.first + chunk.frames)), values = chunks.map(value);
    const mean = chunks.reduce((sum, chunk, place) => sum + values[place] * chunk.frames, 0) / chunks.reduce((sum, chunk) => sum + chunk.frames, 0);
    const most = top ?? (Math.max(...values) * 1.1 || 1), range = `${words(Math.min(...values))} to ${words(Math.max(...values))}`;
    this.total = total;
    this.marker = svg("line", {class: "marker", y1: 0, y2: HEIGHT, x1: 0, x2: 0});
    const picture = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: mean ${words(mean)}, from ${range}`});
    const line = chunks.map((chunk, place) => {
      const y = HEIGHT - HEIGHT * Math.min(1, values[place] / most);
      return `${place ? "L" : "M"}${this.x(chunk.first)} ${y}H${this.x(chunk.first + chunk.frames)}`;
    }).join("");
    picture.append(svg("path", {class: "area", d: `${line}V${HEIGHT}H${this.x(chunks[0].first)}Z`}), svg("path", {class: "line", d: line}), this.marker);
    picture.addEventListener("click", event => {
      const box = picture.getBoundingClientRect();
      seek(Math.floor(total * (event.clientX - box.left) / box.width));
    });
    this.element = el("figure", {class: "chart"}, el("figcaption", {}, el("b", {text: title}), el("span", {class: "soft", text: `mean ${words(mean)} · ${range}`})), picture);
  }

  x(frame) { return (WIDTH * frame / this.total).toFixed(2); }

  mark(frame) {
    for (const name of ["x1", "x2"]) setAttribute(this.marker, name, this.x(Math.min(frame, this.total)));
  }
}

export function charts(chunks, seek) {
  if (!chunks?.length) return [];
  const share = {title: "Work skipped", chunks, value: chunk => chunk.skip_ratio, words: value => `${Math.round(100 * value)} %`, top: 1, seek};
  const pace = {title: "Time per frame", chunks, value: chunk => 1000 * chunk.seconds / chunk.frames, words: value => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`, seek};
  return [new Chart(share), new Chart(pace)];
}
