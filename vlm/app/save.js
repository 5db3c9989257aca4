function download(name, blob) {
  const link = make("a", "", { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const nameOf = () => props.value.photo.name.replace(/\.[^.]*$/, "");

/** The photo with the heatmap that is shown, and the words below with the chosen one marked, as a PNG. */
function savePicture() {
  const button = pointed ?? pinned;
  const text = button ? button.closest(".words") : find(".caption");
  const words = [...text.children].map((node) => ({ text: node.textContent, chosen: node === button }));
  const scale = photo.naturalWidth / 1000 < 0.6 ? 600 / photo.naturalWidth : 1;
  const [width, height] = [photo.naturalWidth, photo.naturalHeight].map((side) => Math.round(side * scale));
  const size = Math.max(18, Math.round(width / 32));
  const canvas = make("canvas");
  const context = canvas.getContext("2d");
  context.font = `${size}px system-ui, sans-serif`;
  const lines = [[]];
  let x = size;
  for (const word of words) {
    const wide = context.measureText(`${word.text} `).width;
    if (x + wide > width - size && lines.at(-1).length) {
      lines.push([]);
      x = size;
    }
    lines.at(-1).push({ ...word, x, wide });
    x += wide;
  }
  canvas.width = width;
  canvas.height = Math.round(height + (lines.length + 2.2) * 1.5 * size);
  context.fillStyle = "#fbfbfa";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const shown = !find(".heat").hidden;
  context.filter = picture.classList.contains("heated") ? `grayscale(${heat.value / 100})` : "none";
  context.drawImage(photo, 0, 0, width, height);
  context.filter = "none";
  if (shown) {
    context.globalAlpha = heat.value / 100;
    context.drawImage(find(".heat"), 0, 0, width, height);
    context.globalAlpha = 1;
  }
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  lines.forEach((line, i) => {
    const y = height + (i + 1) * 1.5 * size;
    for (const word of line) {
      if (word.chosen) {
        context.fillStyle = "#3451b2";
        context.fillRect(word.x - size / 6, y - 0.7 * size, context.measureText(word.text).width + size / 3, 1.4 * size);
      }
      context.fillStyle = word.chosen ? "#ffffff" : "#1b1d21";
      context.fillText(word.text, word.x, y);
    }
  });
  context.font = `${Math.round(0.7 * size)}px system-ui, sans-serif`;
  context.fillStyle = "#5a616d";
  const below = height + (lines.length + 1) * 1.5 * size;
  context.fillText(find(".readout").textContent, size, below, width - 2 * size);
  if (shown) context.fillText(`${say(look.method)}; ${find(".legend span").textContent}`, size, below + 1.2 * size, width - 2 * size);
  canvas.toBlob((blob) => download(`${nameOf()}.png`, blob), "image/png");
}

/** All that was said, with each word's probability, effect and map, as JSON. */
function saveJson() {
  const { photo: shown, caption, answers } = props.value;
  const { name, width, height, box, grid: cells } = shown;
  const kept = { photo: { name, width, height, box, grid: cells }, method: given.methods[0], caption, conversation: answers };
  download(`${nameOf()}.json`, new Blob([JSON.stringify(kept)], { type: "application/json" }));
}

/** All words of the chosen word's text, or of the caption, as a file that the server makes. */
async function saveFile(kind) {
  const id = pinned ? wordOf.get(pinned).id : props.value.caption?.id;
  if (id === undefined || id === null) return;
  const { method, layer, head } = look;
  const found = await lookUp({ what: "file", kind, id, method, layer, head });
  if (found) download(`${nameOf()}.${kind}`, await (await fetch(found.url)).blob());
}

find("#vlm-panel-save").addEventListener("click", (event) => {
  const { save } = event.target.dataset;
  if (save === "png") savePicture();
  else if (save === "json") saveJson();
  else if (save) saveFile(save);
});
