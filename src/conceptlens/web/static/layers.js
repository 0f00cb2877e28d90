// The mean over steps and layers, taken apart: a small map of one word for each, rows layers, columns steps.

import * as server from "./server.js";
import { question } from "./ask.js";
import { enlarge, heatColour, still } from "./picture.js";
import { at, attempt, button, changed, element, on, state } from "./state.js";
import { asked, texts } from "./words.js";

const SIDE = 40;
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
let fetching = null;
let parts = null; // the answer with single steps and layers, and what was asked for it
let focused = [0, 0];

async function fetchParts() {
  const concepts = asked();
  if (!at("inside").open || !state.picture || !concepts.length || state.job) return;
  const { step, layer, ...mean } = question(state.picture, concepts);
  const key = JSON.stringify(mean);
  if (parts?.key === key) return show();
  fetching?.abort();
  const signal = (fetching = new AbortController()).signal;
  const answer = await attempt(() => server.maps({ ...mean, parts: true }, signal));
  if (!answer || signal.aborted) return;
  parts = { key, ...answer };
  show();
}

// Means over the steps and layers that are chosen; null for all of them.
function meanOf({ shape: [steps, layers, concepts, rows, cols], values }, place, step, layer) {
  const size = rows * cols;
  const mean = new Float32Array(size);
  const chosen = (count, only) => (only === null ? [...Array(count).keys()] : [only]);
  const pairs = chosen(steps, step).flatMap((s) => chosen(layers, layer).map((l) => s * layers + l));
  for (const pair of pairs) {
    const from = (pair * concepts + place) * size;
    for (let i = 0; i < size; i++) mean[i] += values[from + i] / pairs.length;
  }
  return mean;
}

function thumbnail(values, rows, cols, low, high) {
  const wide = Math.max(1, Math.round(SIDE * Math.min(1, cols / rows)));
  const tall = Math.max(1, Math.round(SIDE * Math.min(1, rows / cols)));
  const large = enlarge(values, rows, cols, wide, tall);
  const pixels = new ImageData(wide, tall);
  large.forEach((value, i) => pixels.data.set([...heatColour((value - low) / (high - low || 1), state.about.heat), 255], 4 * i));
  const canvas = element("canvas", { width: wide, height: tall, ariaHidden: "true" });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function show() {
  const strip = at("strip");
  const inside = strip.contains(document.activeElement);
  strip.replaceChildren();
  if (!parts?.arrays.parts || !at("inside").open) return;
  const { steps, layers } = parts;
  const words = texts().filter((word) => parts.concepts.includes(word));
  const word = words.includes(state.selected) ? state.selected : words.includes(at("strip-word").value) ? at("strip-word").value : words[0];
  at("strip-word").replaceChildren(...words.map((each) => element("option", { value: each, selected: each === word }, each)));
  const place = parts.concepts.indexOf(word);
  const shown = still(parts, state.frame).arrays.parts;
  const [, , , rows, cols] = shown.shape;
  let [low, high] = [Infinity, -Infinity];
  const cells = [null, ...layers.keys()].map((layer) => [null, ...steps.keys()].map((step) => {
    const values = meanOf(shown, place, step, layer);
    for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    return { values, step: step === null ? null : steps[step], layer: layer === null ? null : layers[layer] };
  }));
  strip.style.gridTemplateColumns = `auto repeat(${steps.length + 1}, minmax(2.1rem, 2.9rem))`;
  const head = (text) => element("span", { className: "head", ariaHidden: "true" }, text);
  strip.append(head(""), head("mean"), ...steps.map((step) => head(`${step}`)));
  cells.forEach((line, row) => strip.append(head(row ? `${layers[row - 1]}` : "mean"), ...line.map((each, col) => cell(each, row, col, thumbnail(each.values, rows, cols, low, high)))));
  mark();
  if (inside) strip.querySelector('[tabindex="0"]')?.focus();
}

function cell({ step, layer }, row, col, canvas) {
  const name = `${layer === null ? "mean of the layers" : `layer ${layer}`}, ${step === null ? "mean of the steps" : `step ${step}`}`;
  const made = button(canvas, () => {
    focused = [row, col];
    Object.assign(state, { step, layer });
    changed("alone");
  }, { label: name, title: name, className: "cell", data: { row, col, step, layer } });
  made.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    const next = move && at("strip").querySelector(`[data-row="${row + move[0]}"][data-col="${col + move[1]}"]`);
    if (!next) return;
    event.preventDefault();
    focused = [row + move[0], col + move[1]];
    mark();
    next.focus();
  });
  return made;
}

function mark() {
  for (const each of at("strip").querySelectorAll(".cell")) {
    each.setAttribute("aria-pressed", String(each.dataset.step === String(state.step) && each.dataset.layer === String(state.layer)));
    each.tabIndex = Number(each.dataset.row) === focused[0] && Number(each.dataset.col) === focused[1] ? 0 : -1;
  }
}

export function listen() {
  at("inside").addEventListener("toggle", fetchParts);
  at("strip-word").addEventListener("change", () => {
    state.selected = "";
    show();
  });
}

on("answer", fetchParts);
on("alone", mark);
on("view", show);
on("frame", () => state.playing || show());
on("brought", () => {
  parts = null;
  focused = [0, 0];
  at("strip").replaceChildren();
});
