// Zoom and pan of the comparison, and its divider: by wheel, pinch, drag and call.

const MOST = 16;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Viewport {
  // `changed` is called after each change of zoom or divider.
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    this.zoom = 1;
    this.x = this.y = 0;   // of the picture's corner, in pixels of the stage
    this.cut = 50;         // the divider, in percent of the stage
    this.pointers = new Map();
    stage.addEventListener("pointerdown", event => this.down(event));
    stage.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, event => this.up(event));
    stage.addEventListener("wheel", event => this.wheel(event), {passive: false});
    new ResizeObserver(() => this.apply()).observe(stage);
    this.apply();
  }

  apply() {
    const {clientWidth: width, clientHeight: height} = this.stage;
    this.x = clamp(this.x, width * (1 - this.zoom), 0);
    this.y = clamp(this.y, height * (1 - this.zoom), 0);
    const {style} = this.stage;
    style.setProperty("--zoom", this.zoom);
    style.setProperty("--x", `${this.x}px`);
    style.setProperty("--y", `${this.y}px`);
    style.setProperty("--cut", `${this.cut}%`);
    this.stage.classList.toggle("zoomed", this.zoom > 1);
    this.changed();
  }

  divide(percent) {
    this.cut = clamp(percent, 0, 100);
    this.apply();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.apply();
  }

  // Zoom, and keep the point of the stage in its place: its centre, if none is given.
  zoomTo(zoom, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const next = clamp(zoom, 1, MOST), factor = next / this.zoom;
    this.x = x - (x - this.x) * factor;
    this.y = y - (y - this.y) * factor;
    this.zoom = next;
    this.apply();
  }

  // The page scrolls with the wheel, until the comparison is in use. A trackpad's pinch arrives as wheel with Ctrl.
  wheel(event) {
    if (!event.ctrlKey && !this.stage.contains(document.activeElement) && !document.fullscreenElement) return;
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    this.zoomTo(this.zoom * Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), event.clientX - box.left, event.clientY - box.top);
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    this.dividing = this.pointers.size === 1 && (this.zoom === 1 || !!event.target.closest(".handle"));
    if (this.dividing) this.follow(event);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId), now = {x: event.clientX, y: event.clientY};
    if (others.length) this.pinch(before, now, others[0][1]);
    else if (this.dividing) this.follow(event);
    else this.pan(now.x - before.x, now.y - before.y);
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    this.dividing = false;
  }

  follow(event) {
    const box = this.stage.getBoundingClientRect();
    this.divide(100 * (event.clientX - box.left) / box.width);
  }

  pinch(before, now, other) {
    const box = this.stage.getBoundingClientRect(), span = point => Math.hypot(point.x - other.x, point.y - other.y);
    this.zoomTo(this.zoom * span(now) / Math.max(1, span(before)), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
  }
}
