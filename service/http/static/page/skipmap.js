// The skip map over the comparison: orange cells were computed, dark cells were skipped.
import {ask} from "./api.js";
import {el} from "./dom.js";

const BLOCK = 240;  // frames of one request
const COMPUTED = [255, 140, 0, 110], SKIPPED = [10, 12, 40, 120];  // red, green, blue, opacity

export class SkipMap {
  constructor(job) {
    this.job = job;
    this.canvas = el("canvas", {class: "skipmap", hidden: true, role: "img", "aria-label": "Skip map: orange cells were computed, dark cells were skipped"});
    this.blocks = new Map();  // block's number → promise of the server's answer
    this.shown = -1;
  }

  get on() { return !this.canvas.hidden; }

  turn(on) {
    this.canvas.hidden = !on;
    this.shown = -1;
  }

  // Draw one frame. Throws if the server has no map.
  async draw(frame) {
    if (!this.on || frame === this.shown) return;
    this.shown = frame;
    const map = await this.block(Math.floor(frame / BLOCK));
    const bits = map.frames[Math.min(frame % BLOCK, map.frames.length - 1)];
    if (frame === this.shown && bits) this.paint(map, Uint8Array.from(atob(bits), letter => letter.charCodeAt(0)));
  }

  block(number) {
    if (!this.blocks.has(number)) {
      const answer = ask(`${this.job.links.skipmap}?first=${number * BLOCK}&count=${BLOCK}`);
      answer.catch(() => this.blocks.delete(number));
      this.blocks.set(number, answer);
    }
    return this.blocks.get(number);
  }

  paint({columns, rows, cell, width, height}, packed) {
    const {canvas} = this, image = new ImageData(columns, rows);
    for (let place = 0; place < columns * rows; place++) {
      const computed = packed[place >> 3] >> (7 - (place & 7)) & 1;
      image.data.set(computed ? COMPUTED : SKIPPED, 4 * place);
    }
    canvas.width = columns;
    canvas.height = rows;
    canvas.style.width = `${100 * columns * cell / width}%`;  // the last cells may reach over the picture's edge
    canvas.style.height = `${100 * rows * cell / height}%`;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}
