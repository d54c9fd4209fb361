// Elements are made here and nowhere else: text goes in as text, so nothing a document says becomes markup.

/** Make an element: `el("button", {class: "hit", type: "button", on: {click}}, "text", child)`. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    const aria = name.startsWith("aria-"); // where "false" is a value
    if (value === undefined || value === null || (value === false && !aria)) continue;
    if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true && !aria ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** An icon of the page's own sprite. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Pieces `[text, marked]` as nodes, the marked ones in <mark>. */
export function marked(pieces) {
  return pieces.map(([text, mark]) => (mark ? el("mark", {}, text) : document.createTextNode(text)));
}

export const whole = new Intl.NumberFormat("en");

/** A count with its noun: `3 passages`. */
export function count(number, noun) {
  return `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** The file and range of something found. */
export function place(item) {
  return `${item.path || item.doc_id}:${item.start_char}–${item.end_char}`;
}

/** The same as an element that keeps the range and the file's name in sight where there is little room. */
export function shortPlace(item) {
  return el(
    "span",
    { class: "place short", title: place(item) },
    el("span", { class: "path" }, el("bdi", {}, item.path || item.doc_id)),
    el("span", {}, `:${item.start_char}–${item.end_char}`),
  );
}

/** What a person would call the document. */
export function heading(item) {
  return item.title || (item.path || item.doc_id).split("/").pop();
}
