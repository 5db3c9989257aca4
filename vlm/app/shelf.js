const shelf = find(".shelf");
let known = false; // whether the server has told this page its key, which it does with the first reply
let waiting = []; // documents that came before

shelf.hidden = !given.documentKinds.length;
find(".metadata").hidden = !given.readsMetadata;
find(".documents").accept = given.documentKinds.join();

const isDocument = ({ name }) => given.documentKinds.some((kind) => name.toLowerCase().endsWith(kind));

/** Put files on the shelf. */
async function bring(files) {
  const names = files.map(({ name }) => name);
  find(".shelf .state").textContent = say("reading documents", { names: names.join(", ") });
  if (!known) {
    waiting.push(...files);
    if (!busy) enter(); // a photo that is on its way brings the key, too
    return;
  }
  const uploads = await Promise.allSettled(files.map((file) => upload(file)));
  const sent = uploads.flatMap(({ value }, i) => (value ? [{ path: value.path, name: names[i] }] : []));
  const unsent = names.filter((_, i) => !uploads[i].value).map((name) => say("not sent", { name }));
  await changeShelf({ files: sent }, unsent);
}

/** Ask for nothing but the page's key. */
const enter = () => trigger("enter", { turn: begin(null) });

function beKnown() {
  known = true;
  if (!waiting.length) return;
  const files = waiting;
  waiting = [];
  bring(files);
}

async function changeShelf(asked, problems = []) {
  let reply;
  try {
    reply = await server.shelve({ key: props.value.key, ...asked });
  } catch {
    reply = { message: "broken off" };
  }
  if (reply.message) showProblems([...problems, say(reply.message)]);
  else {
    showShelf(reply.documents);
    showProblems([...problems, ...reply.problems]);
  }
}

function showProblems(problems) {
  find(".shelf .problems").replaceChildren(...problems.map((problem) => make("li", problem)));
}

let shelved = [];

function showShelf(documents) {
  shelved = documents;
  const passages = documents.reduce((sum, document) => sum + document.passages, 0);
  const state = documents.length ? say("documents on shelf", { documents: documents.length, passages }) : "";
  find(".shelf .state").textContent = state || say("documents hint");
  element.classList.toggle("has-documents", documents.length > 0);
  find(".shelf .volumes").replaceChildren(...documents.map(documentItem));
}

function documentItem({ name, passages }) {
  const item = make("li");
  const remove = make("button", say("remove"), { type: "button", "aria-label": say("remove document", { name }) });
  remove.addEventListener("click", async () => {
    remove.disabled = true;
    await changeShelf({ remove: name });
    find(".documents").focus(); // the button that had the focus is gone
  });
  const count = passages === 1 ? say("passage in") : say("passages in", { count: passages.toLocaleString(language) });
  item.append(make("span", name, { class: "document-name" }), make("span", count, { class: "count" }), remove);
  return item;
}

find(".documents").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same file can be chosen again
  if (files.length) bring(files);
});
