// The uploads of this tab: chosen, waiting, sending, failed, or lost with a reload. One is sent at a time.
import {forget, send, submit} from "./uploads.js";

const PREFIX = "skipvsr_upload_", STALE = 60e3;  // another tab's upload counts as lost after a minute of silence
const KEPT = ["id", "name", "size", "modified", "options", "url", "upload", "sent", "seen", "tab", "refused"];

// `crypto.randomUUID` needs HTTPS, which a machine at home has not.
const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
const tab = sessionStorage.getItem("skipvsr_tab") || random();
sessionStorage.setItem("skipvsr_tab", tab);

// Whether the server has refused a chosen file or its options for good: no busy server, and no proxy.
export const impossible = ({refusal}) => !!refusal?.kind && [413, 415, 422].includes(refusal.status);

export class Queue extends EventTarget {
  constructor() {
    super();
    this.items = [];
    this.running = null;  // {item, stop}
    this.files = new Map();  // job's id → file, to run it again
    this.restore();
    setInterval(() => { for (const item of this.items) if (item.kept) this.keep(item); }, STALE / 4);
  }

  // Take files. A file whose upload a reload has interrupted goes on with this upload.
  add(files, options = null) {
    for (const file of files) {
      const lost = this.items.find(item => without(item) && same(item, file));
      if (lost) { lost.file = file; this.go(lost); }
      else this.items.push({id: random(), file, name: file.name, size: file.size, modified: file.lastModified, options, state: "chosen", sent: 0});
    }
    this.changed();
  }

  chosen() { return this.items.filter(item => item.state === "chosen"); }
  uploads() { return this.items.filter(item => item.state !== "chosen"); }
  get busy() { return this.items.some(item => ["waiting", "sending", "checking"].includes(item.state)); }

  // Send all chosen files; those without options of their own get these. A file that the server has refused already is not sent.
  start(options) {
    for (const item of this.chosen()) {
      item.options ||= options;
      if (impossible(item)) Object.assign(item, {state: "failed", error: item.refusal}); else this.go(item, false);
    }
    this.next();
    this.changed();
  }

  go(item, now = true) {
    item.state = "waiting";
    item.error = item.refused = null;
    this.keep(item);
    if (now) { this.next(); this.changed(); }
  }

  pause(item) {
    const stop = this.running?.item === item && this.running.stop;
    item.state = "paused";
    this.keep(item);
    if (stop) stop(); else this.changed();
  }

  remove(item) {
    const stop = this.running?.item === item && this.running.stop;
    this.items = this.items.filter(other => other !== item);
    this.unkeep(item);
    if (stop) stop();
    if (item.url) forget(item.url);
    this.changed();
  }

  async next() {
    const item = this.items.find(one => one.state === "waiting");
    if (this.running || !item) return;
    this.running = {item};
    try {
      item.state = "sending";
      this.changed();
      const job = await this.send(item);
      this.files.set(job.id, item.file);
      item.url = null;
      this.running = null;
      this.remove(item);
      this.dispatchEvent(new CustomEvent("job", {detail: job}));
    } catch (error) { this.failed(item, error); }
    this.running = null;
    this.next();
  }

  async send(item) {
    if (!item.upload) {
      const {done, stop} = send(item.file, item.name, item.url, {
        onurl: url => { item.url = url; this.keep(item); },
        onprogress: sent => this.progress(item, sent),
      });
      this.running.stop = stop;
      item.upload = await done;
      this.keep(item);
    }
    item.state = "checking";
    this.running.stop = null;
    this.changed();
    return submit(item.upload, item.options, item.id);
  }

  progress(item, sent) {
    item.sent = sent;
    if (Date.now() - item.seen > 2000) this.keep(item);
    this.dispatchEvent(new CustomEvent("progress", {detail: item}));
  }

  failed(item, error) {
    if (error.name === "AbortError") { this.changed(); return; }  // paused or removed by the user
    item.state = "failed";
    item.error = error;
    if (error.kind) item.refused = {...error, message: error.message};  // the server's answer, which a reload keeps
    if (error.status === 404 || error.status === 410) { item.url = null; item.upload = null; }  // the server has removed the upload
    this.keep(item);
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }

  // What a reload would lose is kept by the browser: everything but the file itself.
  keep(item) {
    item.kept = true;
    item.seen = Date.now();
    item.tab = tab;
    try { localStorage.setItem(PREFIX + item.id, JSON.stringify(Object.fromEntries(KEPT.map(name => [name, item[name]])))); }
    catch { /* no place, or forbidden: only resuming after a reload is lost */ }
  }

  unkeep(item) {
    item.kept = false;
    try { localStorage.removeItem(PREFIX + item.id); } catch { /* as above */ }
  }

  restore() {
    let names = [];
    try { names = Object.keys(localStorage).filter(name => name.startsWith(PREFIX)); } catch { /* as above */ }
    for (const name of names) {
      let item = null;
      try { item = JSON.parse(localStorage.getItem(name)); } catch { localStorage.removeItem(name); }
      if (!item || (item.tab !== tab && Date.now() - item.seen < STALE)) continue;  // another tab's
      const state = item.refused ? "failed" : item.upload ? "paused" : "lost";  // a complete upload needs no file
      this.items.push({...item, file: null, state, error: item.refused});
      this.keep(this.items.at(-1));
    }
  }
}

// Whether an upload needs its file again, which a reload has taken from the page.
export const without = item => !item.file && !item.upload && ["lost", "failed"].includes(item.state);

const same = (item, file) => item.name === file.name && item.size === file.size && item.modified === file.lastModified;

// The files of a drop, with those of dropped folders.
export async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {  // a reader gives a hundred entries at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  found.sort((one, other) => one.name.localeCompare(other.name, undefined, {numeric: true}));
  return (await Promise.all(found.map(walk))).flat();
}

// Endings of videos: as `skipvsr upscale FOLDER`, and `accept` of the files' input.
const VIDEO = /\.(3g2|3gp|apng|asf|avi|divx|dv|f4v|flv|gif|ivf|m1v|m2ts|m2v|m4v|mjpeg|mk3d|mkv|mov|mp4|mpeg|mpg|mts|mxf|ogm|ogv|qt|rm|rmvb|ts|vob|webm|wmv|y4m)$/i;

// Of a folder, only videos: pictures, subtitles and notes beside them are left out.
export const videos = files => files.filter(file => file.type.startsWith("video/") || VIDEO.test(file.name));
