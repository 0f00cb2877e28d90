// Painting and reading: what takes long, with progress and a look at it on its way; and pictures of before.

import * as server from "./server.js";
import { ask, rank } from "./ask.js";
import { keep } from "./compare.js";
import { framesOf } from "./film.js";
import { draw } from "./picture.js";
import { at, attempt, changed, complain, state } from "./state.js";
import { adopt, suggestions, texts } from "./words.js";

const POLL = 250;

function busy(job) {
  state.job = job;
  at("busy").hidden = !job;
  for (const name of ["go", "seed-again", "guide-again"]) at(name).disabled = Boolean(job) || (name !== "go" && !canRepeat());
  at("stage").setAttribute("aria-busy", String(Boolean(job)));
}

const canRepeat = () => state.picture?.kind === "painted" && state.picture.model === state.about.model;

async function finish(started) {
  let seen = 0;
  for (;;) {
    const status = await server.job(started.job);
    showProgress(status);
    if (status.state === "done") return status;
    if (status.state === "failed") throw new server.Refused(status.status, status.error);
    if (status.state === "cancelled") return null;
    if (status.sketch > seen) {
      seen = status.sketch;
      await sketch(started.job);
    }
    await new Promise((done) => setTimeout(done, POLL));
  }
}

async function sketch(job) {
  try {
    const bitmap = await createImageBitmap(await server.sketch(job));
    at("stage").classList.remove("blank");
    at("mark").hidden = at("bubble").hidden = true;
    draw(at("canvas"), bitmap, null);
  } catch { /* it is done meanwhile */ }
}

function showProgress({ state: now, step, steps, ahead }) {
  const bar = at("progress");
  if (now === "running" && steps) {
    Object.assign(bar, { max: steps, value: step });
    at("doing").textContent = `step ${step} of ${steps}`;
  } else {
    bar.removeAttribute("value");
    at("doing").textContent = now === "waiting" && ahead ? `waiting, ${ahead} before you` : "looking";
  }
}

// start: begins a job; facts: what is known of the picture before it is there.
export async function bring(start, facts, words = adopt) {
  if (state.job) return false;
  busy("starting"); // from now on, not from the answer on: a double click is one wish
  let arrived = null;
  await attempt(async () => {
    try {
      const started = await start();
      busy(started.job);
      const { picture: name, how, seed, notes, frames: count, rate } = (await finish(started)) ?? {};
      if (!name) return;
      const blob = await server.picture(name);
      arrived = {
        prompt: started.prompt ?? "", ...facts, name, how, seed, notes, blob, bitmap: await createImageBitmap(blob),
        model: state.about.model, nouns: started.words, chips: [...new Set([...started.words, ...(started.chips ?? [])])],
        ...(count ? await film(name, count, rate) : { file: undefined }),
      };
    } finally {
      busy(null);
      changed("view"); // the picture of before, where no other came
    }
  });
  if (!arrived) return false;
  await put(arrived, () => words(arrived.nouns));
  return true;
}

// The frames of a film, as files and as they are drawn.
async function film(name, count, rate) {
  const blobs = await Promise.all(Array.from({ length: count }, (_, number) => server.frame(name, number)));
  return { blobs, rate, frames: await framesOf({ blobs }) };
}

async function put(picture, words) {
  Object.assign(state, { picture, answer: null, ranking: null, frame: 0, point: null, step: null, layer: null, hovered: "", selected: "" });
  if (state.view === "heat") state.view = "areas";
  picture.again = () => again(picture);
  words();
  at("stage").classList.remove("blank");
  at("empty").hidden = true;
  at("word").disabled = false;
  busy(null);
  changed("brought");
  changed("question");
  const bare = !texts().length;
  await rank();
  if (bare && !texts().length && picture === state.picture) {
    adopt(suggestions().slice(0, 4));
    if (texts().length) changed("question");
  }
}

export const paint = (fields) => bring(() => server.paint(fields), { kind: "painted", prompt: fields.prompt.trim(), guide: fields.guide ?? null, strength: fields.strength ?? 1, steps: fields.steps, length: fields.frames });
export const example = () => bring(server.example, { kind: "painted", guide: null, steps: null });
export const read = (file) => bring(() => server.read(file), { kind: "read", prompt: "", file });

// The same prompt once more, beside the picture that is there.
export async function beside(changes) {
  const { prompt, seed, steps, length: frames } = state.picture;
  const before = state.beside;
  keep();
  if (!(await paint({ prompt, seed, steps, frames, ...changes }))) {
    state.beside = before;
    changed("beside");
  }
}

// The server has dropped the picture: the same again, with the words that are there.
async function again(picture) {
  const { prompt, seed, steps, guide, strength = 1, length, blob, file, id } = picture;
  const fields = { prompt, seed, steps, frames: length, ...(guide ? { guide, strength } : {}) };
  const start = picture.name === "example" ? server.example : () => (picture.kind === "painted" ? server.paint(fields) : server.read(file ?? blob));
  await bring(start, { kind: picture.kind, prompt, guide, strength, steps, length, file, id }, () => {});
}

// A picture of the gallery, as it was left.
export async function reopen(entry) {
  if (state.job) return;
  complain(null);
  const { words, colours, answer, ...picture } = entry;
  const bitmap = picture.bitmap ?? (await createImageBitmap(picture.blob));
  await put({ ...picture, bitmap, frames: await framesOf(picture) }, () => {
    state.words = structuredClone(words);
    state.colours = new Map(colours);
    state.removed = [];
    state.answer = answer;
  });
}
