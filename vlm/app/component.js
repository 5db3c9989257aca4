// The body of a function that Gradio calls with (element, trigger, props, server, upload, watch) once the
// template of the component stands. `props.value` is what `Page.view` in page.py says; this file only shows it.
"use strict";

const find = (selector) => element.querySelector(selector);
const picture = find(".picture");
const photo = find(".picture img");
const canvas = find(".picture canvas");
const question = find(".ask input");
const askButton = find(".ask button");
const [spokenCaption, spokenAnswer] = find(".spoken").children;

let turn = 0; // counts what was asked of the server; a reply to anything but the latest is stale
let photoTurn = null; // the turn that brought the photo in sight
let answersShown = 0;
let pinned = null; // the word that was chosen
let pointed = null; // the word under the mouse or the keyboard's focus, which goes before it
let spread = null; // which patches the rows and columns of a heatmap's pixels draw on
const wordOf = new WeakMap(); // button -> word of the view

/** A map's mean, and its maximum as a multiple of that. */
function rangeOf(map) {
  const flat = map.flat();
  const mean = flat.reduce((sum, weight) => sum + weight, 0) / flat.length;
  return { mean, peak: Math.max(...flat) / mean };
}

/** Draw a map (h, w) over the photo, and say what the colours mean. The server says what each pixel draws on. */
function drawHeat(map) {
  const { mean, peak } = rangeOf(map);
  const top = Math.max(props.leastPeak, peak);
  find(".legend span").textContent = `${top.toFixed(1)} × average`;
  const { down, across } = spread;
  canvas.width = across.length;
  canvas.height = down.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const last = props.colours.length - 1;
  const mixed = (values, first, share) =>
    share ? values[first] + (values[first + 1] - values[first]) * share : values[first];
  const wide = map.map((row) => across.map((step) => step && mixed(row, ...step)));
  const tall = across.map((_, x) => wide.map((row) => row[x]));
  down.forEach((step, y) => {
    across.forEach((seen, x) => {
      if (!step || !seen) return; // the model did not look there
      const level = mixed(tall[x], ...step) / mean / top;
      image.data.set(props.colours[Math.round(level * last)], 4 * (y * canvas.width + x));
    });
  });
  context.putImageData(image, 0, 0);
}

/** Where a map has its maximum, in words. */
function placeOf(map) {
  if (rangeOf(map).peak < props.leastPeak) return "all over the photo";
  const flat = map.flat();
  const best = flat.indexOf(Math.max(...flat));
  const columns = map[0].length;
  const third = (index, count) => Math.floor((3 * (index + 0.5)) / count);
  const vertical = ["upper", "middle", "lower"][third(Math.floor(best / columns), map.length)];
  const horizontal = ["left", "centre", "right"][third(best % columns, columns)];
  return `most at the ${`${vertical} ${horizontal}`.replace("middle centre", "centre")}`;
}

function percent(share) {
  return share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
}

const isWord = (text) => /[\p{L}\p{N}]/u.test(text);

/** Make `box` hold these words; those that are there already stay, with their focus. */
function showWords(box, words) {
  words.forEach((word, i) => {
    const tag = isWord(word.text) ? "BUTTON" : "SPAN";
    let node = box.children[i];
    if (!node || node.tagName !== tag || node.textContent !== word.text) {
      const fresh = document.createElement(tag);
      fresh.textContent = word.text;
      if (tag === "BUTTON") {
        fresh.type = "button";
        fresh.tabIndex = -1;
        fresh.setAttribute("aria-pressed", "false");
      }
      if (node) node.replaceWith(fresh);
      else box.append(fresh);
      node = fresh;
    }
    node.disabled = !word.map;
    wordOf.set(node, word);
  });
  while (box.children.length > words.length) box.lastChild.remove();
  const buttons = [...box.querySelectorAll("button")];
  // One stop of the Tab key for each text; arrow keys go from word to word.
  if (buttons.length && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0;
}

function choose(button) {
  pinned = pinned === button ? null : button;
  refreshHeat();
}

function refreshHeat() {
  const button = pointed ?? pinned;
  for (const other of element.querySelectorAll(".words button")) {
    other.setAttribute("aria-pressed", String(other === pinned));
    other.classList.toggle("shown", other === button);
  }
  const word = button && wordOf.get(button);
  canvas.hidden = !word;
  picture.classList.toggle("heated", Boolean(word));
  find(".controls").classList.toggle("idle", !word);
  if (!word) {
    find(".readout").textContent = element.querySelector(".words button:enabled")
      ? "Choose a word to see where the model looked."
      : "";
    return;
  }
  drawHeat(word.map);
  const sure = word.probability === null ? "" : `, ${percent(word.probability)} sure`;
  const place = placeOf(word.map);
  find(".readout").textContent = `“${word.text}”${sure}: looked ${place}.`;
  canvas.setAttribute("aria-label", `Heatmap of “${word.text}”: the model looked ${place}`);
}

/** Draw the places that the shown answer names; `places` are a label each, and corners as shares of the photo. */
function drawPlaces(places) {
  const labels = [...new Set(places.map((place) => place.label))];
  const outlines = places.map(({ label, corners }) => {
    const outline = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    outline.setAttribute("points", corners.map((corner) => corner.join()).join(" "));
    outline.classList.add(`colour-${labels.indexOf(label) % 5}`);
    return outline;
  });
  find(".places").replaceChildren(...outlines);
}

/** The labels of an answer's places in a line, each in the colour of its outlines. */
function placesList(places) {
  const list = document.createElement("p");
  list.className = "labels";
  const labels = places.map((place) => place.label);
  for (const [i, label] of [...new Set(labels)].entries()) {
    const count = labels.filter((other) => other === label).length;
    const item = document.createElement("span");
    item.className = `colour-${i % 5}`;
    item.textContent = (label || "(no name)") + (count > 1 ? ` × ${count}` : "");
    list.append(item);
  }
  list.hidden = !places.length;
  return list;
}

function moveFocus(button, key) {
  const buttons = [...button.closest(".words").querySelectorAll("button")];
  const at = buttons.indexOf(button);
  const last = buttons.length - 1;
  const next = {
    ArrowRight: Math.min(last, at + 1),
    ArrowDown: Math.min(last, at + 1),
    ArrowLeft: Math.max(0, at - 1),
    ArrowUp: Math.max(0, at - 1),
    Home: 0,
    End: last,
  }[key];
  if (next === undefined) return false;
  button.tabIndex = -1;
  buttons[next].tabIndex = 0;
  buttons[next].focus();
  return true;
}

function show(view) {
  if (view.turn !== turn) return;
  showMessage(view.message);
  if (view.photo && view.photo.turn !== photoTurn) showPhoto(view.photo);
  setBusy(view.busy);
  showWords(find(".caption"), view.caption);
  const done = view.caption.length && view.caption.every((word) => word.map);
  showVerdict(find(".reading > .verdict"), done ? view.verdict : "");
  const words = view.caption.map((word) => word.text).join(" ");
  const text = done ? spoken(`Caption: ${words}`, view.verdict) : "";
  if (spokenCaption.textContent !== text) spokenCaption.textContent = text;
  for (const answer of view.answers.slice(answersShown)) showAnswer(answer);
  answersShown = view.answers.length;
  refreshHeat();
}

function showPhoto({ turn, file, name, width, height, down, across }) {
  photoTurn = turn;
  answersShown = 0;
  pinned = pointed = null;
  photo.src = fromHere(file.url);
  photo.alt = name;
  picture.style.setProperty("--ratio", width / height);
  spread = { down, across };
  find(".answers").replaceChildren();
  drawPlaces([]);
  element.classList.add("has-photo");
  for (const part of [picture, find(".controls"), find(".reading")]) part.hidden = false;
}

/** A file's address, from where this page is: behind a proxy the server may not know its own scheme, host and path. */
function fromHere(url) {
  return new URL(url.slice(url.indexOf("/gradio_api/") + 1), document.baseURI).href;
}

function showAnswer(answer) {
  const item = document.createElement("li");
  const asked = wordsBox("question", "Words of the question", answer.question);
  const said = wordsBox("answer", "Words of the answer", answer.words);
  const bars = document.createElement("dl");
  for (const { text, confidence } of answer.candidates) {
    const bar = document.createElement("div");
    const [name, share] = [document.createElement("dt"), document.createElement("dd")];
    name.textContent = text || "(nothing)";
    share.textContent = percent(confidence);
    bar.style.setProperty("--share", confidence);
    bar.append(name, share);
    bars.append(bar);
  }
  bars.setAttribute("aria-label", "Confidence of the answer and its alternatives");
  if (!answer.text) said.textContent = "The model has no answer.";
  const verdict = document.createElement("p");
  verdict.className = "verdict";
  showVerdict(verdict, answer.verdict);
  item.append(asked, verdict, said, placesList(answer.places), bars);
  drawPlaces(answer.places);
  find(".answers").prepend(item);
  question.value = "";
  const sureness = `${percent(answer.candidates[0].confidence)} sure`;
  spokenAnswer.textContent = spoken(`Answer: ${answer.text}, ${sureness}`, answer.verdict);
  pinned = said.querySelector("button") ?? asked.querySelector("button");
}

function spoken(text, verdict) {
  return verdict ? `${text}. ${verdict}` : text;
}

/** How far to trust a text: one line over it, which models that were not fitted to tell do not have. */
function showVerdict(line, verdict) {
  line.hidden = !verdict;
  line.textContent = verdict;
}

function wordsBox(name, label, words) {
  const box = document.createElement("div");
  box.className = `${name} words`;
  box.setAttribute("role", "toolbar");
  box.setAttribute("aria-label", label);
  showWords(box, words);
  return box;
}

function showMessage(text) {
  const message = find(".message");
  message.hidden = !text;
  message.textContent = text ?? "";
}

function setBusy(text) {
  const begun = element.classList.contains("has-photo");
  find(".busy").textContent = text ?? "";
  find(".invitation strong").textContent = begun ? "Choose another photo" : (text ?? "Choose a photo");
  element.classList.toggle("working", Boolean(text));
  askButton.disabled = Boolean(text);
}

function begin(text) {
  turn += 1;
  showMessage(null);
  setBusy(text);
  return turn;
}

async function send(file) {
  const mine = begin("Looking…");
  try {
    const { path } = await upload(file);
    if (mine === turn) trigger("photo", { turn, path, name: file.name });
  } catch {
    if (mine !== turn) return;
    setBusy(null);
    showMessage(`${file.name} could not be sent: it may be too large, or the app has stopped.`);
  }
}

function sendFirst(files) {
  if (files.length) send(files[0]);
  else showMessage("That is not a file; save the photo first, then choose it here.");
}

find(".file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (!files.length) return;
  // A cell of a spreadsheet comes as text and as a picture of it, a file of a folder with its name as text.
  const text = event.clipboardData.getData("text/plain").trim();
  if (event.target === question && text && text !== files[0].name) return;
  event.preventDefault();
  send(files[0]);
});

/** Text that is dragged to the question box belongs there. */
const isText = (event) => event.target === question && !event.dataTransfer.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (isText(event)) return;
  event.preventDefault();
  element.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  element.classList.remove("dragging");
  if (isText(event)) return;
  event.preventDefault();
  sendFirst(event.dataTransfer.files);
});

for (const [index, { name, thumbnail }] of props.examples.entries()) {
  const button = document.createElement("button");
  button.type = "button";
  const image = document.createElement("img");
  image.src = thumbnail;
  image.alt = name;
  button.append(image);
  button.addEventListener("click", () => {
    trigger("example", { turn: begin("Looking…"), index });
  });
  find(".examples").append(button);
}

find(".ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (askButton.disabled) return;
  trigger("ask", { turn: begin("Answering…"), question: question.value });
});

const wordAt = (target) => target.closest?.(".words button:enabled");

element.addEventListener("click", (event) => {
  const button = wordAt(event.target);
  if (!button) return;
  pointed = null;
  choose(button);
});
element.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "mouse" || !wordAt(event.target)) return;
  pointed = wordAt(event.target);
  refreshHeat();
});
element.addEventListener("pointerout", (event) => {
  if (event.pointerType !== "mouse" || !wordAt(event.target)) return;
  pointed = null;
  refreshHeat();
});
element.addEventListener("focusin", (event) => {
  if (!wordAt(event.target)?.matches(":focus-visible")) return;
  pointed = wordAt(event.target);
  refreshHeat();
});
element.addEventListener("focusout", (event) => {
  if (pointed !== event.target) return;
  pointed = null;
  refreshHeat();
});
element.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    pinned = pointed = null;
    refreshHeat();
  } else if (wordAt(event.target) && moveFocus(event.target, event.key)) {
    event.preventDefault();
  }
});

const heat = find(".opacity input");
const setHeat = () => picture.style.setProperty("--heat", heat.value / 100);
heat.addEventListener("input", setHeat);
setHeat();
const stops = props.colours.map(([red, green, blue, alpha]) => `rgb(${red} ${green} ${blue} / ${alpha / 255})`);
find(".legend i").style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;

watch("value", () => show(props.value));
