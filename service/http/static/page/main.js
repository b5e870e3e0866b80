// The page: puts its parts together.
import {$, announce, arrange, el, say, setAttribute, setText} from "./dom.js";
import {ask, key, request} from "./api.js";
import {bytes, count} from "./text.js";
import {OptionsDialog} from "./options.js";
import {Queue} from "./queue.js";
import {QueueView} from "./queue_view.js";
import {FILTERS, Jobs, PAGE} from "./jobs.js";
import {JobCard} from "./job_card.js";
import {Session} from "./session.js";
import {Notifier} from "./notify.js";

const HEALTH = 10e3, FETCHED = 1 << 30;  // milliseconds between two looks at the workers; bytes of an input that is fetched to run it again
const NAMES = {all: "All", active: "In progress", done: "Done", failed: "Failed", cancelled: "Cancelled"};

const jobs = new Jobs(), queue = new Queue(), dialog = new OptionsDialog(), notifier = new Notifier();
const composer = new QueueView(queue, dialog), cards = new Map(), filters = new Map();
const session = new Session(() => { closeCards(); jobs.events?.close(); jobs.events = null; jobs.show({}); composer.unlocked(); health(); });
const page = {jobs, may: scope => session.may(scope), again};

// Jobs

function render() {
  const shown = jobs.order.map(id => jobs.jobs.get(id)), list = $("#jobs"), inside = list.contains(document.activeElement);
  for (const [id, card] of cards) if (!jobs.jobs.has(id)) { card.close(); cards.delete(id); }
  for (const job of shown) {
    if (!cards.has(job.id)) cards.set(job.id, new JobCard(job, page));
    cards.get(job.id).show(job);
  }
  arrange(list, shown.map(job => cards.get(job.id).element));
  if (inside && document.activeElement === document.body) ($("h3", list) || $("#jobs-title")).focus({preventScroll: true});
  notifier.title(shown);
  showFilters();
  showPages(shown.length);
  showNone(shown.length);
}

function showFilters() {
  for (const [name, button] of filters) {
    const n = jobs.counts && (FILTERS[name].length ? FILTERS[name] : Object.keys(jobs.counts)).reduce((sum, state) => sum + (jobs.counts[state] || 0), 0);
    setText(button, n == null ? NAMES[name] : `${NAMES[name]} ${n}`);
    setAttribute(button, "aria-pressed", String(jobs.filter === name));
  }
}

function showPages(shown) {
  const nav = $("#pages"), {offset, total, more} = jobs;
  nav.hidden = !offset && !more;
  $(".newer", nav).disabled = !offset;
  $(".older", nav).disabled = !more;
  setText($("span", nav), shown ? `${offset + 1} to ${Math.min(total, offset + PAGE)} of ${total}` : "");
}

function showNone(shown) {
  const {error} = jobs, missing = error?.status === 403 ? `The page cannot show jobs: ${error.message}` : "";
  const none = jobs.search || jobs.filter !== "all" ? "No job matches." : session.may("submit") ? "No jobs yet. Choose a video above." : "No jobs yet.";
  say($("#none"), missing || (shown || error ? "" : none));
}

function closeCards() {
  for (const card of cards.values()) card.close();
  cards.clear();
  jobs.jobs.clear();
  jobs.order = [];
  $("#jobs").replaceChildren();
}

for (const name of Object.keys(FILTERS)) {
  const button = el("button", {type: "button", "aria-pressed": "false", text: NAMES[name], onclick: () => jobs.show({filter: name})});
  filters.set(name, button);
  $("#filters").append(button);
}
let typing = 0;
$("#search").oninput = event => { clearTimeout(typing); typing = setTimeout(() => jobs.show({search: event.target.value.trim()}), 250); };
$("#pages .newer").onclick = () => turn(-1);
$("#pages .older").onclick = () => turn(1);

async function turn(direction) {
  await jobs.show({offset: Math.max(0, jobs.offset + direction * PAGE)});
  $("#jobs-title").focus();
}

jobs.addEventListener("change", render);
for (const name of ["lost", "connected"]) jobs.addEventListener(name, health);
jobs.addEventListener("state", event => notifier.changed(event.detail));
queue.addEventListener("job", event => { jobs.update(event.detail); announce(`${event.detail.filename} is queued`); });
$("#jobs").addEventListener("leave", event => {
  const card = [...cards.values()].find(one => one.element.contains(event.target));
  card.toggleCompare();
  card.buttons.get("Compare")?.focus();
});

// Run a job's video again with other options: the file of this tab, or the server's copy, or one that the user chooses.

async function again(job) {
  const file = queue.files.get(job.id) || await kept(job);
  const text = file ? job.filename : `The server no longer has ${job.filename}. Save the options, then choose the file again.`;
  dialog.open("Run again", text, job.options, file ? "Add to the list" : "Save", fields => {
    if (file) queue.add([file], fields); else composer.options.set(fields);
    (file ? $("#start") : $("#files")).focus();
    $("#composer").scrollIntoView({block: "start"});
  });
}

async function kept(job) {
  const sized = job.input?.size_bytes;
  if (sized && sized > FETCHED) return null;
  announce(sized ? `Fetching ${bytes(sized)} from the server` : "Fetching the video from the server");
  try { return new File([await (await request(job.links.input)).blob()], job.filename); }
  catch (error) {
    if (error.status === 404 || error.status === 410) return null;
    throw error;
  }
}

// Workers

async function health() {
  const status = $("#status");
  try {
    const {workers} = await ask("/readyz");
    setText(status, workers.length === 1 ? `ready · ${workers[0].model} on ${workers[0].device}` : `ready · ${count(workers.length, "worker")}`);
    status.className = "ready";
    composer.workers = workers.length;
    const models = [...new Set(workers.flatMap(worker => worker.models))].sort();
    for (const options of [composer.options, dialog.options]) options.offer(models);
  } catch (error) { setText(status, error.message); status.className = "down"; }
}

addEventListener("visibilitychange", () => { jobs.soon(); if (!document.hidden) health(); });
setInterval(() => { if (!document.hidden) health(); }, HEALTH);

if (key()) session.learn().catch(() => {}).then(() => jobs.refresh()); else jobs.refresh();
health();
