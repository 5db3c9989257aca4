// `props.value` is what `FolderPage.view` says; this file only shows it.
const UPLOADS = 4; // files on their way at a time

let version = -1; // of what is shown; an older view that comes late is let go
let page = 0;
const chosen = new Set(); // ids of rows
const rows = new Map(); // id -> its parts

const show = (selector, wanted) => (find(selector).hidden = !wanted);

function showMessage(text) {
  find(".message").textContent = text;
  show(".message", text);
}

/** Send files to the server, and then say what they are called below their folder. */
async function bring(files) {
  showMessage("");
  const waiting = files.map((file) => [file, file.webkitRelativePath || file.fullPath || file.name]);
  const brought = [];
  let failed = "";
  const total = waiting.length;
  const send = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [file, name] = next;
      try {
        const { path } = await upload(file);
        brought.push({ path, name });
      } catch (error) {
        failed = say("did not arrive", { name, reason: error.message ?? error });
      }
      find(".told").textContent = say("arriving", { done: brought.length, total });
    }
  };
  await Promise.all(Array.from({ length: UPLOADS }, send));
  if (failed) showMessage(failed);
  if (brought.length) trigger("bring", { files: brought });
}

/** All files of what was dropped, in folders, too. */
async function dropped(transfer) {
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((done, fail) => entry.file(done, fail));
      file.fullPath = entry.fullPath.slice(1);
      found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return;
      for (const one of some) await walk(one);
    }
  };
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  for (const entry of entries) await walk(entry);
  return found;
}

for (const input of element.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", async () => {
    await bring([...input.files]);
    input.value = "";
  });
}
element.addEventListener("dragover", (event) => {
  event.preventDefault();
  element.classList.add("over");
});
element.addEventListener("dragleave", () => element.classList.remove("over"));
element.addEventListener("drop", async (event) => {
  event.preventDefault();
  event.stopPropagation();
  element.classList.remove("over");
  await bring(await dropped(event.dataTransfer));
});

const values = (form) => {
  const data = new FormData(find(form));
  return (name) => data.get(name) ?? "";
};
const all = (form, name) => new FormData(find(form)).getAll(name);
const number = (text, otherwise) => (text === "" ? otherwise : Number(text));

function describe(ids) {
  const value = values(".describe");
  showMessage("");
  trigger("describe", { rows: ids, captions: number(value("captions"), 1), chance: value("chance") === "on" });
}

function query(at) {
  const value = values(".query");
  const longest = number(value("longest"), null);
  const asked = {
    text: value("text"),
    shortest: number(value("shortest"), 0),
    ...(longest === null ? {} : { longest }),
    least: number(value("least"), 0) / 100,
    most: number(value("most"), 100) / 100,
    verdicts: all(".query", "verdicts"),
    order: value("order"),
    descending: value("descending") === "on",
  };
  showMessage("");
  trigger("query", { query: asked, page: at });
}

function replacing(event) {
  const value = values(".replace");
  showMessage("");
  trigger(event, { find: value("find"), by: value("by"), regular: value("regular") === "on" });
}

function write(example) {
  const value = values(".write");
  const words = { prefix: value("prefix"), suffix: value("suffix"), trigger: value("trigger") };
  showMessage("");
  show(".file", false);
  trigger("write", { ...words, kinds: all(".write", "kinds"), existing: value("existing"), example });
}

const onSubmit = (form, act) =>
  find(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
const onClick = (selector, act) => find(selector).addEventListener("click", act);
onSubmit(".describe", () => describe([]));
onSubmit(".replace", () => replacing("preview"));
onSubmit(".write", () => write(false));
onSubmit(".query", () => query(0));
onClick(".apply", () => replacing("replace"));
onClick(".halt", () => trigger("halt", {}));
onClick(".undo", () => trigger("undo", {}));
onClick(".rerun", () => describe([...chosen]));
onClick(".back", () => query(page - 1));
onClick(".forth", () => query(page + 1));
onClick(".empty", () => {
  if (!window.confirm(say("let go?"))) return;
  chosen.clear();
  trigger("empty", {});
});
find(".query").addEventListener("change", () => query(0));
for (const name of ["prefix", "suffix", "trigger"]) {
  find(`.write [name=${name}]`).addEventListener("change", () => write(true));
}
onClick(".all", () => {
  for (const [id, { box }] of rows) choose(id, (box.checked = find(".all").checked));
});

function choose(id, wanted) {
  if (wanted) chosen.add(id);
  else chosen.delete(id);
  find(".rerun").disabled = chosen.size === 0;
  find(".rerun").textContent = chosen.size ? say("rerun some", { count: chosen.size }) : say("rerun");
}

/** A row's parts, made once; they keep the focus when a later view comes. */
function newRow(id) {
  const line = make("tr");
  const [pick, photo, words, trust] = Array.from({ length: 4 }, () => line.appendChild(make("td")));
  const box = pick.appendChild(make("input", "", { type: "checkbox" }));
  const image = photo.appendChild(make("img", "", { alt: "", loading: "lazy" }));
  const name = photo.appendChild(make("small"));
  const text = words.appendChild(make("textarea", "", { rows: 2, lang: "en" }));
  const others = words.appendChild(make("small", "", { class: "others" }));
  box.addEventListener("change", () => choose(id, box.checked));
  text.addEventListener("change", () => {
    showMessage("");
    trigger("edit", { row: id, caption: text.value });
  });
  return { line, box, image, name, text, others, trust };
}

function showRow(row) {
  if (!rows.has(row.id)) rows.set(row.id, newRow(row.id));
  const { line, box, image, name, text, others, trust } = rows.get(row.id);
  line.className = row.edited ? "edited" : "";
  box.checked = chosen.has(row.id);
  box.setAttribute("aria-label", say("choose row", { name: row.name }));
  if (image.getAttribute("src") !== row.thumbnail) image.setAttribute("src", row.thumbnail);
  image.hidden = row.thumbnail === "";
  name.textContent = row.name;
  text.setAttribute("aria-label", say("caption of", { name: row.name }));
  if (document.activeElement !== text) text.value = row.caption;
  text.hidden = row.confidence === null;
  others.textContent = row.problem ?? row.others.map((text) => say("or other", { text })).join("; ");
  const share = row.confidence === null ? "" : say("word share", { percent: percent(row.confidence) });
  const verdict = row.verdict && say(`${row.verdict} alone`);
  trust.textContent = [share, verdict, row.edited && say("edited")].filter(Boolean).join(", ");
  trust.className = row.verdict === "guess" ? "guess" : "";
  return line;
}

function inWords(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return say("seconds left", { count: Math.max(1, seconds) });
  return say("minutes left", { count: Math.round(seconds / 60) });
}

function showView(view) {
  if (!view || view.version <= version) return;
  version = view.version;
  page = view.page;
  if (view.message) showMessage(say(view.message));
  if (view.told.length) find(".told").textContent = view.told.map(([key, values]) => say(key, values)).join(" ");
  show(".work", view.total > 0);
  show(".empty", view.total > 0);

  const running = view.progress !== null;
  const { done = 0, of = 1, left = null } = view.progress ?? {};
  Object.assign(find("progress"), { value: done, max: of });
  show("progress", running);
  show(".halt", running);
  show(".describe .primary", !running);
  find(".left").textContent = running
    ? [say("done of", { done, total: of }), inWords(left)].filter(Boolean).join(", ")
    : "";

  show(".problems", view.failed > 0);
  find(".problems summary").textContent = say("failed", { count: view.failed });
  find(".problems ul").replaceChildren(...view.problems.map((text) => make("li", text)));

  const shown = new Set(view.rows.map(({ id }) => id));
  for (const id of rows.keys()) if (!shown.has(id)) rows.delete(id);
  const lines = view.rows.map(showRow);
  const body = find("tbody");
  // Rows that stand where they stood are left alone: moving one would take the focus from it.
  if (lines.length !== body.children.length || lines.some((line, i) => body.children[i] !== line)) {
    body.replaceChildren(...lines);
  }

  const { found, total, captioned, edited } = view;
  const counts = [say("counts", { found, total, captioned }), edited && say("edited count", { count: edited })];
  find(".count").textContent = counts.filter(Boolean).join(", ");
  find(".undo").disabled = !view.undo;
  choose(-1, false);
  find(".place").textContent = say("page of", { page: view.page + 1, pages: view.pages });
  find(".back").disabled = view.page === 0;
  find(".forth").disabled = view.page + 1 >= view.pages;
  show(".pages", view.pages > 1);

  const preview = view.preview.map(({ name, before, after }) => {
    const item = make("li");
    item.append(`${name}: `, make("del", before), " ", make("ins", after));
    return item;
  });
  if (view.changes > preview.length) preview.push(make("li", say("and more", { count: view.changes - preview.length })));
  find(".preview").replaceChildren(...preview);
  find(".example").textContent = view.example ? say("first reads", { text: view.example }) : "";

  if (view.file) {
    const link = find(".file");
    link.href = fromHere(view.file.url);
    link.download = view.file.orig_name;
    link.textContent = say("download", { name: view.file.orig_name });
    link.hidden = false;
  }
}

/** Say everything in the language of the page. */
function retell() {
  translate();
  find(".fields").textContent = say("fields hint", { name: "{name}", folder: "{folder}" });
  find(".told").textContent = "";
  choose(-1, false);
  version = Math.min(version, props.value.version - 1);
  showView(props.value);
}

retell();
document.addEventListener("vlm-language", (event) => {
  language = event.detail;
  retell();
});
watch("value", () => showView(props.value));
