// The page: what is typed and pointed at, and what is shown for it.

import * as server from "./server.js";
import { draw, inside, overlay, range, split } from "./picture.js";

const at = (name) => document.getElementById(name);
const PAUSE = 220; // milliseconds of rest before a half-typed word is asked
const POLL = 300;
const LISTED = 6;

const state = {
  about: null, picture: null, bitmap: null, words: [], draft: "", colours: new Map(),
  told: null, maps: null, kept: null, shown: "areas", selected: 0, ranked: null, point: null, job: null, asking: null, timer: 0,
};

// ---- telling

function complain(error) {
  if (error?.name === "AbortError") return;
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
  if (error?.status === 401) at("error").append(" ", link("Reload", () => location.reload()));
}

function link(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

async function attempt(act) {
  try {
    complain(null);
    return await act();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

// ---- painting and reading

async function finish(started) {
  state.job = started.job;
  at("busy").hidden = false;
  try {
    for (;;) {
      const told = await server.job(started.job);
      showProgress(told);
      if (told.state === "done") return told.picture;
      if (told.state === "failed") throw new server.Refused(told.status, told.error);
      if (told.state === "cancelled") return null;
      await new Promise((done) => setTimeout(done, POLL));
    }
  } finally {
    state.job = null;
    at("busy").hidden = true;
  }
}

function showProgress(told) {
  const bar = at("progress");
  if (told.state === "running" && told.steps) {
    bar.max = told.steps;
    bar.value = told.step;
    at("doing").textContent = `step ${told.step} of ${told.steps}`;
  } else {
    bar.removeAttribute("value");
    at("doing").textContent = told.state === "waiting" && told.ahead ? `waiting, ${told.ahead} before you` : "looking";
  }
}

async function bring(start) {
  if (at("go").disabled) return;
  at("go").disabled = true; // from now on, not from the answer on: a double click is one wish
  await attempt(async () => {
    let name, started;
    try {
      started = await start();
      name = await finish(started);
    } finally {
      at("go").disabled = false;
    }
    if (!name) return;
    const { how, bitmap } = await server.picture(name);
    Object.assign(state, { picture: name, bitmap, told: null, maps: null, ranked: null, point: null });
    at("how").textContent = how;
    at("stage").classList.remove("blank");
    at("empty").hidden = true;
    at("word").disabled = false;
    at("mark").hidden = true;
    if (!state.words.length) for (const word of started.words ?? []) addWord(word, false);
    resetInside();
    render();
    await Promise.all([ask(), rank()]);
    tellPoint();
  });
}

// ---- words and maps

function colourOf(word) {
  if (!state.colours.has(word)) {
    const free = state.about.palette.find((c) => ![...state.colours.values()].some((used) => String(used) === String(c)));
    state.colours.set(word, free ?? state.about.palette[state.colours.size % state.about.palette.length]);
  }
  return state.colours.get(word);
}

function addWord(word, now = true) {
  const clean = word.trim();
  if (!clean || state.words.includes(clean)) return;
  state.words.push(clean);
  colourOf(clean);
  if (now) ask();
}

function removeWord(word) {
  state.words = state.words.filter((other) => other !== word);
  state.colours.delete(word);
  state.shown = state.shown === "none" ? "none" : "areas";
  ask();
}

function asked() {
  const draft = state.draft.trim();
  return draft && !state.words.includes(draft) ? [...state.words, draft] : [...state.words];
}

const options = () => ({ space: at("space").value, isolate: at("isolate").checked });

async function ask() {
  const concepts = asked();
  state.asking?.abort();
  if (!state.picture) return renderLegend();
  if (!concepts.length) {
    Object.assign(state, { told: null, maps: null });
    if (state.kept) state.kept.told = null;
    return render();
  }
  const signal = (state.asking = new AbortController()).signal;
  await attempt(async () => {
    const told = await server.maps({ picture: state.picture, concepts, parts: at("inside").open, ...options() }, signal);
    if (signal.aborted) return;
    state.told = told;
    const draft = state.draft.trim();
    if (draft && told.concepts.includes(draft)) Object.assign(state, { shown: "heat", selected: told.concepts.indexOf(draft) });
    else if (state.selected >= told.asked) Object.assign(state, { selected: 0, shown: state.shown === "heat" ? "areas" : state.shown });
    setSliders();
    compose();
    await askKept(concepts, signal);
  });
}

// ---- a second picture, kept for comparison: the same words, colours and view

function keep() {
  if (state.kept) state.kept = null;
  else if (state.picture) state.kept = { picture: state.picture, bitmap: state.bitmap, told: state.told, caption: `${at("prompt").value} · ${at("how").textContent}` };
  showKept();
}

function showKept() {
  const beside = state.kept && state.kept.picture !== state.picture;
  at("other").hidden = !beside;
  at("pair").classList.toggle("two", Boolean(beside));
  at("pin").textContent = state.kept ? "Drop the kept picture" : "Keep beside the next";
  at("pin").setAttribute("aria-pressed", String(Boolean(state.kept)));
  at("pin").disabled = !state.picture;
  if (!beside) return;
  const { bitmap, told, caption } = state.kept;
  at("other").querySelector("figcaption").textContent = caption;
  at("other-canvas").setAttribute("aria-label", `The kept picture: ${caption}`);
  paintOn(at("other-canvas"), bitmap, told, told && split(told.arrays.scores));
}

async function askKept(concepts, signal) {
  const kept = state.kept;
  if (!kept || kept.picture === state.picture) return;
  try {
    const told = await server.maps({ picture: kept.picture, concepts, parts: false, ...options() }, signal);
    if (signal.aborted || state.kept !== kept) return;
    kept.told = told;
  } catch (error) {
    if (signal.aborted || state.kept !== kept) throw error;
    state.kept = null; // the server made room; its line says so, once
    showKept();
    throw error;
  }
  showKept();
}

function compose() {
  const { scores, parts } = state.told.arrays;
  const [step, layer] = ["step", "layer"].map((name) => (parts && at(name).valueAsNumber > 0 ? at(name).valueAsNumber - 1 : null));
  state.maps = step === null && layer === null ? split(scores) : inside(parts, step, layer);
  render();
}

function render() {
  for (const button of document.querySelectorAll(".view")) button.setAttribute("aria-pressed", String(button.dataset.view === state.shown));
  if (state.bitmap) paintOn(at("canvas"), state.bitmap, state.told, state.maps);
  showKept();
  at("notes").textContent = (state.told?.notes ?? []).join(" ");
  at("relations").replaceChildren(...(state.told?.relations ?? []).map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  at("lie").hidden = !state.told?.relations.length;
  for (const button of document.querySelectorAll(".get")) button.disabled = !state.told;
  renderLegend();
}

function paintOn(canvas, bitmap, told, maps) {
  const colours = told?.concepts.map((word, i) => (i < told.asked ? colourOf(word) : [128, 128, 128])) ?? [];
  const layer = maps && state.shown !== "none" && state.selected < maps.each.length
    ? overlay(maps, colours, state.shown, state.selected, state.about, bitmap.width, bitmap.height)
    : null;
  draw(canvas, bitmap, layer, at("opacity").valueAsNumber / 100);
}

const hex = (rgb) => `#${rgb.map((v) => v.toString(16).padStart(2, "0")).join("")}`;

function renderLegend() {
  const focused = document.activeElement?.closest?.("#legend") ? [document.activeElement.dataset.word, document.activeElement.className] : null;
  at("legend").replaceChildren(...asked().map((word, number) => legendRow(word, number)));
  if (focused) [...at("legend").querySelectorAll("[data-word]")].find((e) => e.dataset.word === focused[0] && e.className === focused[1])?.focus();
}

function legendRow(word, number) {
  const row = document.createElement("li");
  const colour = Object.assign(document.createElement("input"), { type: "color", value: hex(colourOf(word)), className: "colour" });
  colour.setAttribute("aria-label", `colour of ${word}`);
  colour.addEventListener("input", () => {
    state.colours.set(word, [1, 3, 5].map((i) => parseInt(colour.value.slice(i, i + 2), 16)));
    if (state.maps) draw(at("canvas"), state.bitmap, null, 0);
  });
  colour.addEventListener("change", render);
  const name = Object.assign(document.createElement("button"), { type: "button", textContent: word, className: "name" });
  name.setAttribute("aria-pressed", String(state.shown === "heat" && state.told?.concepts[state.selected] === word));
  name.title = number < 9 ? `heat of ${word} (key ${number + 1})` : `heat of ${word}`;
  if (!state.words.includes(word)) name.classList.add("draft");
  name.addEventListener("click", () => select(word));
  const place = state.told?.concepts.indexOf(word) ?? -1;
  const share = Object.assign(document.createElement("span"), { className: "share", title: "share of the picture" });
  const there = Object.assign(document.createElement("span"), { className: "there", title: "is it in the picture at all?" });
  const scale = Object.assign(document.createElement("span"), { className: "scale", title: "lowest and highest score" });
  if (place >= 0 && state.maps) {
    share.textContent = `${Math.round(100 * state.told.shares[word])}%`;
    there.textContent = state.told.presence[word] ?? "";
    scale.textContent = range(state.maps.each[place]).map((v) => v.toFixed(3)).join(" – ");
  }
  const drop = Object.assign(document.createElement("button"), { type: "button", textContent: "×", className: "drop" });
  drop.setAttribute("aria-label", `remove ${word}`);
  drop.addEventListener("click", () => {
    if (state.words.includes(word)) removeWord(word);
    else clearDraft();
  });
  for (const part of [colour, name, drop]) part.dataset.word = word;
  const facts = Object.assign(document.createElement("span"), { className: "facts" });
  facts.append(...[there, scale].filter((fact) => fact.textContent));
  row.append(colour, name, facts, share, drop);
  return row;
}

function select(word) {
  const place = state.told?.concepts.indexOf(word) ?? -1;
  if (place < 0) return;
  const again = state.shown === "heat" && state.selected === place;
  Object.assign(state, { shown: again ? "areas" : "heat", selected: place });
  render();
}

function clearDraft() {
  state.draft = "";
  at("word").value = "";
  if (state.shown === "heat") state.shown = "areas";
  ask();
}

// ---- steps and layers

function resetInside() {
  for (const name of ["step", "layer"]) Object.assign(at(name), { max: 0, value: 0 });
  tellInside();
}

function setSliders() {
  at("step").max = state.told.steps?.length ?? 0;
  at("layer").max = state.told.layers?.length ?? 0;
  tellInside();
}

function tellInside() {
  for (const [name, numbers] of [["step", state.told?.steps], ["layer", state.told?.layers]]) {
    const value = at(name).valueAsNumber;
    const text = value > 0 && numbers ? String(numbers[value - 1]) : "all";
    at(`${name}-told`).textContent = text;
    at(name).setAttribute("aria-valuetext", text);
    at(name).disabled = !numbers;
  }
}

// ---- what fits at a point

const vocabulary = () => [...new Set(at("words").value.split(",").map((word) => word.trim()).filter(Boolean))];

async function rank() {
  const concepts = vocabulary();
  if (!state.picture || concepts.length < 2) return;
  const picture = state.picture;
  const ranked = await attempt(() => server.ranking({ picture, concepts, ...options() }));
  if (ranked && picture === state.picture) state.ranked = ranked;
}

function pointAt(x, y, speak) {
  if (!state.ranked) return;
  const [, rows, cols] = state.ranked.arrays.scores.shape;
  state.point = { row: Math.min(Math.max(y, 0), rows - 1), col: Math.min(Math.max(x, 0), cols - 1) };
  tellPoint(speak);
}

function tellPoint(speak = false) {
  if (!state.point || !state.ranked) return;
  const { shape: [count, rows, cols], values } = state.ranked.arrays.scores;
  const { row, col } = state.point;
  const best = Array.from({ length: count }, (_, word) => [values[(word * rows + row) * cols + col], state.ranked.words[word]])
    .sort((a, b) => b[0] - a[0]).slice(0, LISTED);
  at("ranked").replaceChildren(...best.map(([score, word]) => {
    const line = document.createElement("li");
    const bar = Object.assign(document.createElement("span"), { className: "bar" });
    bar.style.width = `${100 * score}%`;
    line.append(bar, Object.assign(document.createElement("span"), { textContent: word }),
      Object.assign(document.createElement("span"), { textContent: score.toFixed(2) }));
    return line;
  }));
  at("where").textContent = `column ${col + 1} of ${cols}, row ${row + 1} of ${rows}`;
  if (speak) at("spoken").textContent = `${at("where").textContent}: ${best.slice(0, 3).map(([score, word]) => `${word} ${Math.round(100 * score)}%`).join(", ")}`;
  placeMark(rows, cols, row, col);
}

function placeMark(rows, cols, row, col) {
  const [canvas, stage] = [pictureBox(), at("stage").getBoundingClientRect()];
  const [wide, high] = [canvas.width / cols, canvas.height / rows];
  Object.assign(at("mark").style, {
    left: `${canvas.left - stage.left - 1 + col * wide}px`, top: `${canvas.top - stage.top - 1 + row * high}px`,
    width: `${wide}px`, height: `${high}px`,
  });
  at("mark").hidden = false;
}

// Where the picture itself is: a tall one is letter-boxed inside the canvas element.
function pictureBox() {
  const box = at("canvas").getBoundingClientRect();
  const scale = Math.min(box.width / at("canvas").width, box.height / at("canvas").height);
  const [width, height] = [at("canvas").width * scale, at("canvas").height * scale];
  return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height };
}

function pointed(event) {
  if (!state.ranked) return;
  const box = pictureBox();
  const [, rows, cols] = state.ranked.arrays.scores.shape;
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x >= 0 && x < 1 && y >= 0 && y < 1) pointAt(Math.floor(x * cols), Math.floor(y * rows), false);
}

// ---- what the reader does

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onCanvasKey(event) {
  const step = ARROWS[event.key];
  if (!step || !state.ranked) return;
  event.preventDefault();
  const [, rows, cols] = state.ranked.arrays.scores.shape;
  const { col, row } = state.point ?? { col: cols >> 1, row: rows >> 1 };
  pointAt(col + step[0], row + step[1], true);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (state.job) attempt(() => server.cancel(state.job));
    document.activeElement?.blur();
    return;
  }
  if (event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select")) return;
  const act = {
    "/": () => at("word").focus(), p: () => at("prompt").focus(), c: keep, "0": () => show("areas"),
    "[": () => dim(-10), "]": () => dim(10),
  }[event.key] ?? (/^[1-9]$/.test(event.key) && asked()[event.key - 1] ? () => select(asked()[event.key - 1]) : null);
  if (!act) return;
  event.preventDefault();
  act();
}

function show(view) {
  state.shown = view;
  render();
}

function dim(by) {
  at("opacity").value = at("opacity").valueAsNumber + by;
  render();
}

async function take(file) {
  if (!file) return;
  if (file.size > state.about.limits.upload_bytes) {
    return complain(new server.Refused(413, `${file.name} has ${file.size} bytes; ${state.about.limits.upload_bytes} are allowed.`));
  }
  await bring(() => server.read(file));
}

async function download(kind) {
  const got = await attempt(() => server.file({ picture: state.picture, concepts: state.words.length ? state.words : asked(), kind, ...options() }));
  if (!got) return;
  const url = URL.createObjectURL(got.blob);
  Object.assign(document.createElement("a"), { href: url, download: got.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function listenToForms() {
  at("paint").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = (name) => (at(name).value === "" ? null : at(name).valueAsNumber);
    bring(() => server.paint({ prompt: at("prompt").value, seed: number("seed"), steps: number("steps") }));
  });
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(state.timer);
    const word = state.draft || at("word").value;
    state.draft = "";
    at("word").value = "";
    addWord(word);
  });
  at("word").addEventListener("input", () => {
    state.draft = at("word").value;
    clearTimeout(state.timer);
    state.timer = setTimeout(() => (state.draft.trim() ? ask() : clearDraft()), PAUSE);
  });
  at("cancel").addEventListener("click", () => state.job && attempt(() => server.cancel(state.job)));
  at("pin").addEventListener("click", keep);
  at("file").addEventListener("change", () => take(at("file").files[0]).finally(() => (at("file").value = "")));
  at("words").addEventListener("change", () => rank().then(() => tellPoint()));
  for (const name of ["space", "isolate"]) at(name).addEventListener("change", () => Promise.all([ask(), rank()]).then(() => tellPoint()));
}

function listenToPicture() {
  at("canvas").addEventListener("pointermove", pointed);
  at("canvas").addEventListener("pointerdown", pointed);
  at("canvas").addEventListener("keydown", onCanvasKey);
  at("opacity").addEventListener("input", render);
  at("inside").addEventListener("toggle", () => at("inside").open && ask());
  for (const name of ["step", "layer"]) at(name).addEventListener("input", () => { tellInside(); if (state.told) compose(); });
  for (const button of document.querySelectorAll(".view")) button.addEventListener("click", () => show(button.dataset.view));
  for (const button of document.querySelectorAll(".get")) button.addEventListener("click", () => download(button.dataset.kind));
  addEventListener("keydown", onKey);
  addEventListener("resize", () => tellPoint());
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer?.files[0]);
  });
}

async function begin() {
  at("stage").classList.add("blank");
  listenToForms();
  listenToPicture();
  await attempt(async () => {
    const about = (state.about = await server.openTab());
    at("model").textContent = `${about.model} (${about.family})`;
    at("prompt").value = about.sample;
    at("prompt").maxLength = about.limits.prompt;
    at("word").maxLength = about.limits.word;
    at("steps").value = about.steps;
    at("steps").max = about.limits.steps;
    at("words").value = about.words.join(", ");
    at("known").replaceChildren(...(about.vocabulary ?? []).map((word) => Object.assign(document.createElement("option"), { value: word })));
    render();
  });
}

begin();
