const words32 = (colours) => new Uint32Array(Uint8Array.from(colours.flat()).buffer);
const palette = words32(given.colours); // as pixels, from no attention to the most
const [outlineColour] = words32([[255, 209, 64, 255]]);
const LEVEL = 0.5; // of its peak: where an outline runs around a map

/** A map's mean, and its maximum as a multiple of that. */
function rangeOf(map) {
  const flat = map.flat();
  const mean = flat.reduce((sum, weight) => sum + weight, 0) / flat.length;
  return { mean, peak: mean > 0 ? Math.max(...flat) / mean : 0 };
}

/**
 * A map (h, w) at each pixel of the heatmap, row by row, as the server's overlays spread it; NaN where the model did not
 * look. `down` and `across` are which patches its rows and columns draw on, see `Page` in page.py.
 */
function spreadOut(map, down, across) {
  const wide = map.map((row) =>
    Float32Array.from(across, (step) => {
      if (!step) return NaN;
      const [first, share] = step;
      return share ? row[first] + (row[first + 1] - row[first]) * share : row[first];
    }),
  );
  const values = new Float32Array(down.length * across.length).fill(NaN);
  down.forEach((step, y) => {
    if (!step) return;
    const [first, share] = step;
    const [upper, lower] = [wide[first], wide[share ? first + 1 : first]];
    const start = y * across.length;
    for (let x = 0; x < across.length; x += 1) values[start + x] = upper[x] + (lower[x] - upper[x]) * share;
  });
  return values;
}

/** The pixels of a map's heat, or of its outline. */
function paintedHeat(map, style, spread) {
  const { mean, peak } = rangeOf(map);
  const [down, across] = [JSON.parse(spread.down), JSON.parse(spread.across)];
  const [width, height] = [across.length, down.length];
  const image = new ImageData(width, height);
  if (!mean) return image;
  const values = spreadOut(map, down, across);
  const pixels = new Uint32Array(image.data.buffer);
  if (style === "heat") {
    const scale = (palette.length - 1) / mean / Math.max(given.leastPeak, peak);
    for (let i = 0; i < values.length; i += 1)
      if (!Number.isNaN(values[i])) pixels[i] = palette[Math.round(values[i] * scale)];
    return image;
  }
  const line = LEVEL * peak * mean;
  const within = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] >= line;
  for (let y = 0; y < height; y += 1)
    for (let x = 0; x < width; x += 1)
      if (within(x, y) && ![1, 2].every((d) => within(x - d, y) && within(x + d, y) && within(x, y - d) && within(x, y + d)))
        pixels[y * width + x] = outlineColour;
  return image;
}

/** Draw a map (h, w) over a photo, and give what the colours mean. */
function drawHeat(canvas, map, style, spread) {
  const image = paintedHeat(map, style, spread);
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  const top = Math.max(given.leastPeak, rangeOf(map).peak);
  return say("times average", { times: top.toFixed(1) });
}

/** Where a map has its maximum, in words. */
function placeOf(map) {
  if (rangeOf(map).peak < given.leastPeak) return say("place all");
  const flat = map.flat();
  const best = flat.indexOf(Math.max(...flat));
  const columns = map[0].length;
  const third = (index, count) => Math.floor((3 * (index + 0.5)) / count);
  const vertical = ["upper", "middle", "lower"][third(Math.floor(best / columns), map.length)];
  const horizontal = ["left", "centre", "right"][third(best % columns, columns)];
  return say("place", { place: say(`${vertical} ${horizontal}`) });
}

/** The colour scale as a gradient. */
function colourScale() {
  const stops = given.colours.map(([red, green, blue, alpha]) => `rgb(${red} ${green} ${blue} / ${alpha / 255})`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
