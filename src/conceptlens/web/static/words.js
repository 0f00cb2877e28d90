// The words that are asked: added, taken away and brought back, refused, coloured; and the rows that show them.

import { at, button, changed, complain, element, on, state } from "./state.js";

const clean = (word) => word.trim().replace(/\s+/g, " ");
export const texts = () => state.words.filter((word) => !word.refused).map((word) => word.text);
const has = (text) => state.words.some((word) => word.text === text);

// What is asked: the words, and the one that is being typed.
export function asked() {
  const draft = clean(state.draft);
  const most = state.about.limits.concepts;
  return [...texts(), ...(draft && draft.length <= state.about.limits.word && !has(draft) ? [draft] : [])].slice(0, most);
}

export function colourOf(word) {
  if (!state.colours.has(word)) {
    const taken = new Set(asked().map((other) => String(state.colours.get(other))));
    state.colours.set(word, state.about.palette.find((colour) => !taken.has(String(colour))) ?? state.about.palette[0]);
  }
  return state.colours.get(word);
}

// Several words may be parted by commas. Says why one cannot be taken.
export function add(line, from = "user") {
  const { concepts: most, word: longest } = state.about.limits;
  for (const text of line.split(",").map(clean).filter(Boolean)) {
    const before = state.words.find((word) => word.text === text);
    if (before) {
      before.refused = "";
      if (from === "user") before.from = "user";
      continue;
    }
    if (texts().length >= most) {
      complain(new Error(`${most} words can be asked at once; “${text}” was not added. Remove one first.`));
      break;
    }
    const refused = text.length > longest ? `has ${text.length} letters; ${longest} are allowed.` : "";
    state.words.push({ text, from, refused });
  }
}

export function remove(text) {
  const index = state.words.findIndex((word) => word.text === text);
  if (index < 0) return;
  complain(null);
  const [word] = state.words.splice(index, 1);
  state.removed.push({ word, index, colour: state.colours.get(text) });
  state.colours.delete(text);
  if (state.selected === text) Object.assign(state, { selected: "", view: state.view === "heat" ? "areas" : state.view });
  state.hovered = "";
  changed("question");
  (at("legend").querySelectorAll(".drop")[Math.min(index, state.words.length - 1)] ?? at("undo")).focus();
}

export function undo() {
  const last = state.removed.pop();
  if (!last) return;
  if (!has(last.word.text)) {
    state.words.splice(last.index, 0, last.word);
    if (last.colour) state.colours.set(last.word.text, last.colour);
  }
  changed("question");
}

// A new picture: its prompt's nouns take the place of the last prompt's; what somebody typed stays.
export function adopt(nouns) {
  const old = state.beside ? state.words : state.words.filter((word) => word.from === "user" && !word.refused);
  for (const word of state.words) if (!old.includes(word) && !nouns.includes(word.text)) state.colours.delete(word.text);
  state.words = [...old];
  state.removed = [];
  for (const noun of nouns) if (texts().length < state.about.limits.concepts) add(noun, "prompt");
}

// ---- the rows

function legendRow({ text, refused }, number) {
  const hex = `#${colourOf(text).map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  const colour = element("input", { type: "color", value: hex, className: "colour", label: `colour of ${text}`, disabled: Boolean(refused) });
  colour.addEventListener("change", () => {
    state.colours.set(text, [1, 3, 5].map((i) => parseInt(colour.value.slice(i, i + 2), 16)));
    changed("view");
  });
  const name = button(text, () => select(text), { className: "name", disabled: Boolean(refused) });
  name.setAttribute("aria-pressed", String(state.view === "heat" && state.selected === text));
  name.title = number < 9 ? `Heat of “${text}” (key ${number + 1})` : `Heat of “${text}”`;
  const drop = button("×", () => (has(text) ? remove(text) : forgetDraft()), { className: "drop", label: `remove ${text}` });
  const row = element("li", { className: refused ? "refused" : has(text) ? "" : "draft" }, colour, name, facts(text, refused), drop);
  for (const part of [colour, name, drop]) part.dataset.word = text;
  row.addEventListener("pointerenter", () => hover(text));
  row.addEventListener("pointerleave", () => hover(""));
  return row;
}

function facts(text, refused) {
  if (refused) return element("span", { className: "why" }, refused);
  const share = state.answer?.shares[text];
  const line = element("span", { className: "facts" });
  if (share === undefined) return line;
  const bar = element("span", { className: "bar" });
  bar.style.width = `${100 * share}%`;
  bar.style.background = `rgb(${colourOf(text).join(" ")})`;
  const there = state.answer.presence[text];
  line.append(element("span", { className: "track", ariaHidden: "true" }, bar));
  line.append(element("span", { className: "share", title: `of the ${state.picture.frames ? "film" : "picture"}’s area` }, `${Math.round(100 * share)}%`));
  if (there) line.append(element("span", { className: "there", title: "Is it in the picture at all?" }, `in it? ${there}`));
  return line;
}

function hover(word) {
  if (state.hovered === word || state.view !== "areas") return;
  state.hovered = word;
  changed("picture");
}

export function select(word) {
  const again = state.view === "heat" && state.selected === word;
  Object.assign(state, { view: again ? "areas" : "heat", selected: word });
  changed("view");
}

export function forgetDraft() {
  state.draft = "";
  at("word").value = "";
  if (state.view === "heat" && !has(state.selected)) Object.assign(state, { view: "areas", selected: "" });
  changed("question");
}

function showRows() {
  const active = document.activeElement?.closest?.("#legend") ? document.activeElement : null;
  const [word, kind] = [active?.dataset.word, active?.className];
  const draft = asked().filter((text) => !has(text)).map((text) => ({ text, refused: "" }));
  at("legend").replaceChildren(...[...state.words, ...draft].map(legendRow));
  if (active) [...at("legend").querySelectorAll("[data-word]")].find((e) => e.dataset.word === word && e.className === kind)?.focus();
  const last = state.removed.at(-1);
  at("removed").hidden = !last;
  at("removed-word").textContent = last ? `Removed “${last.word.text}”.` : "";
  at("clear").hidden = state.words.length < 3;
}

// ---- words one can tap: those of the prompt, and those that fit somewhere

function chip(text, shown = text) {
  const active = state.words.some((word) => word.text === text && !word.refused);
  const made = button(shown, () => {
    if (active) return remove(text);
    add(text);
    return changed("question");
  }, { className: "chip", data: { word: text } });
  made.setAttribute("aria-pressed", String(active));
  if (active) made.style.setProperty("--chip", `rgb(${colourOf(text).join(" ")})`);
  return made;
}

function showPrompt() {
  const { prompt = "", chips = [] } = state.picture ?? {};
  const focused = document.activeElement?.closest?.("#sentence, #fitting")?.id;
  const word = document.activeElement?.dataset?.word;
  const named = new Set();
  at("sentence").replaceChildren(...prompt.split(/(\s+)/).map((piece) => {
    const bare = piece.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
    if (!chips.includes(bare)) return piece;
    named.add(bare);
    return chip(bare, piece);
  }));
  at("sentence").hidden = !prompt;
  const others = suggestions().filter((text) => !named.has(text));
  const more = others.length ? ["Each place goes to one of these words. What else is there? ", ...others.map((text) => chip(text))] : ["Nothing else seems to be in it."];
  at("fitting").replaceChildren(...(state.ranking ? more : []));
  if (focused) [...at(focused).querySelectorAll(".chip")].find((each) => each.dataset.word === word)?.focus();
}

// Words to choose from that win more than a few patches, and are not known to be absent.
export function suggestions() {
  if (!state.ranking) return [];
  const { shape: [count], values } = state.whole.ranking.arrays.scores;
  const patches = values.length / count;
  const wins = new Array(count).fill(0);
  for (let patch = 0; patch < patches; patch++) {
    let best = 0;
    for (let word = 1; word < count; word++) if (values[word * patches + patch] > values[best * patches + patch]) best = word;
    wins[best]++;
  }
  return wins.map((won, word) => [won / patches, state.ranking.words[word]]).filter(([share, word]) => share > 0.04 && !state.ranking.absent.includes(word))
    .sort((a, b) => b[0] - a[0]).slice(0, 5).map(([, word]) => word);
}

on("question", showRows);
on("view", showRows);
on("answer", showRows);
for (const change of ["question", "ranking", "brought"]) on(change, showPrompt);
