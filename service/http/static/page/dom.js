// Small helpers for elements. Text is only ever set as text, never as markup.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// Make an element: attributes by name, `text`, and listeners as functions (`onclick`).
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const icon = name => svg("svg", {class: "icon", "aria-hidden": "true"}, svg("use", {href: `#i-${name}`}));

// Change an icon made by `icon`.
export const setIcon = (parent, name) => $("use", parent).setAttribute("href", `#i-${name}`);

// Set text, and touch nothing if it is the same: selections and screen readers stay undisturbed.
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// Show a message, or hide its place if there is none.
export function say(place, text) {
  setText(place, text || "");
  place.hidden = !text;
}

export function setAttribute(place, name, value) {
  if (place.getAttribute(name) !== value) place.setAttribute(name, value);
}

// Give a parent these children in this order. Moves as few as possible, and keeps the focus.
export function arrange(parent, children) {
  const wanted = new Set(children), focused = document.activeElement;
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, place) => {
    const current = parent.children[place] ?? null;
    if (current === child) return;
    if (parent.moveBefore && child.parentNode === parent) parent.moveBefore(child, current);  // videos play on
    else parent.insertBefore(child, current);
  });
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({preventScroll: true});
}

// Buttons that wait keep the focus: `disabled` would lose it.
export function setWaiting(button, waiting) {
  if (waiting) setAttribute(button, "aria-disabled", "true");
  else button.removeAttribute("aria-disabled");
}

export const isWaiting = button => button.getAttribute("aria-disabled") === "true";

// Tell screen readers, once.
export function announce(text) {
  $("#announce").textContent = text;
}

// Ask before something is lost. Resolves to true or false. The focus returns to where it was.
export function confirmed({title, text, yes, no = "Keep"}) {
  const dialog = $("#confirm");
  $("h2", dialog).textContent = title;
  $("p", dialog).textContent = text;
  $(".danger", dialog).textContent = yes;
  $(".keep", dialog).textContent = no;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true}));
}
