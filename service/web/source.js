// The side panel: a document's text around a range, the range marked and in sight.
import { getJson } from "./api.js";
import { byId, el, heading, icon, place, whole } from "./dom.js";

let opener = null;
let shown = null;
let asked = 0;

export const isOpen = () => !byId("source").hidden;

export function start() {
  byId("source-close").addEventListener("click", close);
  byId("source-copy").addEventListener("click", copy);
}

/** Open the document of a hit, citation or point at its range; the focus comes back to `from` when it is closed. */
export async function open(item, from) {
  opener = from ?? document.activeElement;
  shown = item;
  const turn = ++asked;
  byId("source").hidden = false;
  // Where the panel covers the page, nothing behind it can be reached.
  byId("main").inert = matchMedia("(max-width: 720px)").matches;
  byId("source-title").textContent = heading(item);
  byId("source-place").textContent = place(item);
  byId("source-facts").replaceChildren();
  byId("source-text").replaceChildren(el("p", { class: "small" }, "Reading…"));
  byId("source-title").focus({ preventScroll: true });
  try {
    const found = await getJson("ui/api/source", { doc_id: item.doc_id, start: item.start_char, end: item.end_char });
    if (turn === asked) draw(found);
  } catch (error) {
    if (turn === asked) byId("source-text").replaceChildren(el("p", { role: "alert" }, error.message));
  }
}

export function close() {
  if (!isOpen()) return;
  asked++;
  byId("source").hidden = true;
  byId("main").inert = false;
  if (opener?.isConnected) opener.focus({ preventScroll: true });
}

function draw(found) {
  byId("source-title").textContent = heading(found);
  const facts = [found.media, `line ${whole.format(found.line)}`, `${whole.format(found.characters)} characters`];
  facts.push(...Object.entries(found.metadata).map(([name, value]) => `${name}: ${value}`));
  byId("source-facts").replaceChildren(...facts.map((fact) => el("li", {}, fact)));
  const mark = el("mark", {}, found.cited);
  byId("source-text").classList.toggle("code", found.media.startsWith("code"));
  byId("source-text").replaceChildren(
    found.more_before ? el("p", { class: "cut" }, `… ${whole.format(found.more_before)} characters before`) : "",
    found.before,
    mark,
    found.after,
    found.more_after ? el("p", { class: "cut" }, `${whole.format(found.more_after)} characters after …`) : "",
  );
  const text = byId("source-text");
  text.scrollTop = mark.offsetTop - text.offsetTop - Math.max(24, (text.clientHeight - mark.offsetHeight) / 3);
}

async function copy() {
  const quote = byId("source-text").querySelector("mark")?.textContent ?? "";
  const use = byId("source-copy").querySelector("svg");
  try {
    await navigator.clipboard.writeText(`“${quote}”\n${place(shown)}`);
    use.replaceWith(el("span", { role: "status" }, "✓"));
  } catch {
    use.replaceWith(el("span", { role: "status", title: "The browser does not allow copying here" }, "✕"));
  }
  setTimeout(() => byId("source-copy").replaceChildren(icon("copy")), 1200);
}
