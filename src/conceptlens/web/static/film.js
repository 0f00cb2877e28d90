// A film: which of its frames is shown, playing, and the strip of when each word is there.

import { at, changed, element, on, state } from "./state.js";
import { range } from "./picture.js";
import { colourOf, texts } from "./words.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const [WIDE, TALL] = [600, 30]; // pixels of a word's row, at least
let timer = 0;

const frames = () => state.picture?.frames?.length ?? 0;
const moves = () => frames() > 1;

// The frames of a picture of before, which keeps them as files; nothing of one that is no film.
export const framesOf = async ({ frames, blobs }) => frames ?? (blobs && Promise.all(blobs.map((blob) => createImageBitmap(blob))));

function go(frame) {
  state.frame = (frame + frames()) % frames();
  changed("frame");
}

export function step(by) {
  if (!moves()) return;
  pause();
  go(state.frame + by);
}

function tick() {
  const began = performance.now();
  go(state.frame + 1);
  timer = setTimeout(tick, Math.max(0, 1000 / state.picture.rate - (performance.now() - began)));
}

function play() {
  clearTimeout(timer);
  state.playing = moves();
  if (state.playing) timer = setTimeout(tick, 1000 / state.picture.rate);
  showPlayer();
}

export function pause() {
  clearTimeout(timer);
  if (!state.playing) return;
  state.playing = false;
  changed("frame");
}

export const toggle = () => (state.playing ? pause() : play());

// ---- what is seen

const seconds = (frame) => `${(frame / state.picture.rate).toFixed(2)} s`;

function showPlayer() {
  if (!moves()) return;
  const text = `frame ${state.frame + 1} of ${frames()}, ${seconds(state.frame)}`;
  at("play").textContent = state.playing ? "Pause" : "Play";
  Object.assign(at("frame"), { max: frames() - 1, value: state.frame });
  at("frame").setAttribute("aria-valuetext", text);
  at("when").textContent = text;
  at("timeline").style.setProperty("--at", (state.frame + 0.5) / frames());
}

// Scores lie in 0..1 unless they are raw; then the scale is theirs.
function scaleOf(rows) {
  const [low, high] = range(rows.flatMap(({ peak }) => peak));
  return low >= 0 && high <= 1 ? [0, 1] : [low, high];
}

function showTimeline() {
  const known = state.answer?.timeline?.concepts ?? {};
  const words = texts().filter((word) => known[word]);
  const scale = scaleOf(words.map((word) => known[word]));
  at("rows").replaceChildren(...words.flatMap((word) => [element("span", { className: "name", ariaHidden: "true" }, word), rowOf(word, known[word], scale)]));
}

function rowOf(word, { share, peak }, [low, high]) {
  const most = share.indexOf(Math.max(...share));
  const label = `${word}: its share is largest in frame ${most + 1}, ${Math.round(100 * share[most])}%, and ${Math.round(100 * Math.min(...share))}% where it is least`;
  const wide = Math.ceil(WIDE / share.length);
  const canvas = element("canvas", { width: wide * share.length, height: TALL, role: "img", label });
  const pen = canvas.getContext("2d");
  pen.fillStyle = `rgb(${colourOf(word).join(" ")})`;
  for (const [values, alpha] of [[peak.map((value) => (value - low) / (high - low || 1)), 0.35], [share, 1]]) {
    pen.globalAlpha = alpha;
    values.forEach((value, frame) => pen.fillRect(frame * wide, TALL * (1 - value), wide, TALL * value));
  }
  return canvas;
}

function show() {
  for (const each of document.querySelectorAll(".films")) each.hidden = !moves();
  for (const each of document.querySelectorAll(".stills")) each.hidden = moves();
  document.querySelector("[data-kind=mp4]").hidden = !moves() || !state.about.film?.mp4;
  showPlayer();
  showTimeline();
}

function pointed(event) {
  const row = at("rows").querySelector("canvas");
  if (!row || (event.type === "pointermove" && !event.buttons)) return;
  const box = row.getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  if (share >= 0 && share < 1) step(Math.floor(share * frames()) - state.frame);
}

export function listen() {
  at("play").addEventListener("click", toggle);
  at("frame").addEventListener("input", () => step(at("frame").valueAsNumber - state.frame));
  for (const kind of ["pointerdown", "pointermove"]) at("timeline").addEventListener(kind, pointed);
  for (const [name, kind] of [["canvas", "pointerdown"], ["ranked", "pointerenter"]]) at(name).addEventListener(kind, pause);
  calm.addEventListener("change", () => calm.matches && pause());
}

on("frame", showPlayer);
for (const change of ["answer", "view", "question"]) on(change, showTimeline);
on("brought", () => {
  show();
  if (calm.matches) pause();
  else play();
});
