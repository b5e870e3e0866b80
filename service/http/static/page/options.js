// The options of a job, as a form: of all chosen videos, or of one in a dialog.
import {$, $$, say} from "./dom.js";

const NUMBERS = ["crf", "chunk", "lookahead"];
const NAMES = ["model", "routing", "codec", "container", "deinterlace", "priority", ...NUMBERS];
const CODECS = {mov: ["h264", "hevc"], webm: ["av1"]};  // the containers that do not hold all codecs
const HIDDEN = ["tiny"];                                // random weights, for tests only
const MODELS = {
  small: "small: for most videos", "small-x2": "small-x2: the same, for twice the size",
  "small-clean": "small-clean: for clean video", "basicvsr-video": "basicvsr-video: best quality, very slow",
  "basicvsr-reds": "basicvsr-reds: clean video, very slow", "basicvsr-vimeo-bi": "basicvsr-vimeo-bi: clean video, very slow",
  "basicvsr-vimeo-bd": "basicvsr-vimeo-bd: blurred video, very slow",
};
const LABELS = {crf: "Compression (CRF)", chunk: "Frames per chunk", lookahead: "Look-ahead frames"};

export class Options {
  constructor(form, changed = () => {}) {
    this.form = form;
    $(".fields", form).append($("#options-template").content.cloneNode(true));
    form.addEventListener("input", event => {
      this.fit();
      if (event.target.matches("[aria-invalid]")) this.check(false);
      changed();
    });
  }

  // The fields of `POST /upscale`.
  values() {
    const {elements} = this.form, [name, value] = elements.size.value.split("=");
    const fields = Object.fromEntries(NAMES.map(name => [name, elements[name].value]));
    if (value) fields[name] = value;
    return fields;
  }

  // Show the options of a job or of a chosen video.
  set(fields) {
    const {elements} = this.form;
    for (const name of NAMES) if (fields[name] != null) pick(elements[name], String(fields[name]));
    pick(elements.size, fields.scale ? `scale=${fields.scale}` : fields.height ? `height=${fields.height}` : "");
    this.fit();
    this.check(false);
  }

  // Offer only codecs that the container holds.
  fit() {
    const {codec, container} = this.form.elements, possible = CODECS[container.value];
    for (const option of codec.options) option.disabled = !!possible && !["auto", ...possible].includes(option.value);
    if (codec.selectedOptions[0]?.disabled) codec.value = "auto";
  }

  // Whether all values are possible. If not: say so, open the hidden part and go to the field.
  check(go = true) {
    const fields = $$("input, select", this.form), wrong = fields.find(field => !field.validity.valid);
    for (const field of fields) if (field === wrong) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
    say($(".error", this.form), wrong ? `${LABELS[wrong.name]}: enter a whole number from ${wrong.min} to ${wrong.max}.` : "");
    if (wrong && go) this.go(wrong);
    return !wrong;
  }

  // Show a refusal of the server beside its field.
  refused(error) {
    const field = error.fields.map(one => this.form.elements[one.field]).find(Boolean);
    say($(".error", this.form), error.message);
    if (field instanceof HTMLElement) { field.setAttribute("aria-invalid", "true"); this.go(field); }
  }

  go(field) {
    const hidden = field.closest("details");
    if (hidden) hidden.open = true;
    field.focus();
  }

  offer(models) {
    const {model} = this.form.elements, chosen = model.value;
    const wanted = ["auto", ...models.filter(name => !HIDDEN.includes(name))];
    if (wanted.join() === [...model.options].map(option => option.value).join()) return;
    model.replaceChildren(...wanted.map(name => new Option(name === "auto" ? "Automatic" : MODELS[name] || name, name)));
    pick(model, chosen);
  }
}

// Choose a value, and add it if the list lacks it: another job's height, a model that no worker has now.
function pick(field, value) {
  if (field instanceof HTMLSelectElement && ![...field.options].some(option => option.value === value)) field.add(new Option(value.replace("height=", "Height "), value));
  field.value = value;
}

// Edit one video's options in a dialog. Calls `save` with the new fields.
export class OptionsDialog {
  constructor() {
    this.dialog = $("#edit");
    this.options = new Options($("form", this.dialog));
    $(".leave", this.dialog).onclick = () => this.dialog.close();
    $("form", this.dialog).onsubmit = event => {
      event.preventDefault();
      if (!this.options.check()) return;
      this.save(this.options.values());
      this.dialog.close();
    };
  }

  open(title, text, fields, button, save) {
    this.save = save;
    $("h2", this.dialog).textContent = title;
    say($("p", this.dialog), text);
    $("button.main", this.dialog).textContent = button;
    this.options.set(fields);
    this.dialog.showModal();
  }
}
