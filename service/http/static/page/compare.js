// The comparison of a result with its original: two videos on one stage, behind a divider.
import {$, el, icon, say, setAttribute, setIcon, setText} from "./dom.js";
import {ask} from "./api.js";
import {charts} from "./charts.js";
import {frame} from "./preview.js";
import {SkipMap} from "./skipmap.js";
import {clock} from "./text.js";
import {Viewport} from "./viewport.js";

const DIVIDE = 2, PAN = 60, ZOOM = 1.4;  // steps of a key: percent, pixels, factor
const KEYS = "Space: play. ← →: divider. , and .: one frame. + − 0: zoom. Shift and arrows: move the picture. F: full screen. M: sound. S: skip map. Esc: close.";
const video = name => el("video", {class: name, muted: true, loop: true, playsinline: true, preload: "auto", tabindex: "-1"});
const tool = (name, label, run) => el("button", {type: "button", class: "tool", "aria-label": label, title: label, onclick: run}, icon(name));

export class Compare {
  constructor(job) {
    this.job = job;
    this.rate = job.output?.frame_rate || job.input?.frame_rate || 25;
    this.length = job.output?.duration_seconds || job.input?.duration_seconds || 0;
    this.abort = new AbortController();
    this.after = video("after");
    this.before = video("before");
    this.after.muted = this.before.muted = true;
    this.stills = {after: el("img", {class: "still", alt: "", hidden: true}), before: el("img", {class: "still", alt: "", hidden: true})};
    this.map = new SkipMap(job);
    this.charts = [];
    this.build();
    this.listen();
    this.view = new Viewport(this.stage, () => this.showView());
  }

  build() {
    const {job} = this;
    this.stage = el("div", {class: "stage", tabindex: "0", role: "group", "aria-label": `Comparison of ${job.filename}`, "aria-describedby": `keys-${job.id}`},
      el("div", {class: "layer"}, el("div", {class: "inner"}, this.after, this.stills.after)),
      el("div", {class: "layer cut"}, el("div", {class: "inner"}, this.before, this.stills.before)),
      el("div", {class: "layer map"}, el("div", {class: "inner"}, this.map.canvas)),
      el("span", {class: "name left"}), el("span", {class: "name right", text: "Result"}),
      el("div", {class: "handle", "aria-hidden": "true"}, el("i")));
    this.stage.style.setProperty("--ratio", ratio(job.output || job.input));
    this.with = el("select", {}, new Option("Original", "source"), job.links.preview && new Option("Bicubic, frame by frame", "bicubic"));
    this.cut = el("input", {type: "range", class: "cut", min: "0", max: "100", step: "any", value: "50"});
    this.seek = el("input", {type: "range", class: "seek", min: "0", max: "1", step: "any", value: "0", "aria-label": "Position"});
    this.time = el("span", {class: "soft time"});
    this.play = tool("play", "Play", () => this.toggle());
    this.sound = tool("silent", "Sound on", () => this.turnSound());
    this.zoomed = el("output", {class: "soft zoom", "aria-label": "Zoom"});
    this.showMap = el("input", {type: "checkbox"});
    this.note = el("p", {class: "soft note", hidden: true, role: "status"});
    this.graphs = el("div", {class: "charts"});
    const transport = el("div", {class: "tools transport"}, this.play, tool("back", "One frame back (,)", () => this.step(-1)), tool("forward", "One frame forward (.)", () => this.step(1)), this.seek, this.time, this.sound);
    const settings = el("div", {class: "tools"},
      el("label", {class: "line"}, "Compare with", this.with), el("label", {class: "line grow"}, "Divider", this.cut),
      job.links.skipmap && el("label", {class: "line"}, this.showMap, "Skip map"),
      el("span", {class: "tools"}, tool("minus", "Zoom out", () => this.view.zoomTo(this.view.zoom / ZOOM)), this.zoomed, tool("plus", "Zoom in", () => this.view.zoomTo(this.view.zoom * ZOOM)),
        el("button", {type: "button", class: "tool", text: "1:1", "aria-label": "One pixel of the result on one pixel of the screen", onclick: () => this.actualSize()}),
        tool("full", "Full screen", () => this.fullScreen())));
    this.element = el("div", {class: "compare"}, this.stage, transport, settings, this.note, el("p", {class: "soft keys", id: `keys-${job.id}`, text: KEYS}), this.graphs);
    this.showName();
  }

  listen() {
    const {after, before} = this;
    this.element.onkeydown = event => this.key(event);
    this.cut.oninput = () => this.view.divide(Number(this.cut.value));
    this.seek.oninput = () => this.go(Number(this.seek.value) * this.duration());
    this.with.onchange = () => { this.showName(); this.still(); };
    this.showMap.onchange = () => this.turnMap(this.showMap.checked);
    after.onplay = () => { this.hideStills(); before.play().catch(() => {}); this.showPlay(); this.tick(); };
    after.onpause = () => { before.pause(); this.go(after.currentTime); this.showPlay(); };
    after.onseeked = () => this.showTime();
    after.onloadedmetadata = () => { this.stage.style.setProperty("--ratio", after.videoWidth / after.videoHeight || ratio(this.job.output)); this.showTime(); };
    after.onerror = () => this.cannotPlay("after", "This browser cannot play the result.");
    before.onerror = () => this.cannotPlay("before", this.job.files_removed ? "The original has been removed." : "This browser cannot play the original.");
  }

  // Load the videos. The stage takes the focus, so that the keys work at once.
  start() {
    this.after.src = this.job.links.result;
    this.before.src = this.job.links.input;
    this.stage.focus();
    this.drawCharts();
  }

  async drawCharts() {
    if (!this.job.links.report) return;
    try {
      const {chunks} = await ask(this.job.links.report, {signal: this.abort.signal});
      this.charts = charts(chunks, number => this.go((number + .5) / this.rate));
      this.graphs.append(...this.charts.map(chart => chart.element));
      this.showTime();
    } catch { /* the comparison does without */ }
  }

  duration() { return this.after.duration || this.length; }
  now() { return this.after.error ? this.position || 0 : this.after.currentTime; }
  frame() { return Math.floor(this.now() * this.rate + .01); }

  // Show the moment `seconds` in both videos, or as still pictures.
  go(seconds) {
    const time = Math.min(Math.max(0, seconds), Math.max(0, this.duration() - .001));
    this.position = time;
    for (const one of [this.after, this.before]) if (!one.error && Math.abs(one.currentTime - time) > .001) one.currentTime = time;
    this.showTime();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.still(), 150);
  }

  step(frames) {
    this.after.pause();
    this.go((this.frame() + frames + .5) / this.rate);
  }

  toggle() {
    if (this.after.error) return;
    if (this.after.paused) this.after.play().catch(() => {}); else this.after.pause();
  }

  tick() {
    const {after, before} = this;
    if (after.paused || !this.element.isConnected) return;
    if (!before.error && Math.abs(before.currentTime - after.currentTime) > .08) before.currentTime = after.currentTime;
    this.showTime();
    requestAnimationFrame(() => this.tick());
  }

  // Single pictures from the server: bicubic, and what this browser cannot play.
  async still() {
    if (!this.after.paused || !this.job.links.preview) return;
    const views = {};
    if (this.with.value === "bicubic") views.before = "bicubic";
    else if (this.before.error) views.before = "source";
    if (this.after.error) views.after = "result";
    const time = this.now(), width = Math.min(3840, Math.round(this.stage.clientWidth * devicePixelRatio * Math.min(this.view.zoom, 4)));
    for (const side of ["before", "after"]) if (!views[side]) this.stills[side].hidden = true;
    try {
      await Promise.all(Object.entries(views).map(async ([side, view]) => {
        const {picture} = await frame(this.job, view, width, time, this.abort.signal);
        if (this.now() === time && this.after.paused) this.put(this.stills[side], picture);
      }));
    } catch (error) { if (error.name !== "AbortError") say(this.note, error.message); }
  }

  put(place, picture) {
    if (place.src) URL.revokeObjectURL(place.src);
    place.src = URL.createObjectURL(picture);
    place.hidden = false;
  }

  hideStills() {
    for (const place of Object.values(this.stills)) place.hidden = true;
    if (this.with.value === "bicubic") this.with.value = "source";  // bicubic has no moving pictures
    this.showName();
  }

  cannotPlay(side, text) {
    say(this.note, this.job.links.preview && !(side === "before" && this.job.files_removed) ? `${text} Single frames are shown instead.` : `${text} Download it instead.`);
    this.still();
  }

  turnSound() {
    this.after.muted = !this.after.muted;
    setIcon(this.sound, this.after.muted ? "silent" : "sound");
    label(this.sound, this.after.muted ? "Sound on" : "Sound off");
  }

  turnMap(on) {
    this.showMap.checked = on;
    this.map.turn(on);
    this.showTime();
  }

  actualSize() {
    this.view.zoomTo((this.after.videoWidth || this.job.output?.width || 0) / (this.stage.clientWidth * devicePixelRatio));
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.().catch(() => say(this.note, "This browser does not allow full screen here."));
  }

  showTime() {
    const length = this.duration(), frame = this.frame();
    if (length && document.activeElement !== this.seek) this.seek.value = this.now() / length;
    setText(this.time, `${clock(this.now())} · frame ${frame}`);
    setAttribute(this.seek, "aria-valuetext", clock(this.now()));
    for (const chart of this.charts) chart.mark(frame);
    this.map.draw(frame).catch(error => { this.turnMap(false); say(this.note, error.message); });
  }

  showView() {
    if (document.activeElement !== this.cut) this.cut.value = this.view?.cut ?? 50;
    setText(this.zoomed, `${(this.view?.zoom ?? 1).toFixed(1)} ×`);
  }

  showName() {
    setText($(".left", this.stage), this.with.value === "bicubic" ? "Bicubic" : "Original");
  }

  showPlay() {
    setIcon(this.play, this.after.paused ? "play" : "pause");
    label(this.play, this.after.paused ? "Play" : "Pause");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const {target} = event, inField = target.matches("input, select");
    if (event.key === "Escape" && !document.fullscreenElement) { this.element.dispatchEvent(new CustomEvent("leave", {bubbles: true})); return; }
    if (event.key === " " && target !== this.stage) return;  // buttons and boxes use it themselves
    if (event.key.startsWith("Arrow") && inField) return;
    const run = this.keys(event)[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!run) return;
    event.preventDefault();
    run();
  }

  keys({shiftKey: shift}) {
    const {view} = this, side = sign => () => shift ? view.pan(-sign * PAN, 0) : view.divide(view.cut + sign * DIVIDE);
    return {
      " ": () => this.toggle(), ArrowLeft: side(-1), ArrowRight: side(1),
      ...(shift ? {ArrowUp: () => view.pan(0, PAN), ArrowDown: () => view.pan(0, -PAN)} : {}),
      ",": () => this.step(-1), ".": () => this.step(1),
      "+": () => view.zoomTo(view.zoom * ZOOM), "=": () => view.zoomTo(view.zoom * ZOOM), "-": () => view.zoomTo(view.zoom / ZOOM), "0": () => view.zoomTo(1),
      f: () => this.fullScreen(), m: () => this.turnSound(),
      ...(this.job.links.skipmap ? {s: () => this.turnMap(!this.map.on)} : {}),
    };
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    for (const one of [this.after, this.before]) { one.onerror = null; one.pause(); one.removeAttribute("src"); one.load(); }
    for (const place of Object.values(this.stills)) if (place.src) URL.revokeObjectURL(place.src);
  }
}

const ratio = facts => facts?.width && facts?.height ? facts.width / facts.height : 16 / 9;

function label(button, text) {
  setAttribute(button, "aria-label", text);
  setAttribute(button, "title", text);
}
