/** What an answer beside documents rests on, in a sentence. */
function citationNodes({ evidence }) {
  return evidence ? [make("p", citationOf(evidence), { class: "citation" })] : [];
}

/** What each source did for an answer beside documents. */
function sourceNodes({ evidence }) {
  if (!evidence) return [];
  const list = make("ul", "", { class: "rests-on", "aria-label": say("rests on") });
  const most = Math.max(1, ...evidence.sources.map(({ lost }) => lost));
  list.append(...evidence.sources.map((source, at) => sourceItem(source, most, at === evidence.cited)));
  return [list];
}

function citationOf({ ground, cited, sources }) {
  if (ground === "nothing" && sources.every(({ pieces }) => pieces)) return say("citation elsewhere");
  return say(`citation ${ground}`, { place: ground === "passage" ? placeName(sources[cited]) : "" });
}

function placeName({ source, page, pieces }) {
  if (!pieces) return say("photo");
  return page === null ? source : say("on page", { source, page });
}

/** The first words that were read of a passage, which tell it from others of its page. */
function beginning({ pieces }) {
  const read = pieces.map(([, light]) => light !== null);
  const texts = pieces.slice(read.indexOf(true), read.lastIndexOf(true) + 1).map(([text]) => text);
  const words = texts.join("").split(/\s+/u);
  return words.length > 5 ? `${words.slice(0, 5).join(" ")} …` : words.join(" ");
}

/** A source with its bars; a passage unfolds to its text, and the cited one is open. */
function sourceItem(source, most, isCited) {
  const item = make("li", "", isCited ? { class: "cited" } : {});
  const head = make(source.pieces ? "summary" : "div", "", { class: "use" });
  const times = Math.exp(source.lost);
  const factor = times < 10 ? times.toFixed(1) : times < 1000 ? Math.round(times).toLocaleString(language) : `> ${(1000).toLocaleString(language)}`;
  head.append(
    make("span", placeName(source), { class: "place-name" }),
    ...(source.pieces ? [" ", make("q", beginning(source), { lang: "" })] : []),
    bar(say("attention share", { percent: percent(source.share) }), source.share),
    bar(times < 1.05 ? say("no loss") : say("loss", { times: factor }), source.lost / most),
  );
  if (!source.pieces) {
    item.append(head);
    return item;
  }
  const passage = make("blockquote", "", { lang: "", title: say("passage light") });
  for (const [text, light] of source.pieces) {
    if (light === null) passage.append(text);
    else {
      const word = make("mark", text);
      word.style.setProperty("--light", light);
      passage.append(word);
    }
  }
  const details = make("details");
  details.open = isCited;
  details.append(head, passage);
  item.append(details);
  return item;
}

function bar(label, share) {
  const node = make("span", label, { class: "share" });
  node.style.setProperty("--share", share);
  return node;
}
