const question = find("#vlm-question");
const askButton = find(".ask button");
const [spokenCaption, spokenAnswer] = find(".spoken").children;
let mode = "ask"; // or "check": what the box takes
let entriesShown = 0;

/** The question that a text answers; empty of a caption. */
const questionOf = (text) => joined(text.question);
const joined = (words) => words.map(({ text }) => text).join(" ").replace(/ (?=[^\p{L}\p{N}])/gu, "");

/** How far to trust a text, and why, over it; nothing of models that were not fitted to tell. */
function showVerdict(line, judgement) {
  line.hidden = !judgement;
  line.dataset.verdict = judgement?.verdict ?? "";
  line.replaceChildren();
  if (!judgement) return;
  line.append(make("strong", say(`verdict ${judgement.verdict}`)), ` ${why(judgement)}`);
}

function why({ verdict, likely, sure, guess, photo }) {
  if (!photo) return say("why photo");
  const bound = verdict === "guess" ? guess : sure;
  // Below a bound that is rounded to the same, a text would seem to have reached it.
  const digits = [0, 1].find((count) => verdict === "sure" || percent(likely, count) !== percent(bound, count)) ?? 2;
  const values = { likely: percent(likely, digits), sure: percent(sure, digits), guess: percent(guess, digits) };
  return say(verdict === "guess" ? "why guess" : "why likely", values);
}

function spoken(text, judgement) {
  return judgement ? `${text}. ${say(`verdict ${judgement.verdict}`)}` : text;
}

function wordsBox(kind, label, text, role, checked = false) {
  const box = make("div", "", { class: `${kind} words`, role: "toolbar", lang: "en", "aria-label": say(label) });
  showWords(box, text, role, checked);
  return box;
}

/** The answer and its alternatives as bars. */
function bars(candidates) {
  const list = make("dl", "", { "aria-label": say("answer bars") });
  for (const { text, confidence } of candidates) {
    const bar = make("div");
    bar.style.setProperty("--share", confidence);
    bar.append(make("dt", text || say("nothing"), { lang: "en" }), make("dd", percent(confidence)));
    list.append(bar);
  }
  return list;
}

/** How likely a text is: an answer as a whole, a caption by its words. */
function likelyOf(text) {
  if (text.question.length) return say("likely answer", { percent: percent(text.confidence) });
  const logs = text.words.map(({ probability }) => Math.log(Math.max(probability, 1e-4)));
  const mean = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
  return say("likely caption", { percent: percent(mean) });
}

function verdictLine(text) {
  const line = make("p", "", { class: "verdict" });
  showVerdict(line, text.judgement);
  return line;
}

const entryOf = {
  answer({ text, typed }) {
    const asked = wordsBox("question", "words of the question", text, "question");
    const said = wordsBox("answer", "words of the answer", text, "words");
    if (!text.text) said.textContent = say("no answer");
    drawPlaces(text.places);
    const note = typed === null ? [] : [make("p", say("typed", { question: typed }), { class: "note" })];
    const rest = [placesList(text.places), bars(text.candidates), ...sourceNodes(text)];
    return [asked, ...note, verdictLine(text), said, ...citationNodes(text), ...rest];
  },
  check({ text }) {
    const asked = questionOf(text);
    const title = asked ? say("your answer", { question: asked }) : say("your caption");
    const words = wordsBox("answer", "words of the text", text, "words", true);
    const lines = [make("p", title, { class: "asked" }), verdictLine(text), words];
    const by = (support) => text.words.filter((word) => isWord(word.text) && supportOf(word) === support);
    if (text.effect !== undefined) {
      const named = (support) => by(support).map((word) => word.text).join(", ") || say("check nothing");
      lines.push(make("p", say("check result", { supported: named("supported"), against: named("against") })));
    }
    return [...lines, make("p", likelyOf(text), { class: "note" })];
  },
  "what if"({ before, text, keep, cells, lost }) {
    const title = make("p", say(keep ? "with kept" : "with hidden"), { class: "asked" });
    const asked = questionOf(before);
    if (asked) title.append(`: ${asked}`);
    const sides = make("div", "", { class: "sides" });
    for (const [name, one] of [["before", before], ["after", text]]) {
      const side = make("div");
      const words = wordsBox("answer", "words of the answer", one, "words");
      const others = new Set((one === text ? before : text).words.map((word) => word.text));
      for (const node of words.children) node.classList.toggle("differs", !others.has(node.textContent));
      side.append(make("h3", say(name)), verdictLine(one), words, make("p", likelyOf(one), { class: "note" }));
      sides.append(side);
    }
    const times = Math.exp(Math.abs(lost));
    const change = times < 1.1 ? "as likely" : lost > 0 ? "less likely" : "more likely";
    const lines = [say(change, { times: times < 10 ? times.toFixed(1) : Math.round(times).toLocaleString(language) })];
    if (before.text === text.text) lines.unshift(say("same text"));
    return [title, thumbnailOf(cells, keep), sides, make("p", lines.join(" "), { class: "note" })];
  },
};

/** The photo in small, without the cells that were hidden. */
function thumbnailOf(cells, keep) {
  const { width, height, box } = props.value.photo;
  const [rows, columns] = grid();
  const canvas = make("canvas", "", { class: "thumbnail", "aria-hidden": "true" });
  const scale = 144 / Math.max(width, height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  const draw = () => {
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    context.fillStyle = "#808080";
    const marked = new Set(cells);
    const [left, top, right, bottom] = box;
    const [wide, high] = [((right - left) * canvas.width) / columns, ((bottom - top) * canvas.height) / rows];
    for (let cell = 0; cell < rows * columns; cell += 1) {
      if (marked.has(cell) === keep) continue;
      const [row, column] = [Math.floor(cell / columns), cell % columns];
      context.fillRect(left * canvas.width + column * wide, top * canvas.height + row * high, wide + 0.5, high + 0.5);
    }
  };
  if (photo.complete) draw();
  else photo.addEventListener("load", draw, { once: true });
  return canvas;
}

/** Show the entries of the conversation, the latest first; the last one is shown again when more is known of it. */
function showEntries(entries) {
  const list = find(".answers");
  entries.slice(Math.max(0, entriesShown - 1)).forEach((entry, i) => {
    const at = Math.max(0, entriesShown - 1) + i;
    const content = JSON.stringify(entry);
    const there = list.querySelector(`[data-entry="${at}"]`);
    if (there?.content === content) return;
    if (there) {
      updateEntry(there, entry, content);
      return;
    }
    const item = make("li", "", { "data-entry": at, class: `entry-${entry.kind.replace(" ", "-")}` });
    item.content = content;
    item.append(...entryOf[entry.kind](entry));
    list.prepend(item);
    question.value = "";
    const { text } = entry;
    const line = say("spoken answer", { text: text.text, percent: percent(text.confidence) });
    const rest = text.evidence ? ` ${citationOf(text.evidence)}` : "";
    spokenAnswer.textContent = spoken(line, text.judgement) + rest;
    if (entry.kind === "answer") pinned = item.querySelector(".answer button:enabled") ?? item.querySelector("button:enabled");
    foil = null;
  });
  entriesShown = entries.length;
}

/** An entry again, with the focus and the chosen word where they were. */
function updateEntry(item, entry, content) {
  const buttons = () => [...item.querySelectorAll("button")];
  const places = [pinned, pointed, document.activeElement].map((button) => buttons().indexOf(button));
  item.content = content;
  item.replaceChildren(...entryOf[entry.kind](entry));
  const [pin, point, focus] = places.map((place) => buttons()[place]);
  pinned = pin ?? pinned;
  pointed = point ?? pointed;
  focus?.focus();
}

for (const radio of findAll("[name=vlm-mode]")) {
  radio.addEventListener("change", () => {
    mode = radio.value;
    showMode();
  });
}

function showMode() {
  const checking = mode === "check";
  const about = checking ? "check about" : props.value.photo ? "ask about" : "ask documents";
  find("label[for=vlm-question]").textContent = say(about);
  question.placeholder = checking || props.value.photo ? say(checking ? "check hint" : "ask hint") : "";
  askButton.textContent = say(checking ? "check" : "ask");
  find(".as").hidden = !checking;
  if (!checking) return;
  const asked = props.value.answers.filter(({ kind }) => kind === "answer").map(({ text }) => questionOf(text));
  const options = [...new Set(asked)].map((text) => make("option", say("as answer", { question: text }), { value: text }));
  find(".as select").replaceChildren(make("option", say("as caption"), { value: "" }), ...options);
}

find(".ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (askButton.disabled) return;
  const metadata = find(".metadata input").checked;
  if (mode === "ask") trigger("ask", { turn: begin("answering"), question: question.value, metadata });
  else {
    const asked = find(".as select").value || null;
    trigger("check", { turn: begin("reading"), text: question.value, question: asked });
  }
});
