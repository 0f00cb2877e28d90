// Asking the model for the words: one question at a time, the newest wins; a word that is refused is set aside.

import * as server from "./server.js";
import { at, changed, complain, on, state } from "./state.js";
import { asked } from "./words.js";

let asking = null;
let failed = false; // whether the line of the last failure is shown
const answered = new Set(); // words that the model has taken before

export const settings = () => ({ space: at("space").value, isolate: at("isolate").checked, edges: at("edges").checked });
const chosen = () => ({ ...(state.step === null ? {} : { step: state.step }), ...(state.layer === null ? {} : { layer: state.layer }) });
// Edges take up to a second: they are not followed at every letter that is typed over a large picture, nor in a film.
const coarse = ({ frames }) => frames || slow();
const slow = () => state.draft.trim() && Math.max(state.picture.bitmap.width, state.picture.bitmap.height) > 256;
export const question = (picture, concepts) => ({ picture: picture.name, concepts, ...settings(), ...chosen(), ...(coarse(picture) ? { edges: false } : {}) });
export const vocabulary = () => [...new Set(at("words").value.split(",").map((word) => word.trim()).filter(Boolean))];

export async function ask() {
  asking?.abort();
  const concepts = asked();
  if (!state.picture || state.job) return;
  if (state.picture.model !== state.about.model) return elsewhere(concepts);
  if (!concepts.length) {
    state.answer = null;
    if (state.beside) state.beside.answer = null;
    changed("answer");
    return;
  }
  const signal = (asking = new AbortController()).signal;
  try {
    await Promise.all([answer(concepts, signal), askBeside(concepts, signal)]);
    if (failed) complain(null); // of another kind of failure the line stays
    failed = false;
  } catch (error) {
    if (!signal.aborted) await overcome(error, concepts, signal);
  }
}

async function overcome(error, concepts, signal) {
  if (error.status === 404 && state.picture.again) return state.picture.again();
  try {
    if (error.status === 422 && (await sift(concepts, signal, error))) return undefined;
  } catch (worse) {
    if (signal.aborted) return undefined;
    error = worse;
  }
  failed = true;
  return complain(error);
}

// A picture that another model saw: its maps stay, and no others can be had.
function elsewhere(concepts) {
  const missing = concepts.filter((word) => !state.answer?.concepts.includes(word));
  if (missing.length) complain(new Error(`${state.picture.model} saw this picture, and this page has ${state.about.model}: no map of ${missing.join(", ")}.`));
  changed("answer");
}

async function answer(concepts, signal) {
  const picture = state.picture;
  const got = await server.maps({ ...question(picture, concepts), parts: false }, signal);
  if (signal.aborted || picture !== state.picture) return;
  for (const word of concepts) answered.add(word);
  state.answer = got;
  const draft = concepts.find((word) => !state.words.some((other) => other.text === word));
  if (draft) Object.assign(state, { view: "heat", selected: draft });
  if (!got.concepts.includes(state.selected)) state.selected = "";
  changed("answer");
}

// The compared picture is asked the same, where this model can; else the maps of before must do.
async function askBeside(concepts, signal) {
  const beside = state.beside;
  if (!beside || beside.picture.model !== state.about.model) return;
  const { step, layer, ...mean } = question(beside.picture, concepts);
  const same = beside.picture.kind === state.picture.kind;
  try {
    const got = await server.maps({ ...(same ? { step, layer, ...mean } : mean), parts: false }, signal);
    if (signal.aborted || state.beside !== beside) return;
    beside.answer = got;
    changed("beside");
  } catch (error) {
    if (error.status !== 404 || signal.aborted) throw error;
    state.beside = null;
    changed("beside");
    complain(new Error("the compared picture is no longer kept by the server. Open it from the pictures below first."));
  }
}

// Finds the words that are refused, and shows why beside each. False when it is not for a word.
async function sift(concepts, signal, error) {
  const suspects = concepts.filter((word) => !answered.has(word));
  if (!suspects.length) return false;
  const alone = suspects.length === 1 ? [[suspects[0], error.message]] : await Promise.all(suspects.map(async (word) => {
    try {
      await server.maps({ ...question(state.picture, [word]), parts: false }, signal);
      return [word, ""];
    } catch (refused) {
      if (refused.status !== 422) throw refused;
      return [word, refused.message];
    }
  }));
  if (signal.aborted) return true;
  const guilty = alone.filter(([, line]) => line);
  if (!guilty.length || (guilty.length === suspects.length && suspects.length > 1)) return false;
  for (const [word, line] of guilty) {
    const entry = state.words.find((other) => other.text === word);
    if (entry) entry.refused = line;
    else {
      state.draft = "";
      complain(new Error(line));
    }
  }
  changed("question");
  return true;
}

export async function rank() {
  const concepts = vocabulary();
  const picture = state.picture;
  if (!picture || concepts.length < 2 || picture.model !== state.about.model) return;
  try {
    const got = await server.ranking(question(picture, concepts));
    if (picture !== state.picture) return;
    state.ranking = got;
    changed("ranking");
  } catch (error) {
    if (error.status !== 404) complain(error); // a picture that was dropped is brought back by `ask`
  }
}

on("question", ask);
