// The composer: drop zone, chosen videos with estimates and options, uploads with progress.
import {$, announce, arrange, confirmed, el, icon, say, setText} from "./dom.js";
import {about, bytes, count, list, percent, size} from "./text.js";
import {Options} from "./options.js";
import {Estimates} from "./estimate.js";
import {dropped, impossible, videos, without} from "./queue.js";

const STATES = {waiting: "Waiting", sending: "Uploading", checking: "The server is checking the file…", paused: "Paused", failed: "Failed", lost: "Interrupted"};

export class QueueView {
  constructor(queue, dialog) {
    this.queue = queue;
    this.dialog = dialog;
    this.rows = new Map();  // item's id → row
    this.workers = 1;
    this.form = $("#options");
    this.options = new Options(this.form, () => this.optionsChanged());
    this.estimates = new Estimates(() => { for (const item of this.queue.chosen()) this.update(item); this.showTotal(); });
    this.form.onsubmit = event => { event.preventDefault(); this.start(); };
    queue.addEventListener("change", () => this.render());
    queue.addEventListener("progress", event => this.update(event.detail));
    this.listen();
    this.render();
  }

  listen() {
    for (const id of ["#files", "#folder"]) $(id).onchange = event => {
      const files = [...event.target.files];
      this.add(id === "#folder" ? videos(files) : files, files.length);
      event.target.value = "";
    };
    const zone = $("#drop"), composer = $("#composer");
    for (const name of ["dragenter", "dragover"]) addEventListener(name, event => { event.preventDefault(); zone.classList.add("over"); });
    for (const name of ["dragleave", "drop"]) addEventListener(name, event => { event.preventDefault(); zone.classList.remove("over"); });
    addEventListener("drop", async event => {
      if (composer.hidden) return;
      const direct = event.dataTransfer.files.length, files = await dropped(event.dataTransfer);
      this.add(files.length > direct ? videos(files) : files, files.length);
    });
    addEventListener("beforeunload", event => { if (this.queue.busy) event.preventDefault(); });
  }

  add(files, given) {
    const known = new Set(this.queue.items.filter(item => item.file).map(item => fingerprint(item.file)));
    const fresh = files.filter(file => file.size && !known.has(fingerprint(file)));
    say($("#refused"), this.leftOut(given - files.length, files.filter(file => !file.size), files.filter(file => file.size).length - fresh.length));
    this.queue.add(fresh);
    if (fresh.length) announce(`${count(fresh.length, "video")} chosen`);
  }

  leftOut(others, empty, ignored) {
    return [
      empty.length && `${empty.map(file => file.name).join(", ")}: the file is empty.`,
      ignored && `${count(ignored, "video")} already in the list.`,
      others > 0 && `${count(others, "file")} left out: no video.`,
    ].filter(Boolean).join(" ");
  }

  start() {
    if (!this.options.check()) return;
    const refused = this.queue.chosen().find(item => item.refusal?.fields.length && !item.options);
    if (refused) { this.options.refused(refused.refusal); return; }
    this.queue.start(this.options.values());
    say($("#refused"), "");
    $("#sending-title").scrollIntoView({block: "nearest"});
  }

  optionsChanged() {
    clearTimeout(this.timer);
    const concerned = this.queue.chosen().filter(item => !item.options);
    for (const item of concerned) item.refusal = null;  // of other options
    this.timer = setTimeout(() => { for (const item of concerned) if (item.state === "chosen" && !item.options) this.wantEstimate(item); }, 400);
  }

  // Another key may ask what the last one could not.
  unlocked() {
    for (const item of this.queue.chosen()) this.wantEstimate(item);
  }

  wantEstimate(item) {
    if (this.form.checkValidity()) this.estimates.want(item, item.options || this.options.values());
  }

  render() {
    const chosen = this.queue.chosen(), uploads = this.queue.uploads();
    this.place($("#chosen"), chosen);
    this.place($("#uploads"), uploads);
    $("#sending").hidden = !uploads.length;
    this.form.hidden = !chosen.length;
    $("#drop").classList.toggle("small", this.queue.items.length > 0);
    setText($("#start"), chosen.length > 1 ? `Upscale ${chosen.length} videos` : "Upscale");
    this.showTotal();
  }

  place(parent, items) {
    const inside = parent.contains(document.activeElement);
    arrange(parent, items.map(item => this.row(item).element));
    for (const item of items) this.update(item);
    for (const [id, row] of this.rows) if (!this.queue.items.some(item => item.id === id)) { this.estimates.drop(row.item); this.rows.delete(id); }
    if (inside && document.activeElement === document.body) ($("button", parent) || $("#files")).focus();
  }

  row(item) {
    let row = this.rows.get(item.id);
    if (!row || row.chosen !== (item.state === "chosen")) {
      row = item.state === "chosen" ? this.chosenRow(item) : this.uploadRow(item);
      this.rows.set(item.id, row);
    }
    return row;
  }

  chosenRow(item) {
    const facts = el("span", {class: "soft facts"}), error = el("p", {class: "error", hidden: true});
    const edit = el("button", {type: "button", text: "Options…", "aria-label": `Options of ${item.name}`, onclick: () => this.edit(item)});
    const drop = el("button", {type: "button", class: "plain", "aria-label": `Remove ${item.name}`, onclick: () => this.queue.remove(item)}, icon("close"));
    const element = el("li", {}, el("div", {class: "what"}, el("strong", {text: item.name}), facts, error), el("div", {class: "inline"}, edit, drop));
    this.wantEstimate(item);
    return {item, element, facts, error, chosen: true};
  }

  edit(item) {
    this.dialog.open("Options", item.name, item.options || this.options.values(), "Save", fields => {
      item.options = fields;
      this.update(item);
      this.wantEstimate(item);
    });
  }

  uploadRow(item) {
    const facts = el("span", {class: "soft facts"}), error = el("p", {class: "error", hidden: true, role: "alert"});
    const bar = el("progress", {max: "1", value: "0", "aria-label": `Upload of ${item.name}`});
    const button = (text, run) => el("button", {type: "button", text, "aria-label": `${text}: ${item.name}`, hidden: true, onclick: run});
    const pause = button("Pause", () => this.queue.pause(item)), again = button("Try again", () => this.queue.go(item));
    const edit = button("Change options", () => this.change(item)), drop = button("Cancel", () => this.cancel(item));
    const choose = el("label", {class: "button", text: "Choose the file again", hidden: true}, el("input", {type: "file", "aria-label": `Choose ${item.name} again`, onchange: event => this.chooseAgain(item, event.target)}));
    const element = el("li", {}, el("div", {class: "what"}, el("strong", {text: item.name}), bar, facts, error), el("div", {class: "inline"}, choose, edit, again, pause, drop));
    return {item, element, facts, error, bar, pause, again, edit, drop, choose, chosen: false};
  }

  change(item) {
    this.dialog.open("Options", item.name, item.options, "Try again", fields => { item.options = fields; this.queue.go(item); });
    this.dialog.options.refused(item.error);
  }

  async cancel(item) {
    const lose = item.sent > 0 && ["sending", "paused", "lost"].includes(item.state);
    if (!lose || await confirmed({title: "Cancel the upload?", text: `${item.name}: the ${bytes(item.sent)} that have arrived are removed from the server.`, yes: "Cancel the upload", no: "Keep it"}))
      this.queue.remove(item);
  }

  chooseAgain(item, input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    if (file.name === item.name && file.size === item.size && file.lastModified === item.modified) this.queue.add([file]);
    else say(this.rows.get(item.id).error, `${file.name} is another file. Choose ${item.name} (${bytes(item.size)}).`);
  }

  update(item) {
    const row = this.rows.get(item.id);
    if (!row) return;
    if (row.chosen) this.updateChosen(item, row); else this.updateUpload(item, row);
  }

  updateChosen(item, row) {
    setText(row.facts, list(bytes(item.size), ...prediction(item.estimate), item.options ? "own options" : ""));
    const common = this.common();
    say(row.error, item.refusal ? item.refusal.message : (item.estimate?.warnings || []).filter(text => !common.includes(text)).join(" "));
    row.error.classList.toggle("warning", !item.refusal);
  }

  // Warnings that hold for all chosen videos: they are shown once.
  common() {
    const chosen = this.queue.chosen(), all = chosen.map(item => item.estimate?.warnings || []);
    return chosen.length > 1 ? all[0].filter(text => all.every(warnings => warnings.includes(text))) : [];
  }

  updateUpload(item, row) {
    const {state, sent} = item, share = item.size ? sent / item.size : 0;
    row.bar.hidden = (["failed", "waiting", "lost"].includes(state) && !sent) || (state === "failed" && share === 1);
    if (state === "checking") row.bar.removeAttribute("value"); else row.bar.value = share;
    const moved = sent && !row.bar.hidden && state !== "checking" ? `${percent(share)} of ${bytes(item.size)}` : bytes(item.size);
    setText(row.facts, list(STATES[state], moved, state === "lost" ? `choose the file again${sent ? " to send the rest" : ""}` : ""));
    say(row.error, item.error ? item.error.message : "");
    row.choose.hidden = !without(item);
    row.edit.hidden = !(state === "failed" && item.error?.fields?.length);
    row.again.hidden = !["failed", "paused"].includes(state) || without(item);
    setText(row.again, state === "paused" ? "Resume" : "Try again");
    row.again.setAttribute("aria-label", `${row.again.textContent}: ${item.name}`);
    row.pause.hidden = state !== "sending" && state !== "waiting";
    row.drop.hidden = state === "checking";
    setText(row.drop, state === "failed" ? "Remove" : "Cancel");
    row.drop.setAttribute("aria-label", `${row.drop.textContent}: ${item.name}`);
  }

  showTotal() {
    const chosen = this.queue.chosen(), possible = chosen.filter(item => !impossible(item)), known = possible.filter(item => item.estimate?.seconds != null);
    const seconds = known.reduce((sum, item) => sum + item.estimate.seconds, 0) / Math.max(1, this.workers);
    const wait = Math.max(0, ...known.map(item => item.estimate.wait_seconds || 0));
    say($("#hint"), this.common().join(" "));
    say($("#total"), chosen.length ? list(
      chosen.length > 1 ? `${count(chosen.length, "video")}, ${bytes(chosen.reduce((sum, item) => sum + item.size, 0))}` : "",
      possible.length < chosen.length ? `${chosen.length - possible.length} not possible` : "",
      known.length && known.length === possible.length ? `${about(seconds)} of work` : "",
      wait > 5 ? `starts in ${about(wait)}` : "",
    ) : "");
  }
}

const fingerprint = file => `${file.webkitRelativePath || file.name}/${file.size}/${file.lastModified}`;

// "960×540 → 1920×1080", "about 12 min", "result about 340 MB"
function prediction(estimate) {
  if (!estimate) return [];
  if (estimate.unknown) return [estimate.unknown];
  const {input, output, seconds} = estimate;
  return [`${size(input)} → ${size(output)}`, seconds != null ? about(seconds) : "", output.bytes ? `result about ${bytes(output.bytes)}` : ""];
}
