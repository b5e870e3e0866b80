// How large and how long: the server's estimate from a file's first and last bytes.
import {ask, form} from "./api.js";

const SLICES = [[1 << 19, 2 << 20], [4 << 20, 16 << 20]];  // bytes of head and tail: enough for most files, then the most allowed
// The estimate for a file and options. Throws what the server refuses.
async function estimate(file, options, signal) {
  for (const [head, tail] of SLICES) {
    try { return await ask("/estimate", {method: "POST", body: body(file, options, head, tail), signal}); }
    catch (error) {
      if (error.kind !== "header-not-sent") throw error;
    }
  }
  return {unknown: "size and time follow after the upload"};
}

function body(file, options, head, tail) {
  const data = form({...options, filename: file.name, size: String(file.size)});
  data.append("head", file.slice(0, head), file.name);
  if (file.size > head) data.append("tail", file.slice(Math.max(head, file.size - tail)), file.name);
  return data;
}

// Estimates for many videos, one request at a time; the newest options count.
export class Estimates {
  constructor(show) {
    this.show = show;
    this.waiting = new Map();  // item → options
    this.busy = null;          // {item, abort}
  }

  want(item, options) {
    item.refusal = null;
    if (this.busy?.item === item) this.busy.abort.abort();
    this.waiting.set(item, options);
    this.next();
  }

  drop(item) {
    this.waiting.delete(item);
    if (this.busy?.item === item) this.busy.abort.abort();
  }

  async next() {
    if (this.busy || !this.waiting.size) return;
    const [item, options] = this.waiting.entries().next().value, abort = new AbortController();
    this.waiting.delete(item);
    this.busy = {item, abort};
    try { item.estimate = await estimate(item.file, options, abort.signal); item.refusal = null; }
    catch (error) {
      if (error.name !== "AbortError") { item.estimate = null; item.refusal = error.status ? error : null; }
    }
    this.busy = null;
    if (!abort.signal.aborted) this.show(item);
    this.next();
  }
}
