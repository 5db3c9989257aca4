const form = find(".settings");
let current = null; // { key, photo } of the first tab
let sides = []; // what the server said of each
let buttons = [[], []]; // the words of each side
let asked = 0; // counts comparisons: a reply to an earlier one is stale

/** Pairs of places in two lists of words: the longest that both have in the same order. */
function aligned(one, other) {
  const longest = one.map(() => other.map(() => 0));
  const at = (i, j) => longest[i]?.[j] ?? 0;
  for (let i = one.length - 1; i >= 0; i -= 1)
    for (let j = other.length - 1; j >= 0; j -= 1)
      longest[i][j] = one[i] === other[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  const pairs = [];
  for (let [i, j] = [0, 0]; i < one.length && j < other.length; ) {
    if (one[i] === other[j]) pairs.push([i++, j++]);
    else if (at(i + 1, j) >= at(i, j + 1)) i += 1;
    else j += 1;
  }
  return pairs;
}

function showSides() {
  const pairs = aligned(...sides.map(({ text }) => text.words.map((word) => word.text)));
  const same = pairs.length;
  const most = Math.max(...sides.map(({ text }) => text.words.length));
  find(".summary").textContent = same === most ? say("all same") : say("some same", { same, most });
  buttons = [[], []];
  find(".both").replaceChildren(...sides.map((side, s) => sideOf(side, s, new Set(pairs.map((pair) => pair[s])))));
  for (const [i, j] of pairs) {
    buttons[0][i].partner = buttons[1][j];
    buttons[1][j].partner = buttons[0][i];
  }
}

function sideOf({ text, model, beams, method }, s, shared) {
  const name = [model || say("own model"), say("n beams", { beams }), say(method)].join(", ");
  const figure = make("figure");
  const image = make("img", "", { src: fromHere(current.photo.file.url), alt: current.photo.name });
  figure.style.setProperty("--ratio", current.photo.width / current.photo.height);
  figure.append(image, make("canvas", "", { role: "img", hidden: "" }));
  const words = make("div", "", { class: "words", lang: "en" });
  text.words.forEach((word, i) => {
    const label = say("word label", { word: word.text, percent: percent(word.probability) });
    const button = make("button", word.text, { type: "button", "aria-pressed": "false", "aria-label": label });
    if (!shared.has(i)) {
      button.classList.add("differs");
      button.setAttribute("aria-label", `${label}, ${say("only here")}`);
    }
    button.addEventListener("click", () => showWord(button));
    button.word = { ...word, side: s };
    buttons[s].push(button);
    words.append(button);
  });
  const side = make("section", "", { class: "side", "aria-label": name });
  const verdict = text.judgement ? say(`verdict ${text.judgement.verdict}`) : "";
  const candidates = text.question.length
    ? text.candidates.map((other) => `${other.text || say("nothing")} ${percent(other.confidence)}`).join(", ")
    : "";
  side.append(make("h2", name), figure, words, make("p", "", { class: "note where" }));
  side.append(make("p", [verdict, candidates].filter(Boolean).join(" "), { class: "note" }));
  return side;
}

/** Show a word's map, and on the other side that of the same word. */
function showWord(button) {
  const shown = [button, button.partner ?? null];
  for (const [s, section] of findAll(".side").entries()) {
    const own = shown.find((one) => one?.word.side === s) ?? null;
    for (const other of buttons[s]) other.setAttribute("aria-pressed", String(other === own));
    const canvas = section.querySelector("canvas");
    canvas.hidden = !own;
    section.querySelector("figure").classList.toggle("heated", Boolean(own));
    const where = section.querySelector(".where");
    where.textContent = own ? "" : say("not here", { word: button.word.text });
    if (!own) continue;
    drawHeat(canvas, own.word.map, "heat", sides[s]);
    const place = placeOf(own.word.map);
    canvas.setAttribute("aria-label", say("heatmap", { word: own.word.text, place }));
    const sure = say("sure", { percent: percent(own.word.probability) });
    where.textContent = say("read out", { word: own.word.text, sure, place });
  }
  const maps = shown.map((one) => one?.word.map.flat());
  if (maps[0] && maps[1]?.length === maps[0].length) {
    const overlap = maps[0].reduce((sum, weight, i) => sum + Math.min(weight, maps[1][i]), 0);
    find(".summary").textContent = say("overlap", { word: button.word.text, percent: percent(overlap) });
  }
}

function showMessage(key) {
  find(".message").hidden = !key;
  find(".message").textContent = key ? say(key) : "";
}

const setting = (side, name) => find(`[data-side="${side}"] [name=${name}]`);

const wantedSides = () =>
  [0, 1].map((side) => ({
    model: setting(side, "model").value,
    beams: Number(setting(side, "beams").value),
    method: setting(side, "method").value,
  }));

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = ++asked;
  showMessage(null);
  find(".summary").textContent = say("looking up");
  const wanted = wantedSides();
  let reply = { message: "broken off" };
  try {
    reply = await server.compare({ key: current.key, sides: wanted, question: form.elements.question.value });
  } catch (error) {
    console.warn(error);
  }
  if (mine !== asked) return;
  find(".summary").textContent = "";
  showMessage(reply.message);
  if (reply.message) return;
  sides = reply.sides.map((side, s) => ({ ...side, ...wanted[s] }));
  showSides();
});

/** Take up the photo of the first tab. */
function takePhoto() {
  current = document.vlmPhoto;
  asked += 1;
  sides = [];
  find(".both").replaceChildren();
  find(".summary").textContent = "";
  find(".hint").textContent = say("compare about", { name: current.photo.name });
  find(".asking button").disabled = false;
}

/** Say everything in the language of the page. */
function retell() {
  translate();
  for (const side of [0, 1])
    for (const name of ["model", "method"])
      for (const option of setting(side, name).options) option.textContent = say(option.value || "own model");
  if (current) find(".hint").textContent = say("compare about", { name: current.photo.name });
  if (sides.length) showSides();
}

for (const side of [0, 1]) {
  setting(side, "model").replaceChildren(...given.models.map((name) => make("option", name || say("own model"), { value: name })));
  setting(side, "method").replaceChildren(...given.methods.map((name) => make("option", say(name), { value: name })));
}
if (given.models.length > 1) {
  setting(1, "model").value = given.models[1];
  setting(1, "beams").value = 3;
}
retell();
document.addEventListener("vlm-language", (event) => {
  language = event.detail;
  retell();
});
if (document.vlmPhoto) takePhoto();
document.addEventListener("vlm-photo", takePhoto);
