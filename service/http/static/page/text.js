// Numbers, times and states in words.

export const bytes = n =>
  n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e8 ? `${Math.round(n / 1e6)} MB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(n / 1e3))} kB`;

// A measured time.
export function time(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// An estimated time, with no more digits than it deserves: "a few seconds", "about 12 min".
export function about(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 50) return `about ${Math.ceil(seconds / 5) * 5} s`;
  if (seconds < 90) return "about 1 min";
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `about ${(seconds / 3600).toFixed(1).replace(".0", "")} h`;
  return `about ${Math.round(seconds / 86400)} days`;
}

export const rate = fps => `${fps < 10 ? fps.toFixed(2) : fps.toFixed(0)} frames/s`;
export const percent = share => `${Math.floor(100 * share)} %`;
export const size = facts => facts && facts.width ? `${facts.width}×${facts.height}` : "";
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
export const list = (...parts) => parts.filter(Boolean).join(" · ");

// 75.5 → 1:15.5
export function clock(seconds) {
  const s = Math.max(0, seconds);
  return `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
}

const DAY = 86400e3;

// "today 14:02", "Tue 14:02", "3 May 2026"
export function date(text) {
  const then = new Date(text), midnight = new Date().setHours(0, 0, 0, 0);
  const hour = then.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"});
  if (then >= midnight && then < midnight + DAY) return `today ${hour}`;
  if (then >= midnight - DAY && then < midnight) return `yesterday ${hour}`;
  if (Math.abs(then - midnight) < 6 * DAY) return `${then.toLocaleDateString([], {weekday: "short"})} ${hour}`;
  return then.toLocaleDateString([], {day: "numeric", month: "short", year: "numeric"});
}

export const ROUTING = {off: "Quality first", balanced: "Balanced", fast: "Fast"};

export const STATES = {
  queued: "Queued", running: "Running", paused: "Paused", done: "Done", failed: "Failed", cancelled: "Cancelled",
  pause: "Pausing…", cancel: "Cancelling…",
};
