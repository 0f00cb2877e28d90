// Talking to the server: this tab's name, errors as one line, and maps as bytes (the format is in web/wire.py).

const TAB = "conceptlens-tab";
let tab = sessionStorage.getItem(TAB);

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function send(address, options = {}) {
  const headers = { ...(tab ? { "x-conceptlens-tab": tab } : {}), ...options.headers };
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  let line = `the server answered ${answer.status}.`;
  try {
    line = (await answer.json()).error ?? line;
  } catch { /* no JSON: the status must do */ }
  throw new Refused(answer.status, line);
}

function asJson(fields, signal) {
  return { method: "POST", body: JSON.stringify(fields), headers: { "content-type": "application/json" }, signal };
}

export async function openTab() {
  const about = await (await send("api/tabs", { method: "POST" })).json();
  tab = about.tab;
  sessionStorage.setItem(TAB, tab); // a page that is loaded again can still ask its pictures
  return about;
}

export const example = async () => (await send("api/example", { method: "POST" })).json();

export const paint = async (fields) => (await send("api/paint", asJson(fields))).json();
export const read = async (file) =>
  (await send("api/read", { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } })).json();
export const job = async (name) => (await send(`api/jobs/${encodeURIComponent(name)}`)).json();
export const cancel = async (name) => (await send(`api/jobs/${encodeURIComponent(name)}`, { method: "DELETE" })).json();

export const picture = async (name) => (await send(`api/pictures/${encodeURIComponent(name)}`)).blob();
export const frame = async (name, number) => (await send(`api/pictures/${encodeURIComponent(name)}?frame=${number}`)).blob();
export const sketch = async (name) => (await send(`api/jobs/${encodeURIComponent(name)}/sketch`)).blob();
export const maps = async (fields, signal) => unpack(await (await send("api/maps", asJson(fields, signal))).arrayBuffer());
export const ranking = async (fields, signal) =>
  unpack(await (await send("api/ranking", asJson(fields, signal))).arrayBuffer());

export async function file(fields) {
  const answer = await send("api/probe", asJson(fields));
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? "maps";
  return { name, blob: await answer.blob() };
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const content = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  for (const [name, entry] of Object.entries(content.arrays)) {
    const count = entry.shape.reduce((product, side) => product * side, 1);
    const at = 4 + length + entry.at;
    const stored = entry.type === "float16" ? new Uint16Array(buffer, at, count) : new Uint8Array(buffer, at, count);
    if (entry.type === "uint8" && entry.low === 0 && entry.scale === 1) {
      content.arrays[name] = { shape: entry.shape, values: stored.slice() };
      continue;
    }
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      values[i] = entry.low + entry.scale * (entry.type === "float16" ? half(stored[i]) : stored[i]);
    }
    content.arrays[name] = { shape: entry.shape, values };
  }
  return content;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
