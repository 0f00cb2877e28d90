// Drawing: maps on the patch grid, areas and doubt in pixels, to colours on a canvas.

const LONGEST_OVERLAY = 384;
const GREY = [128, 128, 128];
const LESS = [38, 98, 217];
const MORE = [226, 104, 20];

// ---- numbers

function weights(count, cells) {
  const low = new Int32Array(count);
  const share = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = Math.min(Math.max(((i + 0.5) * cells) / count - 0.5, 0), cells - 1);
    low[i] = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    share[i] = cells > 1 ? place - low[i] : 0;
  }
  return { low, share };
}

// One map, rows x cols, bilinearly at width x height: patches stand for areas, as in ops/grids.py.
export function enlarge(values, rows, cols, width, height) {
  const across = weights(width, cols);
  const down = weights(height, rows);
  const large = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const top = down.low[y] * cols;
    const bottom = rows > 1 ? top + cols : top;
    const v = down.share[y];
    for (let x = 0; x < width; x++) {
      const left = across.low[x];
      const right = cols > 1 ? left + 1 : left;
      const h = across.share[x];
      const upper = values[top + left] * (1 - h) + values[top + right] * h;
      const lower = values[bottom + left] * (1 - h) + values[bottom + right] * h;
      large[y * width + x] = upper * (1 - v) + lower * v;
    }
  }
  return large;
}

export function range(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// What one frame has of an array, along an axis.
function along({ shape, values }, axis, place) {
  const product = (sides) => sides.reduce((all, side) => all * side, 1);
  const [outer, inner] = [product(shape.slice(0, axis)), product(shape.slice(axis + 1))];
  const taken = new values.constructor(outer * inner);
  for (let i = 0; i < outer; i++) {
    const from = (i * shape[axis] + place) * inner;
    taken.set(values.subarray(from, from + inner), i * inner);
  }
  return { shape: shape.filter((_, i) => i !== axis), values: taken };
}

const TIME = { scores: 1, doubt: 0, parts: 3 }; // the axis of latent frames
const stills = new WeakMap(); // by answer the frame that was taken of it last

// What an answer about a film says of one frame, as of a picture; an answer about a picture as it is.
export function still(answer, frame) {
  if (!answer?.latents) return answer;
  const number = Math.min(frame, answer.latents.length - 1);
  if (stills.get(answer)?.number === number) return stills.get(answer);
  const arrays = Object.fromEntries(Object.entries(answer.arrays).map(([name, array]) =>
    [name, name === "areas" ? along(array, 0, number) : along(array, TIME[name], answer.latents[number])]));
  const made = { ...answer, arrays, number, film: answer };
  stills.set(answer, made);
  return made;
}

// The picture that is shown: of a film a frame.
export const shown = ({ frames, bitmap }, frame) => (frames ? frames[Math.min(frame, frames.length - 1)] : bitmap);

// The map of a word in an answer: {rows, cols, values, bounds}; null where it was not asked. Bounds are those of the whole film.
export function mapOf(answer, word) {
  const place = answer?.concepts.indexOf(word) ?? -1;
  if (place < 0) return null;
  const [, rows, cols] = answer.arrays.scores.shape;
  const values = answer.arrays.scores.values.subarray(place * rows * cols, (place + 1) * rows * cols);
  return { rows, cols, values, bounds: answer.film ? boundsOf(answer.film.arrays.scores, place) : range(values) };
}

function boundsOf({ shape: [count], values }, place) {
  const size = values.length / count;
  return range(values.subarray(place * size, (place + 1) * size));
}

// One map less another, on the grid of the first.
export function difference(here, there) {
  const other = here.rows === there.rows && here.cols === there.cols
    ? there.values
    : enlarge(there.values, there.rows, there.cols, here.cols, here.rows);
  return { ...here, values: here.values.map((value, i) => value - other[i]) };
}

// ---- colours

export function heatColour(heat, stops) {
  const place = Math.min(Math.max(heat, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const share = place - low;
  return [0, 1, 2].map((i) => stops[low][i] * (1 - share) + stops[low + 1][i] * share);
}

export const rgb = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
export const heatScale = (stops) => `linear-gradient(to right, ${stops.map(rgb).join(", ")})`;
export const signedScale = `linear-gradient(to right, ${rgb(LESS)}, rgb(240 240 240), ${rgb(MORE)})`;

function coloured(width, height, colourAt) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) pixels.data.set(colourAt(i), i * 4);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function overlaySize({ width, height }) {
  const scale = Math.min(1, LONGEST_OVERLAY / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

function ramp(values, width, height, [low, high], stops) {
  const colours = Array.from({ length: 256 }, (_, i) => heatColour(i / 255, stops));
  return coloured(width, height, (i) => {
    const heat = high > low ? Math.min(Math.max((values[i] - low) / (high - low), 0), 1) : 0;
    return [...colours[Math.round(heat * 255)], 70 + 185 * heat];
  });
}

export function heatLayer(map, bitmap, stops) {
  const [width, height] = overlaySize(bitmap);
  return ramp(enlarge(map.values, map.rows, map.cols, width, height), width, height, map.bounds, stops);
}

export function doubtLayer({ shape: [height, width], values }, stops) {
  return ramp(values, width, height, [0, 0.5], stops);
}

export function signedLayer(map, bitmap, most) {
  const [width, height] = overlaySize(bitmap);
  const values = enlarge(map.values, map.rows, map.cols, width, height);
  return coloured(width, height, (i) => {
    const share = most > 0 ? Math.min(Math.abs(values[i]) / most, 1) : 0;
    return [...(values[i] < 0 ? LESS : MORE), 255 * share];
  });
}

// colours: by number of a concept; only: the number of one that stands out, or -1.
export function areasLayer({ shape: [height, width], values }, colours, only) {
  return coloured(width, height, (i) => [...(colours[values[i]] ?? GREY), only < 0 || values[i] === only ? 255 : 50]);
}

// ---- on the canvas

// The picture, its colours and what is drawn over them. layer: a canvas, or null; sharp: its pixels stay squares.
export function draw(canvas, bitmap, layer, { opacity = 1, sharp = false, grey = 0 } = {}) {
  const scale = Math.max(1, Math.floor(640 / Math.max(bitmap.width, bitmap.height)));
  const fit = Math.min(1, 1280 / Math.max(bitmap.width, bitmap.height));
  const width = Math.round(bitmap.width * scale * fit);
  const height = Math.round(bitmap.height * scale * fit);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.style.setProperty("--ratio", width / height);
  const pen = canvas.getContext("2d");
  pen.globalAlpha = 1;
  pen.imageSmoothingEnabled = scale === 1;
  pen.filter = layer && grey ? `grayscale(${grey})` : "none";
  pen.drawImage(bitmap, 0, 0, width, height);
  pen.filter = "none";
  if (!layer) return;
  pen.globalAlpha = opacity;
  pen.imageSmoothingEnabled = !sharp;
  pen.drawImage(layer, 0, 0, width, height);
  pen.globalAlpha = 1;
}

// Lines where one area meets another.
export function outline(canvas, { shape: [height, width], values }) {
  const pen = canvas.getContext("2d");
  const [wide, high] = [canvas.width / width, canvas.height / height];
  pen.beginPath();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (x + 1 < width && values[i] !== values[i + 1]) {
        pen.moveTo((x + 1) * wide, y * high);
        pen.lineTo((x + 1) * wide, (y + 1) * high);
      }
      if (y + 1 < height && values[i] !== values[i + width]) {
        pen.moveTo(x * wide, (y + 1) * high);
        pen.lineTo((x + 1) * wide, (y + 1) * high);
      }
    }
  }
  pen.lineCap = "round";
  pen.lineWidth = Math.max(2, canvas.width / 260);
  pen.strokeStyle = "rgb(255 255 255 / 0.9)";
  pen.stroke();
}

// By number of a concept the point deepest inside its area: {x, y, depth}, shares of the width.
export function middles({ shape: [height, width], values }, count) {
  const depth = new Float32Array(width * height);
  const same = (i, j) => values[i] === values[j];
  const sweep = (y, x, sides) => {
    const i = y * width + x;
    if (y === 0 || x === 0 || y === height - 1 || x === width - 1) return 1;
    return Math.min(...sides.map((side) => (same(i, i + side) ? depth[i + side] : 0))) + 1;
  };
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) depth[y * width + x] = sweep(y, x, [-1, -width]);
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--) {
      const i = y * width + x;
      depth[i] = Math.min(depth[i], sweep(y, x, [1, width]));
    }
  }
  const best = Array.from({ length: count }, () => null);
  values.forEach((value, i) => {
    if (!best[value] || depth[i] > best[value].depth) best[value] = { x: (i % width) + 0.5, y: Math.floor(i / width) + 0.5, depth: depth[i] };
  });
  return best.map((each) => each && { x: each.x / width, y: each.y / height, depth: each.depth / width });
}

// Names on their areas, as large as they appear on the screen.
export function labels(canvas, areas, names) {
  const pen = canvas.getContext("2d");
  const size = 14 * (canvas.width / (canvas.clientWidth || canvas.width));
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const [number, middle] of middles(areas, names.length).entries()) {
    if (!middle || !names[number] || middle.depth < 0.02) continue;
    const wide = pen.measureText(names[number]).width + size;
    const x = Math.min(Math.max(middle.x * canvas.width, wide / 2 + 2), canvas.width - wide / 2 - 2);
    const y = Math.min(Math.max(middle.y * canvas.height, size), canvas.height - size);
    pen.fillStyle = "rgb(255 255 255 / 0.88)";
    pen.beginPath();
    pen.roundRect(x - wide / 2, y - size * 0.85, wide, size * 1.7, size * 0.85);
    pen.fill();
    pen.fillStyle = "#1d1a26";
    pen.fillText(names[number], x, y);
  }
}
