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
  const list = make("p", "", { class: "labels" });
  const labels = places.map((place) => place.label);
  for (const [i, label] of [...new Set(labels)].entries()) {
    const count = labels.filter((other) => other === label).length;
    const text = (label || say("no name")) + (count > 1 ? ` × ${count}` : "");
    list.append(make("span", text, { class: `colour-${i % 5}` }));
  }
  list.hidden = !places.length;
  return list;
}
