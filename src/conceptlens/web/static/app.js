// The page: what the reader does, and how it begins.

import { ask, rank, settings } from "./ask.js";
import * as bring from "./bring.js";
import * as compare from "./compare.js";
import * as film from "./film.js";
import * as gallery from "./gallery.js";
import * as layers from "./layers.js";
import * as point from "./point.js";
import * as server from "./server.js";
import { at, attempt, button, changed, complain, element, on, state } from "./state.js";
import { show } from "./view.js";
import { add, asked, forgetDraft, select, texts, undo } from "./words.js";

const PAUSE = 220; // milliseconds of rest before a half-typed word is asked
let timer = 0;

const guided = () => ({ guide: state.about.guides[0], strength: Number(at("strength").value) });
const number = (name) => (at(name).value === "" ? null : at(name).valueAsNumber);

function cancel() {
  if (state.job && state.job !== "starting") attempt(() => server.cancel(state.job));
}

async function take(file) {
  if (!file) return;
  const most = state.about.limits.upload_bytes;
  if (file.size > most) return complain(new Error(`${file.name} has ${file.size} bytes; ${most} are allowed. Shrink it first.`));
  await bring.read(file);
}

// Of a film some files are of all its frames, others of the one that is shown.
const ofFilm = (kind) => (state.picture.frames ? { edges: false, ...(["masks", "report"].includes(kind) ? { frame: state.frame } : {}) } : {});

async function download(kind) {
  const { step, layer } = state;
  const alone = { ...(step === null ? {} : { step }), ...(layer === null ? {} : { layer }) };
  const got = await attempt(() => server.file({ picture: state.picture.name, concepts: texts().length ? texts() : asked(), format: kind, ...settings(), ...alone, ...ofFilm(kind) }));
  if (!got) return;
  const url = URL.createObjectURL(got.blob);
  element("a", { href: url, download: got.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function dim(by) {
  at("opacity").value = at("opacity").valueAsNumber + by;
  changed("picture");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    cancel();
    state.point = null;
    changed("sides");
    document.activeElement?.blur();
    return;
  }
  if (event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select")) return;
  const act = {
    "/": () => at("word").focus(), p: () => at("prompt").focus(), c: () => at("pin").click(), u: undo, "0": () => show("areas"),
    "[": () => dim(-10), "]": () => dim(10),
  }[event.key] ?? (/^[1-9]$/.test(event.key) && texts()[event.key - 1] ? () => select(texts()[event.key - 1]) : null);
  if (!act) return onFilmKey(event);
  event.preventDefault();
  act();
}

// What has the focus comes first: a button is pressed with the space bar, a slider and the point are moved with the arrows.
function onFilmKey(event) {
  const own = event.key === " " ? "button, summary, input:not([type=range])" : "input";
  const act = { " ": film.toggle, ArrowLeft: () => film.step(-1), ArrowRight: () => film.step(1) }[event.key];
  if (!act || !state.picture?.frames || event.defaultPrevented || event.target.closest?.(own)) return;
  event.preventDefault();
  act();
}

function onType() {
  state.draft = at("word").value;
  clearTimeout(timer);
  timer = setTimeout(() => (state.draft.trim() ? changed("question") : forgetDraft()), PAUSE);
}

function onAdd(event) {
  event.preventDefault();
  clearTimeout(timer);
  complain(null);
  const line = at("word").value;
  state.draft = at("word").value = "";
  Object.assign(state, { view: state.view === "heat" ? "areas" : state.view, selected: "" });
  add(line);
  changed("question");
}

function listenToForms() {
  at("paint").addEventListener("submit", (event) => {
    event.preventDefault();
    bring.paint({ prompt: at("prompt").value, seed: number("seed"), steps: number("steps"), ...(number("frames") === null ? {} : { frames: number("frames") }), ...(at("guide").checked ? guided() : {}) });
  });
  at("prompt").addEventListener("input", () => {
    const [length, most] = [at("prompt").value.length, state.about.limits.prompt];
    at("too-long").hidden = length <= most;
    at("too-long").textContent = `${length} letters; ${most} are allowed. Nothing is cut: shorten it.`;
  });
  at("ask").addEventListener("submit", onAdd);
  at("word").addEventListener("input", onType);
  at("undo").addEventListener("click", undo);
  at("clear").addEventListener("click", () => {
    for (const { text } of [...state.words]) state.removed.push({ word: state.words.shift(), index: 0, colour: state.colours.get(text) });
    changed("question");
    at("undo").focus();
  });
  at("cancel").addEventListener("click", cancel);
  at("seed-again").addEventListener("click", () => bring.beside({ seed: null }));
  at("guide-again").addEventListener("click", () => bring.beside(guided()));
  at("file").addEventListener("change", () => take(at("file").files[0]).finally(() => (at("file").value = "")));
  at("words").addEventListener("change", rank);
  for (const name of ["space", "isolate", "edges"]) at(name).addEventListener("change", () => Promise.all([ask(), rank()]));
}

function listenToPicture() {
  at("opacity").addEventListener("input", () => changed("picture"));
  for (const each of document.querySelectorAll(".view")) each.addEventListener("click", () => show(each.dataset.view));
  for (const each of document.querySelectorAll(".get")) each.addEventListener("click", () => download(each.dataset.kind));
  addEventListener("keydown", onKey);
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer?.files[0]);
  });
}

function introduceFilms({ frames, mp4, reads }) {
  if (mp4 && reads) at("file").accept += ",video/mp4,video/webm,video/quicktime,video/x-matroska";
  at("frames-box").hidden = false;
  at("frames").max = frames;
  at("motto").textContent = "See where a video model sees a word.";
  at("prompt-label").textContent = "Describe a film";
  if (reads) at("drop-label").textContent = "or choose or drop a film or a picture";
  at("empty").textContent = `Describe a film above and paint it, or drop ${reads ? "one" : "a picture"} of your own. Then type any word.`;
}

function introduce(about) {
  state.about = about;
  at("model").textContent = `${about.model} · ${about.family}`;
  if (about.film) introduceFilms(about.film);
  at("prompt").value = about.sample;
  at("steps").placeholder = about.steps;
  at("steps").max = about.limits.steps;
  at("guide-box").hidden = at("guide-tools").hidden = !about.guides.length;
  at("words").value = about.words.join(", ");
  at("known").replaceChildren(...(about.vocabulary ?? []).map((value) => element("option", { value })));
  const knows = about.words.slice(0, 5).join(", ");
  at("hint").textContent = about.vocabulary ? `This small model knows ${about.vocabulary.length} words: try ${knows}.` : `For example ${knows}.`;
}

async function begin() {
  for (const part of [compare, film, layers, point]) part.listen();
  listenToForms();
  listenToPicture();
  on("alone", () => Promise.all([ask(), rank()]));
  await attempt(async () => introduce(await server.openTab()));
  if (!state.about) return;
  const [latest] = await gallery.begin(bring.reopen);
  if (latest) {
    if (latest.prompt) at("prompt").value = latest.prompt;
    await bring.reopen(latest);
  } else if (state.about.example) await bring.example();
}

begin();
