// Search: every mode in a column of its own, and the terms of the query.
import { postJson } from "./api.js";
import { byId, count, el, heading, marked, shortPlace } from "./dom.js";
import { open } from "./source.js";

const ABOUT = {
  hybrid: "all of them, fused",
  dense: "by meaning",
  sparse: "by learned terms",
  lexical: "by words, BM25",
};
const ORDER = Object.keys(ABOUT);

let status = null;
let current = null; // what is shown: {key, abort, results}
let chosen = "hybrid"; // the column that a narrow screen shows
let latest = { query: "", mode: "", hits: [] };

/** The last search's best hits, for the map. */
export const lastHits = () => latest;

export function setStatus(now) {
  status = now;
  current = null;
}

export function start() {
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams({ q: byId("query").value.trim() });
    if (byId("k").value !== "10" && byId("k").value) wanted.set("k", byId("k").value);
    if (byId("filter").value.trim()) wanted.set("filter", byId("filter").value.trim());
    const address = `#/search?${wanted}`;
    if (location.hash === address) current = null;
    if (location.hash === address) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = address;
  });
}

export function show(parameters) {
  const query = parameters.get("q") ?? "";
  byId("query").value = query;
  byId("k").value = parameters.get("k") ?? "10";
  byId("filter").value = parameters.get("filter") ?? "";
  byId("more").open = parameters.has("filter") || parameters.has("k") || byId("more").open;
  byId("view-search").toggleAttribute("data-start", !query);
  if (!query) {
    clear();
    if (matchMedia("(hover: hover)").matches) byId("query").focus();
    return;
  }
  const key = parameters.toString();
  if (!status?.info || current?.key === key) return;
  run(key, { query, k: Number(byId("k").value), filter: byId("filter").value || null });
}

function clear() {
  current?.abort.abort();
  current = null;
  for (const id of ["columns", "unavailable", "mode-tabs", "term-bars"]) byId(id).replaceChildren();
  byId("terms").hidden = byId("mode-tabs").hidden = true;
  byId("heard").textContent = "";
}

function run(key, question) {
  clear();
  const run = (current = { key, abort: new AbortController(), results: {} });
  const modes = ORDER.map((name) => status.modes.find((mode) => mode.name === name)).filter(Boolean);
  const offered = modes.filter((mode) => mode.available).map((mode) => mode.name);
  if (!offered.includes(chosen)) chosen = offered[0];
  byId("columns").replaceChildren(...offered.map(column));
  byId("columns").style.setProperty("--columns", offered.length);
  byId("unavailable").replaceChildren(
    ...modes.filter((mode) => !mode.available).map((mode) => missing(mode.name, mode.reason)),
  );
  tabs(offered);
  Promise.all(offered.map((mode) => fill(run, mode, question))).then(() => run === current && hear(run));
  if (status.terms.available) terms(run, question.query);
  else if (offered.includes("sparse")) byId("unavailable").append(missing("terms", status.terms.reason));
}

function missing(name, reason) {
  return el("li", { data: { mode: name } }, el("b", {}, name), ` ${reason}`);
}

function column(mode) {
  const head = el("div", { class: "column-head" }, el("h2", {}, mode), el("span", { class: "about" }, ABOUT[mode]), el("span", { class: "took" }));
  const list = el("ol", { class: "hits" }, ...Array.from({ length: 3 }, () => el("li", { class: "waiting", "aria-hidden": true })));
  return el("section", { class: "column", data: { mode }, "aria-label": `${mode} results`, "data-shown": mode === chosen, "aria-busy": true }, head, list);
}

function tabs(offered) {
  const buttons = offered.map((mode) =>
    el("button", { type: "button", "aria-pressed": mode === chosen, data: { mode }, on: { click: () => choose(mode) } }, mode),
  );
  byId("mode-tabs").replaceChildren(...buttons);
  byId("mode-tabs").hidden = offered.length < 2;
}

function choose(mode) {
  chosen = mode;
  for (const button of byId("mode-tabs").children) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  for (const section of byId("columns").children) section.toggleAttribute("data-shown", section.dataset.mode === mode);
}

async function fill(run, mode, question) {
  const section = byId("columns").querySelector(`[data-mode=${mode}]`);
  const list = section.querySelector("ol");
  try {
    const found = await postJson("ui/api/search", { ...question, mode }, run.abort.signal);
    if (run !== current) return;
    run.results[mode] = found.hits;
    section.querySelector(".took").textContent = `${count(found.hits.length, "hit")} · ${Math.max(1, Math.round(found.milliseconds))} ms`;
    list.replaceChildren(...found.hits.map((hit) => card(hit, mode, found.hits[0].score)));
    if (!found.hits.length) list.replaceChildren(el("li", { class: "nothing" }, "Nothing found. Try other words, or a wider filter."));
    if (mode === "hybrid" || !latest.hits.length || latest.query !== question.query) latest = { query: question.query, mode, hits: found.hits };
    compare(run);
  } catch (error) {
    if (error.name === "AbortError" || run !== current) return;
    list.replaceChildren(el("li", { class: "nothing", role: "alert" }, error.message));
  }
  section.removeAttribute("aria-busy");
}

/** What a screen reader says once every column is there. */
function hear(run) {
  const said = Object.entries(run.results).map(([mode, hits]) => `${mode} ${count(hits.length, "hit")}`);
  byId("heard").textContent = said.join(", ");
}

const identity = (hit) => `${hit.doc_id}\n${hit.ordinal}`;

function card(hit, mode, best) {
  const bar = el("span", { class: "score-bar", "aria-hidden": true }, el("i"));
  bar.firstChild.style.width = `${best > 0 ? Math.max(2, (100 * hit.score) / best) : 0}%`;
  const button = el(
    "button",
    { type: "button", class: "hit", data: { hit: identity(hit) }, on: { click: () => open(hit, button) } },
    el("span", { class: "hit-head" }, el("span", { class: "rank" }, String(hit.rank)), el("span", { class: "title" }, heading(hit)), el("span", { class: "score" }, hit.score.toFixed(hit.score < 10 ? 3 : 1))),
    bar,
    shortPlace(hit),
    el("span", { class: "snippet" }, ...marked(hit.snippet)),
    el("span", { class: "others" }),
  );
  for (const [type, on] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]]) {
    button.addEventListener(type, () => twins(identity(hit), on));
  }
  return el("li", {}, button);
}

function twins(id, on) {
  for (const other of document.querySelectorAll(".hit")) other.toggleAttribute("data-twin", on && other.dataset.hit === id);
}

/** Write under each hit where the other modes have it. */
function compare(run) {
  const ranks = {};
  for (const [mode, hits] of Object.entries(run.results)) {
    for (const hit of hits) (ranks[identity(hit)] ??= {})[mode] = hit.rank;
  }
  for (const button of byId("columns").querySelectorAll(".hit")) {
    const own = button.closest(".column").dataset.mode;
    const others = ORDER.filter((mode) => mode !== own && ranks[button.dataset.hit]?.[mode]);
    button.querySelector(".others").replaceChildren(
      ...others.map((mode) => el("span", { class: "other", data: { mode }, title: `number ${ranks[button.dataset.hit][mode]} in ${mode}` }, `${mode} ${ranks[button.dataset.hit][mode]}`)),
    );
  }
}

async function terms(run, query) {
  try {
    const found = await postJson("ui/api/terms", { query }, run.abort.signal);
    if (run !== current || !found.terms.length) return;
    const most = found.terms[0][1];
    byId("term-bars").replaceChildren(...found.terms.map(([term, weight]) => bar(term, weight, most)));
    byId("terms").hidden = false;
  } catch (error) {
    if (error.name !== "AbortError" && run === current) byId("unavailable").append(missing("terms", error.message));
  }
}

function bar(term, weight, most) {
  const line = el("i", { "aria-hidden": true });
  line.style.width = `${(100 * weight) / most}%`;
  return el("li", {}, el("span", { class: "term" }, term), el("span", { class: "track" }, line), el("span", { class: "weight" }, weight.toFixed(2)));
}

/** Move the focus among the hits; returns whether the key meant that. */
export function move(key, from) {
  const columns = [...byId("columns").children].filter((section) => section.offsetParent);
  const grid = columns.map((section) => [...section.querySelectorAll(".hit")]);
  const x = grid.findIndex((hits) => hits.includes(from));
  if (x < 0) {
    const first = from.matches("#query, body, main") && key === "ArrowDown" ? grid.find((hits) => hits.length)?.[0] : null;
    first?.focus();
    return Boolean(first);
  }
  const y = grid[x].indexOf(from);
  if (key === "ArrowUp" && y === 0) byId("query").focus();
  else if (key === "ArrowUp" || key === "ArrowDown") grid[x][y + (key === "ArrowUp" ? -1 : 1)]?.focus();
  else {
    const step = key === "ArrowLeft" ? -1 : 1;
    let next = x + step;
    while (grid[next] && !grid[next].length) next += step;
    grid[next]?.[Math.min(y, grid[next].length - 1)].focus();
  }
  return true;
}
