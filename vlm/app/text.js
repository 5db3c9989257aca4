// Gradio calls this with (element, trigger, props, server, upload, watch): all scripts of this folder are the body of one
// function, see scripts.py. `props.value` is what `Page.view` in page.py says, `given` has what never changes.
element.innerHTML = given.template;
document.head.append(make("style", `#${element.id} { ${given.style} }`));

const find = (selector) => element.querySelector(selector);
const findAll = (selector) => [...element.querySelectorAll(selector)];

const languages = Object.keys(given.strings);
const LANGUAGE = "vlm language"; // what the browser remembers it by
let language = [localStorage.getItem(LANGUAGE), ...navigator.languages.map((tag) => tag.slice(0, 2)), "en"].find(
  (tag) => languages.includes(tag),
);

/** A text of strings.json in the language of the page; what is none of its keys is said as it is. */
function say(key, values = {}) {
  const text = given.strings[language][key] ?? given.strings.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Put all texts of the template into the language of the page. */
function translate() {
  element.lang = language;
  for (const node of findAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of findAll("[data-label]")) node.setAttribute("aria-label", say(node.dataset.label));
  for (const node of findAll("[data-hint]")) node.placeholder = say(node.dataset.hint);
  for (const node of findAll(".english")) node.hidden = language === "en";
}

function percent(share, digits = 0) {
  if (digits) {
    return `${(100 * share).toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits })} %`;
  }
  return share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`; // for each word under a pointer: quick
}

/** A new element with a text and attributes. */
function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** A file's address, from where this page is: behind a proxy the server may not know its own scheme, host and path. */
function fromHere(url) {
  return new URL(url.slice(url.indexOf("/gradio_api/") + 1), document.baseURI).href;
}
