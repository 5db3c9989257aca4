const photo = find(".picture img");

let turn = 0; // counts what was asked of the server; a reply to anything but the latest is stale
let photoTurn = null; // the turn that brought the photo in sight
let busy = null; // what goes on, as a key of strings.json

function show(view) {
  if (view.turn) beKnown();
  if (view.turn !== turn) return;
  showMessage(view.message && say(view.message));
  if (view.photo && view.photo.turn !== photoTurn) showPhoto(view.photo);
  if (!view.photo && !view.busy) makeRoom(false);
  setBusy(view.busy, view.before);
  showCaption(view.caption);
  showEntries(view.answers);
  if (chosen.size) showChosen();
  showMode();
  refresh();
}

function showCaption(caption) {
  showWords(find(".caption"), caption ?? { words: [] });
  const done = caption !== null && caption.id !== null;
  const verdict = find(".reading > .verdict");
  showVerdict(verdict, done ? caption.judgement : null);
  verdict.hidden = !given.tellsVerdicts; // its line is kept free, or the caption would jump
  showKey(done ? caption : null);
  const text = done ? spoken(say("spoken caption", { text: caption.text }), caption.judgement) : "";
  if (spokenCaption.textContent !== text) spokenCaption.textContent = text;
}

/** What the colours of words mean. */
function showKey(caption) {
  const key = find(".key");
  if (!caption?.words.length) return key.replaceChildren();
  const parts = ["high", "middle", "low"].map((level) => make("span", say(`key ${level}`), { "data-sure": level }));
  if (caption.words.some((word) => isWord(word.text) && [null, "supported"].indexOf(supportOf(word)) < 0))
    parts.push(make("span", say("key alone"), { "data-support": "alone" }));
  key.replaceChildren(...parts);
}

/** Lay the page out for a photo, or as it is without one. */
function makeRoom(yes) {
  element.classList.toggle("has-photo", yes);
  for (const part of [picture, find(".controls")]) part.hidden = !yes;
  find(".reading").hidden = !yes && !given.documentKinds.length;
}

/** Show the first photo before the server has it, so that nothing moves when it does. */
function preview(address) {
  if (photoTurn !== null) return;
  const mine = turn;
  const image = new Image();
  image.addEventListener("load", () => {
    if (photoTurn !== null || mine !== turn || !busy) return;
    photo.src = address;
    picture.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    surface.hidden = find(".controls").inert = true;
    makeRoom(true);
    setBusy(busy);
  });
  image.src = address;
}

function showPhoto({ turn, file, name, width, height }) {
  photoTurn = turn;
  entriesShown = 0;
  pinned = pointed = foil = null;
  chosen = new Set();
  fetched.clear();
  stopPlaying();
  photo.src = fromHere(file.url);
  photo.alt = name;
  picture.style.setProperty("--ratio", width / height);
  find(".answers").replaceChildren();
  drawPlaces([]);
  surface.hidden = find(".controls").inert = false;
  makeRoom(true);
  // For the other tabs, which Gradio makes when they are first looked at.
  document.vlmPhoto = { key: props.value.key, photo: props.value.photo };
  document.dispatchEvent(new Event("vlm-photo"));
  showChosen();
}

function showMessage(text) {
  const message = find(".message");
  message.hidden = !text;
  message.textContent = text ?? "";
}

/** Say what goes on, and how many others have their turn `before`. */
function setBusy(key, before = 0) {
  busy = key;
  const going = [key && say(key), before && say("in line", { before })].filter(Boolean).join(" ");
  const begun = element.classList.contains("has-photo");
  find(".busy").textContent = going;
  find(".stop").hidden = !key;
  find(".invitation strong").textContent = begun ? say("choose another") : going || say("choose");
  element.classList.toggle("working", Boolean(key));
  askButton.disabled = Boolean(key);
}

function begin(key) {
  turn += 1;
  showMessage(null);
  setBusy(key);
  return turn;
}

find(".stop").addEventListener("click", () => trigger("stop", { turn: begin(null) }));

async function send(file) {
  const mine = begin("looking");
  preview(URL.createObjectURL(file));
  try {
    const { path } = await upload(file);
    if (mine === turn) trigger("photo", { turn, path, name: file.name });
  } catch {
    if (mine !== turn) return;
    if (photoTurn === null) makeRoom(false);
    setBusy(null);
    showMessage(say("not sent", { name: file.name }));
    if (waiting.length) enter();
  }
}

/** Documents go to the shelf, where there is one, and the first of all else is the photo. */
function sendFirst(files) {
  const documents = [...files].filter(isDocument);
  const photos = [...files].filter((file) => !isDocument(file));
  if (photos.length) send(photos[0]);
  if (documents.length) bring(documents);
  else if (photos.length) return;
  else showMessage(say("not a file"));
}

find(".file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});

/** Another tab of the app may be in sight, which takes files of its own. */
const inSight = () => element.offsetParent !== null;

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (!files.length || !inSight()) return;
  // A cell of a spreadsheet comes as text and as a picture of it, a file of a folder with its name as text.
  const text = event.clipboardData.getData("text/plain").trim();
  if (event.target === question && text && text !== files[0].name) return;
  event.preventDefault();
  send(files[0]);
});

/** Text that is dragged to the question box belongs there. */
const isText = (event) => event.target === question && !event.dataTransfer.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (isText(event) || !inSight()) return;
  event.preventDefault();
  element.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  element.classList.remove("dragging");
  if (isText(event) || !inSight()) return;
  event.preventDefault();
  sendFirst(event.dataTransfer.files);
});

for (const [index, { name, thumbnail }] of given.examples.entries()) {
  const button = document.createElement("button");
  button.type = "button";
  const image = document.createElement("img");
  image.src = thumbnail;
  image.alt = name;
  button.append(image);
  button.addEventListener("click", () => {
    trigger("example", { turn: begin("looking"), index });
    preview(thumbnail);
  });
  find(".examples").append(button);
}

find(".legend i").style.backgroundImage = colourScale();
setHeat();

/** Gradio's tabs stand beside this component, and once more where it measures how many have room. */
function nameTabs() {
  for (const tab of ["look", "folder", "compare"])
    for (const button of document.querySelectorAll(`#vlm-${tab}-button`)) button.textContent = say(`${tab} tab`);
}

/** Say everything anew, in the language that was chosen. */
function retell() {
  translate();
  nameTabs();
  fillChoices();
  showMode();
  setBusy(busy);
  showShelf(shelved);
  if (!props.value.photo && !props.value.answers.length) return;
  entriesShown = 0;
  find(".answers").replaceChildren();
  show({ ...props.value, turn });
  panelFor = "";
  refreshPanels();
}

makeRoom(false);
retell();
watch("value", () => show(props.value));
