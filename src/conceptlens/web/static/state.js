// What the page knows, and who wants to hear when it changes.

import { still } from "./picture.js";

export const state = {
  about: null, // what the server says of the model and its limits
  picture: null, // {name, bitmap, blob, prompt, nouns, chips, how, seed, steps, guide, strength, kind, model, notes, id}; of a film also {frames, blobs, rate, length, file}
  words: [], // {text, from: "prompt" | "user", refused: "" or why}
  draft: "", // a word that is being typed
  removed: [], // {word, index, colour}, the latest last
  colours: new Map(),
  whole: { answer: null, ranking: null }, // maps of the words, and of all words to choose from; of a film those of all frames
  get answer() { return still(this.whole.answer, this.frame); },
  set answer(got) { this.whole.answer = got; },
  get ranking() { return still(this.whole.ranking, this.frame); },
  set ranking(got) { this.whole.ranking = got; },
  frame: 0, // of a film, the one that is shown
  playing: false,
  beside: null, // {picture, answer}: what the picture is compared with
  view: "areas",
  selected: "", // the word whose heat is shown
  hovered: "",
  step: null,
  layer: null, // one step or layer alone; null for the mean
  point: null, // {row, col}
  job: null,
};

const listeners = new Map();

export function on(change, act) {
  listeners.set(change, [...(listeners.get(change) ?? []), act]);
}

export function changed(change) {
  for (const act of listeners.get(change) ?? []) act();
}

export const at = (name) => document.getElementById(name);

export function element(tag, properties = {}, ...children) {
  const { label, data, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  if (label) made.setAttribute("aria-label", label);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

// How a picture was guided, in a word or two; nothing for a plain one.
export const guided = ({ guide, strength = 1 }) => (guide ? `guided${strength === 1 ? "" : ` ×${strength}`}` : "");

export const button = (text, act, properties = {}) => {
  const made = element("button", { type: "button", ...properties }, text);
  made.addEventListener("click", act);
  return made;
};

export function complain(error) {
  if (error?.name === "AbortError") return;
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
  if (error?.status === 401) at("error").append(" ", button("Reload", () => location.reload()));
}

export async function attempt(act) {
  try {
    complain(null);
    return await act();
  } catch (error) {
    complain(error);
    return undefined;
  }
}
