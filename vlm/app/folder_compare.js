const folder = find(".folder");
const within = (selector) => folder.querySelector(selector);
let agreeing = 0; // counts comparisons on the folder; a view of an earlier one is let go

function showAgreement(view) {
  if (!view || view.turn !== agreeing) return;
  const running = view.of !== undefined;
  within(".halt").hidden = within("progress").hidden = !running;
  within(".agree").disabled = running;
  within(".done").textContent = running ? say("done of", { done: view.done, total: view.of }) : "";
  if (running) Object.assign(within("progress"), { value: view.done, max: view.of });
  within(".message").hidden = !view.message;
  within(".message").textContent = view.message ? say(view.message) : "";
  if (!view.rows) return;
  const { compared: done, same } = view;
  const sum = done ? say("agreement sum", { done, same, percent: percent(view.share) }) : "";
  const failed = view.failed ? say("unreadable", { count: view.failed }) : "";
  within(".summary").textContent = [sum, failed].filter(Boolean).join(" ");
  within("tbody").replaceChildren(...view.rows.map(agreementRow));
  within(".table").hidden = view.rows.length === 0;
  within(".file").href = fromHere(view.file.url);
  within(".file").download = view.file.orig_name;
  within(".file").hidden = view.rows.length === 0;
}

function agreementRow({ name, thumbnail, texts, share }) {
  const row = make("tr");
  const photo = make("td");
  photo.append(make("img", "", { src: thumbnail, alt: "" }), make("small", name));
  const words = texts.map((text) => text.split(" "));
  const pairs = aligned(...words);
  const cells = words.map((side, s) => {
    const shared = new Set(pairs.map((pair) => pair[s]));
    const cell = make("td", "", { lang: "en" });
    side.forEach((word, i) => cell.append(shared.has(i) ? word : make("mark", word), " "));
    return cell;
  });
  row.append(photo, ...cells, make("td", percent(share)));
  return row;
}

within(".agree").addEventListener("click", () => {
  agreeing += 1;
  within(".table").hidden = within(".file").hidden = true;
  within(".summary").textContent = "";
  showAgreement({ turn: agreeing, done: 0, of: 1 });
  within(".done").textContent = "";
  trigger("agree", { turn: agreeing, sides: wantedSides(), question: form.elements.question.value });
});
within(".halt").addEventListener("click", () => trigger("halt", {}));
watch("value", () => showAgreement(props.value));
