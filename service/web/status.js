// Index: what the store holds, which model made it, and how each mode searches it.
import { byId, el, whole } from "./dom.js";

let status = null;

export function start() {}

export function setStatus(now) {
  status = now;
}

export function show() {
  if (!status) return byId("facts").replaceChildren();
  byId("facts").replaceChildren(...(status.info ? store(status) : []), ...models(status));
}

function store({ info, modes, store: name }) {
  const tiles = [
    [whole.format(info.documents), "documents"],
    [whole.format(info.chunks), "passages"],
    [size(info.bytes), "on disk"],
    [whole.format(info.dimension), "dimensions"],
  ];
  const facts = {
    Store: name,
    Model: info.model || "unnamed",
    Fingerprint: el("code", {}, info.fingerprint),
    Version: `${whole.format(info.version)}, schema ${info.schema}`,
    Created: info.created.replace("T", " ").replace(/\.\d+/, "").replace(/\+00:00|Z/, " UTC"),
  };
  return [
    el("ul", { class: "tiles" }, ...tiles.map(([number, what]) => el("li", {}, el("b", {}, number), what))),
    el("h2", {}, "Store"),
    list(facts),
    el("h2", {}, "Modes"),
    table(["Mode", "", "How"], modes.map((mode) => [mode.name, mode.available ? "available" : "not available", mode.reason || how(mode.name, info)])),
  ];
}

/** How a mode searches the store: exactly, or by which generation of which accelerator. */
function how(mode, info) {
  if (mode === "hybrid") return `${info.modes.filter((name) => ["dense", "sparse", "lexical"].includes(name)).join(", ")}: fused`;
  const facts = info[mode] ?? {};
  const search = facts.reason?.includes("exactly") ? "" : facts.search;
  const parts = [facts.scoring, facts.terms && `${whole.format(facts.terms)} terms`, search, facts.reason];
  if (facts.covered !== undefined) parts.push(`${whole.format(facts.covered)} covered, ${whole.format(facts.exact_tail ?? 0)} searched exactly beside it, ${whole.format(facts.tombstones ?? 0)} no longer there`);
  if (facts.not_yet_indexed !== undefined) parts.push(`${whole.format(facts.not_yet_indexed)} passages not yet in the index`);
  return parts.filter(Boolean).join("; ");
}

function models({ models: served, version }) {
  const rows = served.map((model) => [model.name, model.outputs.join(", "), String(model.dimensions), `${model.dtype} on ${model.device}`, whole.format(model.max_tokens), el("code", { title: model.fingerprint }, model.fingerprint.slice(0, 12))]);
  return [el("h2", {}, "Models"), table(["Name", "Makes", "Dimensions", "Runs", "Tokens", "Fingerprint"], rows), el("p", { class: "small" }, `Decant ${version}`)];
}

function list(facts) {
  return el("dl", { class: "facts" }, ...Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function table(heads, rows) {
  const row = (cells) => el("tr", {}, ...cells.map((cell, at) => el(at ? "td" : "th", { scope: at ? null : "row" }, cell)));
  return el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows.map(row))));
}

function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return `${(bytes / 1000 ** power).toPrecision(3)} ${units[power]}`;
}
