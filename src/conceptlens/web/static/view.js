// What is seen: the picture, its colours, the scale they have, and one sentence that says what they mean.

import * as paint from "./picture.js";
import { at, button, changed, element, on, state } from "./state.js";
import { colourOf, texts } from "./words.js";

const SENTENCES = {
  areas: "Each colour is where the model sees that word. Point somewhere, tap a word, or type one of your own.",
  doubt: "Bright where the model is in two minds: a second word came close to winning.",
  none: "The picture itself.",
};

const figure = (number) => (Math.abs(number) < 0.0005 ? "0" : number.toFixed(2));
const word = () => (state.answer?.concepts.includes(state.selected) ? state.selected : texts().find((text) => state.answer?.concepts.includes(text)) ?? state.answer?.concepts[0] ?? "");

export function show(view) {
  state.view = view;
  if (view === "heat" || view === "signed") state.selected = word();
  changed("view");
}

// One picture with its maps on one canvas.
export function paintOn(canvas, bitmap, answer, named = true) {
  const opacity = at("opacity").valueAsNumber / 100;
  const { areas, doubt } = answer?.arrays ?? {};
  const map = state.view === "heat" || state.view === "signed" ? paint.mapOf(answer, word()) : null;
  if (state.view === "areas" && areas) {
    const colours = answer.concepts.map((name, i) => (i < answer.asked ? colourOf(name) : null)).map((colour) => colour ?? undefined);
    const layer = paint.areasLayer(areas, colours, answer.concepts.indexOf(state.hovered));
    paint.draw(canvas, bitmap, layer, { opacity, sharp: true, grey: 0.7 });
    paint.outline(canvas, areas);
    if (named) paint.labels(canvas, areas, answer.concepts);
  } else if (state.view === "doubt" && doubt) {
    paint.draw(canvas, bitmap, paint.doubtLayer(doubt, state.about.heat), { opacity: Math.min(1, opacity + 0.3), grey: 0.8 });
  } else if (map) {
    paint.draw(canvas, bitmap, paint.heatLayer(map, bitmap, state.about.heat), { opacity: Math.min(1, opacity + 0.2), grey: 0.8 });
  } else {
    paint.draw(canvas, bitmap, null);
  }
}

function showPicture() {
  if (!state.picture || state.job) return;
  paintOn(at("canvas"), paint.shown(state.picture, state.frame), state.answer);
}

function showScale() {
  const scale = at("scale");
  scale.hidden = true;
  at("says").textContent = sentence();
  for (const each of document.querySelectorAll(".view")) {
    each.setAttribute("aria-pressed", String(each.dataset.view === state.view));
    each.disabled = !state.picture || (each.dataset.view !== "none" && !state.answer);
  }
  if (!state.answer) return;
  const map = state.view === "heat" ? paint.mapOf(state.answer, word()) : null;
  if (map) fill(paint.heatScale(state.about.heat), ...map.bounds.map(figure), `lowest in this ${state.picture.frames ? "film" : "picture"}`, "highest");
  if (state.view === "doubt") fill(paint.heatScale(state.about.heat), "0", "0.5", "sure", "a tie");
}

export function fill(colours, low, high, lowest, highest, id = "scale") {
  const [ends, bar] = [at(id).querySelectorAll(".end"), at(id).querySelector(".bar")];
  bar.style.background = colours;
  ends[0].textContent = `${low} ${lowest}`;
  ends[1].textContent = `${high} ${highest}`;
  at(id).hidden = false;
}

function sentence() {
  if (!state.picture) return "";
  const name = word();
  const heat = state.answer?.concepts.length > 1
    ? `How well “${name}” fits at each place beside the other words: 1 where nothing else does, 0 where it does not.`
    : `How well “${name}” fits at each place.`;
  if (state.view !== "none" && !state.answer) return texts().length ? "Looking…" : "Type a word, or tap one, to see where the model sees it.";
  return { ...SENTENCES, heat, signed: heat }[state.view];
}

function showAlone() {
  const parts = [state.step === null ? "" : `step ${state.step}`, state.layer === null ? "" : `layer ${state.layer}`].filter(Boolean);
  at("alone").hidden = !parts.length;
  at("alone").replaceChildren(...(parts.length ? [`Only ${parts.join(", ")}. `, button("Show the mean", () => {
    Object.assign(state, { step: null, layer: null });
    changed("alone");
  })] : []));
}

function showNotes() {
  const notes = [...(state.picture?.notes ?? []), ...(state.answer?.notes ?? [])];
  at("notes").replaceChildren(...notes.map((note) => element("p", {}, note)));
  at("relations").replaceChildren(...(state.answer?.relations ?? []).map((line) => element("li", {}, line)));
  at("places").hidden = !state.answer?.relations.length;
  for (const each of document.querySelectorAll(".get")) each.disabled = !state.answer;
}

for (const change of ["view", "answer", "question", "brought"]) on(change, showScale);
for (const change of ["view", "answer", "brought", "picture", "sides", "frame"]) on(change, showPicture);
for (const change of ["answer", "brought"]) on(change, showNotes);
for (const change of ["answer", "alone", "brought"]) on(change, showAlone);
