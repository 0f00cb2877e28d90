// Drawing: scores on the patch grid to colours on the canvas. Patches stand for areas, as in ops/grids.py.

const LONGEST_OVERLAY = 384;

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

// One map, rows x cols, bilinearly at width x height.
export function enlarge(values, rows, cols, width, height) {
  const across = weights(width, cols);
  const down = weights(height, rows);
  const made = new Float32Array(width * height);
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
      made[y * width + x] = upper * (1 - v) + lower * v;
    }
  }
  return made;
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

function overlaySize(width, height) {
  const scale = Math.min(1, LONGEST_OVERLAY / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

function heatColour(heat, stops) {
  const place = Math.min(Math.max(heat, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const share = place - low;
  return [0, 1, 2].map((i) => stops[low][i] * (1 - share) + stops[low + 1][i] * share);
}

// The chance that the runner-up of a pixel should have won, 0..0.5, without noise draws; as in ops/doubt.py.
function doubts(large, floor) {
  const [low, high] = large.map(range).reduce((a, b) => [Math.min(a[0], b[0]), Math.max(a[1], b[1])]);
  const spread = Math.max(floor * (high - low), 1e-30);
  return large[0].map((_, i) => {
    let [best, second] = [-Infinity, -Infinity];
    for (const { [i]: value } of large) {
      if (value > best) [best, second] = [value, best];
      else if (value > second) second = value;
    }
    return large.length > 1 ? below((second - best) / spread) : 0;
  });
}

// The normal distribution function for z <= 0 (Abramowitz and Stegun 7.1.26).
function below(z) {
  const x = -z / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * x);
  return 0.5 * Math.exp(-x * x) * t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
}

// maps: {grid: [rows, cols], each: [Float32Array, ...]}; colours: one [r, g, b] per map; view: "areas", "heat" or "doubt".
export function overlay(maps, colours, view, selected, { heat: stops, floor }, width, height) {
  const [w, h] = overlaySize(width, height);
  const [rows, cols] = maps.grid;
  const pixels = new ImageData(w, h);
  const shown = view === "heat" ? [maps.each[selected]] : maps.each;
  const each = shown.map((values) => enlarge(values, rows, cols, w, h));
  const large = view === "doubt" ? [doubts(each, floor)] : each;
  const [low, high] = view === "heat" ? range(large[0]) : [0, 0.5];
  const ramp = Array.from({ length: 256 }, (_, i) => heatColour(i / 255, stops));
  for (let i = 0; i < w * h; i++) {
    let colour;
    let alpha = 255;
    if (view !== "areas") {
      const heat = high > low ? (large[0][i] - low) / (high - low) : 0;
      colour = ramp[Math.round(heat * 255)];
      alpha = 90 + 165 * heat;
    } else {
      let best = 0;
      for (let map = 1; map < large.length; map++) if (large[map][i] > large[best][i]) best = map;
      colour = colours[best];
    }
    pixels.data.set([colour[0], colour[1], colour[2], alpha], i * 4);
  }
  const made = Object.assign(document.createElement("canvas"), { width: w, height: h });
  made.getContext("2d").putImageData(pixels, 0, 0);
  return made;
}

export function draw(canvas, bitmap, layer, opacity) {
  const scale = Math.max(1, Math.floor(512 / Math.max(bitmap.width, bitmap.height)));
  const fit = Math.min(1, 1280 / Math.max(bitmap.width, bitmap.height));
  const width = Math.round(bitmap.width * scale * fit);
  const height = Math.round(bitmap.height * scale * fit);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.globalAlpha = 1;
  pen.imageSmoothingEnabled = scale === 1;
  pen.filter = layer ? "grayscale(0.7)" : "none";
  pen.drawImage(bitmap, 0, 0, width, height);
  pen.filter = "none";
  if (!layer) return;
  pen.globalAlpha = opacity;
  pen.imageSmoothingEnabled = true;
  pen.drawImage(layer, 0, 0, width, height);
  pen.globalAlpha = 1;
}

// The mean of parts (step, layer, concept, rows, cols) over one step or layer, or over all where the index is null.
export function inside(parts, step, layer) {
  const [steps, layers, concepts, rows, cols] = parts.shape;
  const size = rows * cols;
  const each = Array.from({ length: concepts }, () => new Float32Array(size));
  const chosen = (count, only) => (only === null ? Array.from({ length: count }, (_, i) => i) : [only]);
  const pairs = chosen(steps, step).flatMap((s) => chosen(layers, layer).map((l) => s * layers + l));
  for (const pair of pairs) {
    for (let c = 0; c < concepts; c++) {
      const from = (pair * concepts + c) * size;
      for (let i = 0; i < size; i++) each[c][i] += parts.values[from + i] / pairs.length;
    }
  }
  return { grid: [rows, cols], each };
}

export function split(scores) {
  const [concepts, rows, cols] = scores.shape;
  const size = rows * cols;
  return {
    grid: [rows, cols],
    each: Array.from({ length: concepts }, (_, c) => scores.values.subarray(c * size, (c + 1) * size)),
  };
}
