// What fits at one place: a bubble on the picture, and the list beside it.

import { at, button, changed, element, on, state } from "./state.js";
import { add } from "./words.js";

const LISTED = 6;
const IN_BUBBLE = 3;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const grid = () => state.ranking.arrays.scores.shape.slice(1);

function moveTo(col, row, speak) {
  if (!state.ranking) return;
  const [rows, cols] = grid();
  state.point = { row: Math.min(Math.max(row, 0), rows - 1), col: Math.min(Math.max(col, 0), cols - 1) };
  show(speak);
}

function best() {
  const { shape: [count, rows, cols], values } = state.ranking.arrays.scores;
  const { row, col } = state.point;
  return Array.from({ length: count }, (_, word) => [values[(word * rows + row) * cols + col], state.ranking.words[word]])
    .sort((a, b) => b[0] - a[0]).slice(0, LISTED);
}

const percent = (score) => `${Math.round(100 * score)}%`;

function line([score, word]) {
  const bar = element("span", { className: "bar" });
  bar.style.width = percent(score);
  return element("span", { className: "fit" }, bar, element("span", {}, word), element("span", {}, percent(score)));
}

function show(speak = false) {
  const pointing = state.point && state.ranking;
  at("mark").hidden = at("bubble").hidden = !pointing;
  at("ranked").replaceChildren();
  at("where").textContent = "Point at the picture, or tap it.";
  if (!pointing) return;
  const [rows, cols] = grid();
  const words = best();
  at("ranked").replaceChildren(...words.map((each) => element("li", {}, button(line(each), () => {
    add(each[1]);
    changed("question");
  }, { title: `add “${each[1]}” to the words` }))));
  at("bubble").replaceChildren(...words.slice(0, IN_BUBBLE).filter(([score], i) => !i || score > 0.05).map(line));
  const frame = state.picture.frames ? ` in frame ${state.frame + 1}` : "";
  at("where").textContent = `Column ${state.point.col + 1} of ${cols}, row ${state.point.row + 1} of ${rows}${frame}. Tap a word to add it.`;
  if (speak) at("spoken").textContent = `row ${state.point.row + 1}, column ${state.point.col + 1}: ${words.slice(0, IN_BUBBLE).map(([score, word]) => `${word} ${percent(score)}`).join(", ")}`;
  place(rows, cols);
}

function place(rows, cols) {
  const [box, stage] = [at("canvas").getBoundingClientRect(), at("stage").getBoundingClientRect()];
  const [wide, high] = [box.width / cols, box.height / rows];
  const { row, col } = state.point;
  const [left, top] = [box.left - stage.left + col * wide, box.top - stage.top + row * high];
  Object.assign(at("mark").style, { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` });
  const bubble = at("bubble");
  const x = col < cols / 2 ? left + wide + 8 : left - bubble.offsetWidth - 8;
  const y = Math.min(Math.max(top + high / 2 - bubble.offsetHeight / 2, 4), stage.height - bubble.offsetHeight - 4);
  Object.assign(bubble.style, { left: `${Math.min(Math.max(x, 4), stage.width - bubble.offsetWidth - 4)}px`, top: `${y}px` });
}

function pointed(event) {
  if (!state.ranking) return;
  const box = at("canvas").getBoundingClientRect();
  const [rows, cols] = grid();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x >= 0 && x < 1 && y >= 0 && y < 1) moveTo(Math.floor(x * cols), Math.floor(y * rows), false);
}

function onArrow(event) {
  const step = ARROWS[event.key];
  if (!step || !state.ranking) return;
  event.preventDefault();
  const [rows, cols] = grid();
  const { col, row } = state.point ?? { col: cols >> 1, row: rows >> 1 };
  moveTo(col + step[0], row + step[1], true);
}

export function listen() {
  at("canvas").addEventListener("pointermove", pointed);
  at("canvas").addEventListener("pointerdown", pointed);
  at("canvas").addEventListener("keydown", onArrow);
  at("stage").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && (at("bubble").hidden = true));
  addEventListener("resize", () => show());
}

on("brought", () => show());
on("ranking", () => show());
on("sides", () => show());
on("frame", () => state.point && show());
