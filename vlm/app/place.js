const surface = find(".surface"); // over the photo: takes the mouse, fingers and keys
const DRAG = 5; // pixels from where on a click is a drag
const MOST = 6; // words that are named
const SHARE = 0.02; // of a word's map: less is not worth a name

let tool = null; // "box" or "paint" while that is chosen; else the mouse points, and drags a box
let chosen = new Set(); // numbers of cells of the photo's grid, row by row
let cursor = null; // the cell that the keys point at
let anchor = null; // the cell where a box was begun
let start = null; // where the pointer went down

const grid = () => props.value.photo.grid;

/** The cell [row, column] of a place on the screen; null beside what the model saw. */
function cellAt({ clientX, clientY }, near = false) {
  const frame = surface.getBoundingClientRect();
  const [left, top, right, bottom] = props.value.photo.box;
  const x = ((clientX - frame.left) / frame.width - left) / (right - left);
  const y = ((clientY - frame.top) / frame.height - top) / (bottom - top);
  const [rows, columns] = grid();
  const cell = [Math.floor(y * rows), Math.floor(x * columns)];
  if (near) return [Math.min(rows - 1, Math.max(0, cell[0])), Math.min(columns - 1, Math.max(0, cell[1]))];
  return x >= 0 && x < 1 && y >= 0 && y < 1 ? cell : null;
}

const numberOf = ([row, column]) => row * grid()[1] + column;

/** Words that have maps, each with how much it drew on some cells: a share of its map, and a multiple of the average. */
function drawn(cells) {
  const buttons = findAll(".words button:enabled").filter((button) => mapOf(button));
  const found = buttons.map((button) => {
    const flat = mapOf(button).flat();
    const share = cells.reduce((sum, cell) => sum + flat[cell], 0);
    return { button, share, times: (share * flat.length) / cells.length };
  });
  return found.sort((one, other) => other.times - one.times);
}

/** Light up the words that drew on some cells, the strongest most. */
function light(found) {
  const most = Math.max(given.leastPeak, found[0]?.times ?? 0);
  for (const { button, times } of found) {
    button.classList.toggle("lit", times > 1);
    button.style.setProperty("--light", times > 1 ? times / most : 0);
  }
}

function darken() {
  for (const button of findAll(".words .lit")) button.classList.remove("lit");
}

/** Words with numbers, strongest first, each spelling once. */
function listed(found, number) {
  const seen = new Map();
  for (const entry of found) {
    const { text } = wordOf.get(entry.button);
    if (!seen.has(text)) seen.set(text, `${text} ${number(entry)}`);
  }
  return [...seen.values()].slice(0, MOST).join(", ");
}

function pointAt(cell) {
  const found = drawn([numberOf(cell)]);
  light(found);
  const strong = found.filter(({ times }) => times > 1);
  const words = listed(strong, ({ times }) => say("times", { times: times.toFixed(1) }));
  find(".readout").textContent = words ? say("here", { words }) : say("here none");
  drawChosen(cell);
}

function leave() {
  cursor = null;
  if (chosen.size) light(drawn([...chosen]));
  else darken();
  drawChosen();
  refresh();
}

/** Draw the cells that are chosen, and the one that is pointed at. */
function drawChosen(pointedAt = null) {
  const canvas = find(".chosen");
  const [rows, columns] = grid();
  const scale = 20;
  canvas.width = columns * scale;
  canvas.height = rows * scale;
  const [left, top, right, bottom] = props.value.photo.box;
  Object.assign(canvas.style, {
    left: `${100 * left}%`,
    top: `${100 * top}%`,
    width: `${100 * (right - left)}%`,
    height: `${100 * (bottom - top)}%`,
  });
  const context = canvas.getContext("2d");
  const square = (row, column) => [column * scale, row * scale, scale, scale];
  if (chosen.size) {
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const cell of chosen) context.clearRect(...square(Math.floor(cell / columns), cell % columns));
  }
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  const has = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && chosen.has(row * columns + column);
  context.beginPath();
  for (const cell of chosen) {
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    const [x, y] = [column * scale, row * scale];
    if (!has(row - 1, column)) context.moveTo(x, y), context.lineTo(x + scale, y);
    if (!has(row + 1, column)) context.moveTo(x, y + scale), context.lineTo(x + scale, y + scale);
    if (!has(row, column - 1)) context.moveTo(x, y), context.lineTo(x, y + scale);
    if (!has(row, column + 1)) context.moveTo(x + scale, y), context.lineTo(x + scale, y + scale);
  }
  context.stroke();
  if (pointedAt) context.strokeRect(...square(...pointedAt));
}

function chooseBox([row, column], [otherRow, otherColumn]) {
  chosen = new Set();
  for (let y = Math.min(row, otherRow); y <= Math.max(row, otherRow); y += 1)
    for (let x = Math.min(column, otherColumn); x <= Math.max(column, otherColumn); x += 1) chosen.add(numberOf([y, x]));
  showChosen();
}

/** Paint over a cell and its neighbours. */
function paintAt([row, column]) {
  const [rows, columns] = grid();
  for (let y = row - 1; y <= row + 1; y += 1)
    for (let x = column - 1; x <= column + 1; x += 1)
      if (y >= 0 && y < rows && x >= 0 && x < columns) chosen.add(numberOf([y, x]));
  showChosen();
}

/** Show what is chosen, each word's share of it, and what can be done with it. */
function showChosen() {
  drawChosen();
  const bar = find(".selection");
  bar.hidden = !chosen.size;
  find(".found").hidden = true;
  if (!chosen.size) return darken();
  const found = drawn([...chosen]);
  light(found);
  const some = found.filter(({ share }) => share >= SHARE).sort((one, other) => other.share - one.share);
  find(".shares").textContent = say("shares", { words: listed(some, ({ share }) => percent(share)) || "0 %" });
  showTexts(find(".about select"));
}

function clearChosen() {
  chosen = new Set();
  if (props.value.photo) showChosen();
}

/** Fill a list with the texts that can be asked about again, the latest answer first. */
function showTexts(list) {
  const asked = props.value.answers.filter(({ kind }) => kind === "answer").map(({ text }) => text).reverse();
  const texts = [...asked, ...(props.value.caption?.id === undefined ? [] : [props.value.caption])];
  const named = texts.filter(({ id }) => id !== null).map((text) => [text.id, questionOf(text) || say("caption")]);
  list.replaceChildren(...named.map(([id, name]) => make("option", name, { value: id })));
  const own = pinned && String(wordOf.get(pinned).id);
  if (named.some(([id]) => String(id) === own)) list.value = own;
}

surface.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  start = { x: event.clientX, y: event.clientY, cell: cellAt(event), dragged: false };
  if (tool === "paint" && start.cell) paintAt(start.cell);
  if (event.pointerType === "mouse" || tool) surface.setPointerCapture(event.pointerId);
});
surface.addEventListener("pointermove", (event) => {
  const cell = cellAt(event);
  if (!start) {
    if (event.pointerType === "mouse" && cell) pointAt(cell);
    return;
  }
  const far = Math.hypot(event.clientX - start.x, event.clientY - start.y) > DRAG;
  if (tool === "paint") {
    if (cell) paintAt(cell);
  } else if ((far || start.dragged) && start.cell && (event.pointerType === "mouse" || tool === "box")) {
    start.dragged = true;
    chooseBox(start.cell, cellAt(event, true));
  }
});
surface.addEventListener("pointerup", (event) => {
  const tapped = start && !start.dragged && tool !== "paint" ? start.cell : null;
  start = null;
  if (!tapped) return;
  clearChosen();
  pointAt(tapped);
});
surface.addEventListener("pointercancel", () => {
  start = null;
});
surface.addEventListener("pointerleave", (event) => {
  if (!start && event.pointerType === "mouse") leave();
});
surface.addEventListener("blur", leave);
surface.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Enter" && chosen.size) {
    event.preventDefault();
    return tellWhatIsHere();
  }
  if (!step) return;
  event.preventDefault();
  const [rows, columns] = grid();
  const [row, column] = cursor ?? [Math.floor(rows / 2), Math.floor(columns / 2)];
  const within = (value, count) => Math.min(count - 1, Math.max(0, value));
  if (event.shiftKey) anchor ??= [row, column];
  else anchor = null;
  cursor = [within(row + step[0], rows), within(column + step[1], columns)];
  if (anchor) {
    chooseBox(anchor, cursor);
    find(".readout").textContent = find(".shares").textContent;
  } else {
    clearChosen();
    pointAt(cursor);
  }
});

for (const button of findAll("[data-tool=box], [data-tool=paint]")) {
  button.addEventListener("click", () => {
    tool = tool === button.dataset.tool ? null : button.dataset.tool;
    for (const other of findAll("[data-tool][aria-pressed]"))
      other.setAttribute("aria-pressed", String(other.dataset.tool === tool));
    surface.dataset.tool = tool ?? "";
  });
}
find("[data-tool=play]").addEventListener("click", play);

async function tellWhatIsHere() {
  const line = find(".found");
  line.hidden = false;
  line.textContent = say("looking up");
  const found = await lookUp({ what: "here", cells: [...chosen] });
  line.hidden = !found;
  if (!found) return;
  const verdict = found.verdict ? ` ${say(`verdict ${found.verdict}`)}` : "";
  line.textContent = say("found", { text: found.text, percent: percent(found.confidence) }) + verdict;
}

find(".selection").addEventListener("click", (event) => {
  const { part } = event.target.dataset;
  if (part === "here") tellWhatIsHere();
  else if (part === "clear") clearChosen();
  else if (part) {
    const id = Number(find(".about select").value);
    trigger("whatif", { turn: begin("answering"), id, cells: [...chosen], keep: part === "keep" });
  }
});
