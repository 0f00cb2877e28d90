// A second picture beside: the same words, colours and view, and the difference of one word's maps, with its sign.

import { at, changed, element, guided, on, state } from "./state.js";
import { difference, draw, mapOf, range, shown, signedLayer, signedScale, still } from "./picture.js";
import { fill, paintOn } from "./view.js";
import { texts } from "./words.js";

const brief = ({ prompt, kind, seed, guide, strength, model }) =>
  [prompt ? `“${prompt}”` : "a picture of yours", kind === "read" ? "" : `seed ${seed}`, guided({ guide, strength }), model === state.about.model ? "" : `seen by ${model}`].filter(Boolean).join(" · ");
const caption = (picture) => [picture.prompt ? `“${picture.prompt}”` : "", picture.how].filter(Boolean).join(" · ");

export function keep(picture = state.picture, answer = state.whole.answer) {
  state.beside = picture ? { picture, answer } : null;
  changed("beside");
}

export function drop() {
  state.beside = null;
  changed("beside");
}

const other = () => (state.beside && state.beside.picture !== state.picture ? state.beside : null);

function show() {
  const beside = other();
  at("other").hidden = at("signed").hidden = !beside;
  const sides = Boolean(beside) !== at("pair").classList.contains("two");
  document.body.classList.toggle("comparing", Boolean(beside));
  at("pair").classList.toggle("two", Boolean(beside));
  at("pin").textContent = state.beside ? (beside ? "Stop comparing" : "Kept for the next") : "Keep beside the next";
  at("pin").setAttribute("aria-pressed", String(Boolean(state.beside)));
  at("pin").disabled = !state.picture;
  at("this-caption").textContent = state.picture ? (beside ? `Here: ${brief(state.picture)}` : caption(state.picture)) : "";
  if (sides) changed("sides");
  if (!beside) return;
  at("other").querySelector("figcaption").textContent = `Beside: ${brief(beside.picture)}`;
  at("other-canvas").setAttribute("aria-label", `The compared picture: ${brief(beside.picture)}`);
  showBeside();
}

// Of films that are compared, the same frame is shown.
function showBeside() {
  const beside = other();
  if (!beside) return;
  const answer = still(beside.answer, state.frame);
  paintOn(at("other-canvas"), shown(beside.picture, state.frame), answer);
  showDifference(answer, shown(state.picture, state.frame));
}

function showDifference(answer, bitmap) {
  const words = texts().filter((word) => mapOf(answer, word) && mapOf(state.answer, word));
  const select = at("signed-word");
  const chosen = words.includes(select.value) ? select.value : words[0] ?? "";
  const word = words.includes(state.selected) ? state.selected : chosen;
  if (String([...select.options].map((each) => each.value)) !== String(words)) select.replaceChildren(...words.map((each) => element("option", { value: each }, each)));
  select.value = word;
  const canvas = at("signed-canvas");
  if (!word) {
    at("signed-scale").hidden = true;
    return draw(canvas, bitmap, null);
  }
  const map = difference(mapOf(state.answer, word), mapOf(answer, word));
  const most = Math.max(...range(map.values).map(Math.abs));
  draw(canvas, bitmap, signedLayer(map, bitmap, most), { opacity: 0.9, grey: 1 });
  fill(signedScale, `−${most.toFixed(2)}`, `+${most.toFixed(2)}`, "more beside", "more here", "signed-scale");
  canvas.setAttribute("aria-label", `“${word}” here less “${word}” in the compared picture, from −${most.toFixed(2)} to +${most.toFixed(2)}`);
}

export function listen() {
  at("pin").addEventListener("click", () => (state.beside ? drop() : keep()));
  at("signed-word").addEventListener("change", () => {
    state.selected = "";
    show();
  });
}

for (const change of ["beside", "answer", "view", "picture", "brought"]) on(change, show);
on("frame", showBeside);
