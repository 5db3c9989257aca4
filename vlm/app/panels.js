let openPanel = null; // the name of the panel that is unfolded
let panelFor = ""; // what it shows: asked for again only when that changes

for (const button of findAll("[data-panel]")) {
  const { panel } = button.dataset;
  button.setAttribute("aria-controls", `vlm-panel-${panel}`);
  button.addEventListener("click", () => {
    openPanel = openPanel === panel ? null : panel;
    for (const other of findAll("[data-panel]")) {
      other.setAttribute("aria-expanded", String(other.dataset.panel === openPanel));
      find(`#vlm-panel-${other.dataset.panel}`).hidden = other.dataset.panel !== openPanel;
    }
    panelFor = "";
    refreshPanels();
  });
}

/** Fill the open panel about the pinned word, where it needs one. */
function refreshPanels() {
  const fill = { instead: fillInstead, inside: fillInside }[openPanel];
  if (!fill) return;
  const word = pinned && wordOf.get(pinned);
  const lead = find(`#vlm-panel-${openPanel} .lead`);
  if (!word || word.role === "question") {
    panelFor = "";
    lead.textContent = say("pick a word");
    find(".panel ol").replaceChildren();
    find(".steps").replaceChildren();
    find(".elsewhere").textContent = "";
    return;
  }
  const [layer, head] = [find("#vlm-panel-inside .layer").value, find("#vlm-panel-inside .head").value];
  const wanted = [openPanel, word.id, word.index, ...(openPanel === "inside" ? [layer, head] : [])].join("/");
  if (wanted === panelFor) return;
  panelFor = wanted;
  fill(pinned, word, lead, () => panelFor === wanted);
}

async function fillInstead(button, word, lead, isWanted) {
  lead.textContent = say("looking up");
  const found = await lookUp({ what: "instead", id: word.id, word: word.index });
  if (!found || !isWanted()) return;
  lead.textContent = say("instead of", { word: word.text });
  const items = found.words.map(({ text, probability }) => {
    const item = make("li");
    const bar = make("span", "", { class: "bar" });
    bar.style.setProperty("--share", probability);
    item.append(make("span", text || say("ends"), { class: "other", lang: "en" }), bar, make("span", percent(probability)));
    const own = text === word.text;
    item.classList.toggle("own", own);
    if (text && !own) {
      const why = make("button", say("why not", { word: text }), { type: "button", "aria-pressed": "false" });
      why.addEventListener("click", () => whyNot(button, word, text, why));
      item.append(why);
    }
    return item;
  });
  find("#vlm-panel-instead ol").replaceChildren(...items);
}

/** Show what speaks for a word and not for another. */
async function whyNot(button, word, text, why) {
  const others = why.closest("ol").querySelectorAll("button");
  if (foil?.text === text) {
    foil = null;
  } else {
    const maps = await lookUp({ what: "maps", id: word.id, method: "contrast", foil: text });
    if (!maps || pinned !== button) return;
    foil = { button, text, map: maps.words[word.index] };
  }
  for (const other of others) other.setAttribute("aria-pressed", String(foil !== null && other === why));
  pointed = null;
  refresh();
}

async function fillInside(button, word, lead, isWanted) {
  lead.textContent = say("looking up");
  const layer = Number(find("#vlm-panel-inside .layer").value);
  const head = Number(find("#vlm-panel-inside .head").value);
  const found = await lookUp({ what: "inside", id: word.id, word: word.index, layer, head });
  if (!isWanted()) return;
  find(".elsewhere").textContent = "";
  find(".steps").replaceChildren();
  lead.textContent = found ? say("inside of", { layer: layer + 1, head: head + 1, token: found.token }) : "";
  if (!found) return;
  for (const [index, name] of ["scores", "weights", "added"].entries()) {
    if (index) find(".steps").append(make("span", "→", { class: "arrow", "aria-hidden": "true" }));
    find(".steps").append(stepPicture(name, found[name]));
  }
  const shares = Object.entries(found.elsewhere).map(([key, share]) => `${say(`segment ${key}`)} ${percent(share)}`);
  if (shares.length) find(".elsewhere").textContent = say("elsewhere", { shares: shares.join(", ") });
}

/** One step of attention as a small picture (h, w), with the number under the mouse. */
function stepPicture(name, values) {
  const figure = make("figure", "", { class: "step" });
  const canvas = make("canvas", "", { role: "img" });
  const number = make("output", say(`${name} hint`));
  const [rows, columns] = [values.length, values[0].length];
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.aspectRatio = props.value.photo.width / props.value.photo.height;
  const known = values.flat().filter((value) => value !== null);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const low = name === "scores" ? least : 0;
  const image = new ImageData(columns, rows);
  values.flat().forEach((value, i) => {
    if (value === null) return;
    const level = most > low ? (value - low) / (most - low) : 0;
    const [red, green, blue] = given.colours[Math.round(255 * level)];
    image.data.set([red, green, blue, 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const best = values.flat().indexOf(most);
  const shown = (value) => (value === null ? "−∞" : Number(value.toPrecision(3)).toString());
  const at = (row, column) =>
    say("at cell", { row: row + 1, column: column + 1, value: shown(values[row][column]) });
  canvas.setAttribute("aria-label", `${say(name)}: ${at(Math.floor(best / columns), best % columns)}`);
  canvas.addEventListener("pointermove", (event) => {
    const frame = canvas.getBoundingClientRect();
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - frame.top) / frame.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - frame.left) / frame.width) * columns)));
    number.textContent = at(row, column);
  });
  canvas.addEventListener("pointerleave", () => {
    number.textContent = say(`${name} hint`);
  });
  const range = make("span", `${shown(low)} … ${shown(most)}`, { class: "range" });
  figure.append(make("figcaption", say(name)), canvas, range, number);
  return figure;
}

/** Options of a list that count from 1 what the server counts from 0. */
function numbered(count, first = []) {
  return [...first, ...Array.from({ length: count }, (_, i) => make("option", String(i + 1), { value: i }))];
}

function fillChoices() {
  const { layers, heads, alignment } = given.heads;
  const any = () => make("option", say(alignment.length ? "all" : "every"), { value: "" });
  for (const panel of ["inside", "more"]) {
    const first = () => (panel === "more" ? [any()] : []);
    find(`#vlm-panel-${panel} .layer`).replaceChildren(...numbered(layers, first()));
    find(`#vlm-panel-${panel} .head`).replaceChildren(...numbered(heads, first()));
  }
  const [layer, head] = alignment.at(-1) ?? [layers - 1, 0];
  find("#vlm-panel-inside .layer").value = layer;
  find("#vlm-panel-inside .head").value = head;
  find(".method").replaceChildren(...given.methods.map((name) => make("option", say(name), { value: name })));
  find(".language").replaceChildren(
    ...languages.map((tag) => make("option", given.strings[tag].name, { value: tag, lang: tag })),
  );
  find(".language").value = language;
  showMethod();
}

const WITH_HEADS = new Set(["logit", "attention", "value", "context"]);

function showMethod() {
  const more = find("#vlm-panel-more");
  find(".method").value = look.method;
  more.querySelector(".layer").value = look.layer ?? "";
  more.querySelector(".head").value = look.head ?? "";
  more.querySelector(".style").value = look.style;
  for (const list of more.querySelectorAll(".layer, .head")) list.disabled = !WITH_HEADS.has(look.method);
  find(".explained").textContent = say(`about ${look.method}`);
}

find("#vlm-panel-more").addEventListener("change", (event) => {
  const number = (list) => (list.value === "" || list.disabled ? null : Number(list.value));
  const more = find("#vlm-panel-more");
  if (event.target.matches(".language")) {
    language = event.target.value;
    localStorage.setItem(LANGUAGE, language);
    document.dispatchEvent(new CustomEvent("vlm-language", { detail: language })); // for the other tabs
    retell();
    return;
  }
  look.method = find(".method").value;
  for (const list of more.querySelectorAll(".layer, .head")) list.disabled = !WITH_HEADS.has(look.method);
  Object.assign(look, { layer: number(more.querySelector(".layer")), head: number(more.querySelector(".head")) });
  look.style = more.querySelector("select.style").value;
  showMethod();
  refresh();
});
find("#vlm-panel-inside").addEventListener("change", refreshPanels);

const heat = find(".opacity input");
const setHeat = () => picture.style.setProperty("--heat", heat.value / 100);
heat.addEventListener("input", setHeat);
