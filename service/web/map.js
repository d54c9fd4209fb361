// The map: every passage a point, near where passages like it are; colours are folders.
import { getJson } from "./api.js";
import { Chart } from "./canvas.js";
import { byId, count, el, heading, whole } from "./dom.js";
import { lastHits } from "./search.js";
import { open } from "./source.js";

const COLORS = 12;
let status = null;
let chart = null;
let map = null;
let method = "pca";
let loaded = ""; // store, version and method of what is shown
let busy = "";

export function setStatus(now) {
  status = now;
  if (!byId("view-map").hidden) show();
}

export const redraw = () => chart?.draw();

export function start() {
  const swatches = Array.from({ length: COLORS }, (_, at) => el("i", { data: { color: at } }));
  byId("chart").append(el("span", { class: "swatches", "aria-hidden": true }, ...swatches));
  chart = new Chart(byId("canvas"), { point: tip, open: (i) => open(item(i), byId("canvas")) });
  for (const button of document.querySelectorAll("[data-method]")) {
    button.addEventListener("click", () => ((method = button.dataset.method), show()));
  }
  byId("zoom-in").addEventListener("click", () => chart.zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => chart.zoomBy(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => chart.fit());
}

export async function show() {
  for (const button of document.querySelectorAll("[data-method]")) button.setAttribute("aria-pressed", button.dataset.method === method);
  if (!status?.info) return say(status ? "This server has no store to show." : "");
  const wanted = `${status.store} ${status.info.version} ${method}`;
  if (wanted === loaded) return ring();
  if (wanted === busy) return;
  busy = wanted;
  say(method === "tsne" ? "Finding neighbours… this takes a while the first time." : "Drawing the map…");
  try {
    const found = await getJson("ui/api/map", { method });
    if (busy !== wanted) return;
    map = found;
    loaded = wanted;
    draw();
  } catch (error) {
    if (busy === wanted) say(error.message);
    if (busy === wanted && error.status === 504) setTimeout(() => byId("view-map").hidden || show(), 2000);
  }
  if (busy === wanted) busy = "";
}

function say(text) {
  byId("map-state").textContent = text;
  byId("map-state").hidden = !text;
}

function draw() {
  say(map.x.length ? "" : "There is nothing to show yet: index some documents.");
  const group = map.doc.map((doc) => map.docs[doc].group);
  chart.show({ x: map.x, y: map.y, group }, map.labels.map((point, at) => ({ point, text: short(map.groups[at]), group: at })).filter(({ point }) => point >= 0));
  const sizes = map.groups.map((_, at) => group.filter((own) => own === at).length);
  byId("legend").replaceChildren(...map.groups.map((name, at) => el("li", {}, entry(short(name), at, sizes[at]))));
  const drawn = map.x.length < map.total ? `${whole.format(map.x.length)} of ${count(map.total, "passage")}, drawn evenly` : count(map.total, "passage");
  byId("map-note").replaceChildren(`${drawn}; ${map.explained}`, el("span", { id: "ringed" }));
  ring();
}

function entry(name, at, size) {
  const button = el("button", { type: "button", "aria-pressed": true }, el("i", { data: { color: at % COLORS } }), name, el("span", { class: "small" }, whole.format(size)));
  button.addEventListener("click", () => {
    const on = chart.hidden.has(at);
    if (on) chart.hidden.delete(at);
    else chart.hidden.add(at);
    button.setAttribute("aria-pressed", on);
    chart.draw();
  });
  return button;
}

const short = (name) => (name.length > 24 ? `${name.slice(0, 23)}…` : name);

/** Number the last search's hits on the map. */
function ring() {
  const { query, mode, hits } = lastHits();
  const ranks = new Map(hits.map((hit) => [`${hit.doc_id}\n${hit.ordinal}`, hit.rank]));
  chart.hits = new Map();
  if (ranks.size) {
    map.doc.forEach((doc, i) => {
      const rank = ranks.get(`${map.docs[doc].doc_id}\n${map.ordinal[i]}`);
      if (rank) chart.hits.set(i, rank);
    });
  }
  const ringed = byId("ringed");
  if (ringed) ringed.textContent = chart.hits.size ? `. Numbered: what ${mode} search found for “${query}”.` : "";
  chart.draw();
}

function item(i) {
  return { ...map.docs[map.doc[i]], start_char: map.start[i], end_char: map.end[i] };
}

function tip(i) {
  const box = byId("tip");
  if (i < 0) return (box.hidden = true);
  box.replaceChildren(el("b", {}, heading(item(i))), el("span", {}, map.text[i]));
  box.hidden = false;
  const [x, y] = chart.screen(i);
  const { clientWidth: w, clientHeight: h } = byId("canvas");
  box.style.left = `${Math.max(8, Math.min(w - box.offsetWidth - 8, x + 14))}px`;
  box.style.top = `${y + box.offsetHeight + 20 > h ? Math.max(8, y - box.offsetHeight - 14) : y + 14}px`;
}
