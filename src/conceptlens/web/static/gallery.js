// What was done on this page, kept by the browser: it survives a reload, and the server's forgetting.

import { keep } from "./compare.js";
import { framesOf } from "./film.js";
import { areasLayer, still } from "./picture.js";
import { at, button, element, guided, on, state } from "./state.js";

const MOST = 30;
const SIDE = 112;
const entries = []; // the newest first
let base = null; // null where the browser keeps nothing
let open = () => {};

const promised = (request) => new Promise((done, fail) => {
  request.onsuccess = () => done(request.result);
  request.onerror = () => fail(request.error);
});
const store = (mode) => base.transaction("pictures", mode).objectStore("pictures");

export async function begin(opened) {
  open = opened;
  try {
    const request = indexedDB.open("conceptlens", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id" });
    base = await promised(request);
    entries.push(...(await promised(store("readonly").getAll())).sort((a, b) => b.id - a.id));
  } catch {
    base = null;
  }
  await show();
  return entries;
}

async function write(entry) {
  const { bitmap, frames, again, thumb, ...plain } = entry;
  try {
    if (base) await promised(store("readwrite").put(plain));
  } catch { /* a full disk: the page goes on without */ }
}

export async function forget(entry) {
  entries.splice(entries.indexOf(entry), 1);
  if (base) await promised(store("readwrite").delete(entry.id)).catch(() => {});
  await show();
  at("gallery").querySelector("button")?.focus();
}

// The picture as it is now, with its words and their maps.
export async function remember() {
  const picture = state.picture;
  if (!picture || state.step !== null || state.layer !== null) return;
  let entry = entries.find((each) => each.id === picture.id) ?? entries.find((each) => each.name === "example" && picture.name === "example" && each.model === picture.model);
  if (!entry) {
    entry = { id: Math.max(Date.now(), (entries[0]?.id ?? 0) + 1) };
    entries.unshift(entry);
    for (const old of entries.splice(MOST)) if (base) promised(store("readwrite").delete(old.id)).catch(() => {});
  }
  picture.id = entry.id;
  const { concepts, asked, arrays, shares, presence, relations, notes, latents, timeline } = state.whole.answer ?? {};
  const { doubt, ...others } = arrays ?? {}; // a film's is as large as all its frames, and the least of what is missed
  const film = latents ? { arrays: others, latents, timeline } : { arrays };
  const answer = state.whole.answer && { concepts, asked, shares, presence, relations, notes, ...film };
  Object.assign(entry, picture, { words: structuredClone(state.words), colours: [...state.colours], answer });
  entry.thumb = thumbnail(entry);
  await write(entry);
  await show();
}

function thumbnail({ bitmap, answer, colours }) {
  const scale = SIDE / Math.max(bitmap.width, bitmap.height);
  const canvas = element("canvas", { width: Math.ceil(bitmap.width * scale), height: Math.ceil(bitmap.height * scale), ariaHidden: "true" });
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const chosen = new Map(colours);
  const areas = still(answer, 0)?.arrays.areas;
  if (!areas) return canvas;
  pen.globalAlpha = 0.5;
  pen.drawImage(areasLayer(areas, answer.concepts.map((word) => chosen.get(word)), -1), 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function show() {
  at("gallery-box").hidden = !entries.length;
  const rows = await Promise.all(entries.map(async (entry) => {
    entry.bitmap ??= await createImageBitmap(entry.blob);
    entry.thumb ??= thumbnail(entry);
    const name = entry.prompt || `picture read at ${new Date(entry.id).toLocaleTimeString()}`;
    const line = [guided(entry), entry.seed === null || entry.kind === "read" ? "" : `seed ${entry.seed}`, entry.model === state.about.model ? "" : entry.model].filter(Boolean).join(" · ");
    const show = button(entry.thumb, () => open(entry), { className: "thumb", label: `open ${name}${line ? `, ${line}` : ""}` });
    show.setAttribute("aria-current", String(entry.id === state.picture?.id));
    const compare = button("Compare", async () => keep({ ...entry, frames: await framesOf(entry) }, entry.answer), { label: `compare with ${name}${line ? `, ${line}` : ""}`, className: "compare", disabled: entry.id === state.picture?.id });
    const gone = button("×", () => forget(entry), { label: `forget ${name}`, className: "drop" });
    return element("li", {}, show, element("span", { className: "name" }, name), element("span", { className: "small" }, line || "\u00a0"), element("span", { className: "line" }, compare, gone));
  }));
  const active = at("gallery").contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  at("gallery").replaceChildren(...rows);
  if (active) [...at("gallery").querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === active)?.focus();
}

on("answer", remember);
