const picture = find(".picture");
const HIGH = 0.75; // from where on a word's colour says that it is sure, and fairly sure
const MIDDLE = 0.4;
const EFFECT = 0.25; // nats: below that the photo did nothing for a word
const STEP_MS = 900; // a word while all are played

const look = { method: given.methods[0], layer: null, head: null, style: "heat" };
const fetched = new Map(); // maps by other methods: a key of `mapsKey` -> { question, words } or a promise of it
const wordOf = new WeakMap(); // button -> { text, probability, map, effect, id, index, role }
let pinned = null; // the word that was chosen
let pointed = null; // the word under the mouse or the keyboard's focus, which goes before it
let foil = null; // { word, text, map }: why the pinned word and not that one
let playing = null;

const isWord = (text) => /[\p{L}\p{N}]/u.test(text);
const sureness = (probability) => (probability >= HIGH ? "high" : probability >= MIDDLE ? "middle" : "low");

/** What the photo did for a word, where that is known. */
function supportOf({ effect }) {
  if (effect === undefined) return null;
  if (effect >= EFFECT) return "supported";
  return effect <= -EFFECT ? "against" : "alone";
}

/** Make `box` hold the words of a text, those of `role` "question" or "words"; those that are there stay, with their focus. */
function showWords(box, text, role = "words", checked = false) {
  const words = text[role];
  words.forEach((word, index) => {
    const tag = isWord(word.text) ? "BUTTON" : "SPAN";
    let node = box.children[index];
    if (!node || node.tagName !== tag || node.textContent !== word.text) {
      const fresh = make(tag, word.text);
      if (tag === "BUTTON") {
        fresh.type = "button";
        fresh.tabIndex = -1;
        fresh.setAttribute("aria-pressed", "false");
      }
      if (node) node.replaceWith(fresh);
      else box.append(fresh);
      node = fresh;
    }
    wordOf.set(node, { ...word, id: text.id, index, role, checked });
    node.disabled = !word.map;
    if (tag === "BUTTON") describe(node);
  });
  while (box.children.length > words.length) box.lastChild.remove();
  const buttons = [...box.querySelectorAll("button")];
  // One stop of the Tab key for each text; arrow keys go from word to word.
  if (buttons.length && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0;
}

/** A word's colour, and what a screen reader says of it. */
function describe(button) {
  const word = wordOf.get(button);
  if (word.probability === null) return;
  const support = supportOf(word);
  button.dataset.sure = sureness(word.probability);
  if (support && (word.checked || support !== "supported")) button.dataset.support = word.checked ? support : "alone";
  const parts = [say("word label", { word: word.text, percent: percent(word.probability) })];
  if (button.dataset.support) parts.push(say(button.dataset.support));
  button.setAttribute("aria-label", parts.join(", "));
}

function choose(button) {
  pinned = pinned === button ? null : button;
  foil = null;
  refresh();
}

const mapsKey = (id) => [id, look.method, look.layer, look.head].join("/");
const isPlain = () => look.method === given.methods[0] && look.layer === null && look.head === null;

/** A word's map by the chosen method: null while it is being asked for, and all 0 where no patch has a share of it. */
function mapOf(button) {
  const word = wordOf.get(button);
  if (foil?.button === button) return foil.map;
  if (isPlain()) return word.map;
  const key = mapsKey(word.id);
  if (!fetched.has(key)) {
    fetched.set(key, null);
    lookUp({ what: "maps", id: word.id, method: look.method, layer: look.layer, head: look.head }).then((maps) => {
      if (!maps) fetched.delete(key);
      else fetched.set(key, maps);
      refresh();
    });
  }
  return fetched.get(key)?.[word.role][word.index] ?? null;
}

/** Ask the server about something that was said. A message becomes one on the page, and then there is null. */
async function lookUp(asked) {
  try {
    const reply = await server.look({ key: props.value.key, ...asked });
    if (!reply.message) return reply;
    showMessage(say(reply.message));
  } catch {
    showMessage(say("broken off"));
  }
  return null;
}

/** Show the map of the word that is pointed at or pinned, and say where it lies. */
function refresh() {
  const button = pointed ?? pinned;
  for (const other of findAll(".words button")) {
    other.setAttribute("aria-pressed", String(other === pinned));
    other.classList.toggle("shown", other === button);
  }
  refreshPanels();
  const canvas = find(".heat");
  const found = button && mapOf(button);
  const map = found && found.flat().some((weight) => weight > 0) ? found : null;
  canvas.hidden = !map;
  picture.classList.toggle("heated", Boolean(map) && look.style === "heat");
  find(".controls").classList.toggle("idle", !map);
  if (!map) {
    const ready = element.querySelector(".words button:enabled");
    const hint = ready ? say("choose a word") : "";
    find(".readout").textContent = found ? say("no place", { word: wordOf.get(button).text }) : button ? say("looking up") : hint;
    return;
  }
  const word = wordOf.get(button);
  find(".legend span").textContent = drawHeat(canvas, map, look.style, props.value.photo);
  const sure = word.probability === null ? "" : say("sure", { percent: percent(word.probability) });
  const place = placeOf(map);
  find(".readout").textContent =
    foil?.button === button
      ? say("read out contrast", { word: word.text, foil: foil.text, place })
      : say("read out", { word: word.text, sure, place });
  canvas.setAttribute("aria-label", say("heatmap", { word: word.text, place }));
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

/** Show the words of the pinned word's text, or of the caption, one after the other. */
function play() {
  if (playing) return stopPlaying();
  const box = pinned?.closest(".words") ?? find(".caption");
  const buttons = [...box.querySelectorAll("button:enabled")];
  let next = 0;
  const step = () => {
    if (next === buttons.length) return stopPlaying();
    pointed = null;
    pinned = buttons[next];
    next += 1;
    refresh();
  };
  find("[data-tool=play]").textContent = say("pause");
  playing = setInterval(step, STEP_MS);
  step();
}

function stopPlaying() {
  clearInterval(playing);
  playing = null;
  find("[data-tool=play]").textContent = say("play");
}

const wordAt = (target) => target.closest?.(".words button:enabled");

element.addEventListener("click", (event) => {
  const button = wordAt(event.target);
  if (!button) return;
  stopPlaying();
  pointed = null;
  choose(button);
});
element.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "mouse" || !wordAt(event.target)) return;
  pointed = wordAt(event.target);
  refresh();
});
element.addEventListener("pointerout", (event) => {
  if (event.pointerType !== "mouse" || !wordAt(event.target)) return;
  pointed = null;
  refresh();
});
element.addEventListener("focusin", (event) => {
  if (!wordAt(event.target)?.matches(":focus-visible")) return;
  pointed = wordAt(event.target);
  refresh();
});
element.addEventListener("focusout", (event) => {
  if (pointed !== event.target) return;
  pointed = null;
  refresh();
});
element.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    pinned = pointed = foil = null;
    stopPlaying();
    clearChosen();
    refresh();
  } else if (wordAt(event.target) && moveFocus(event.target, event.key)) {
    event.preventDefault();
  }
});
