// The frame: which view is shown, theme, key, store, and the keys that work everywhere.
import { getJson, getKey, setKey, setStore } from "./api.js";
import * as ask from "./ask.js";
import { byId, count, el } from "./dom.js";
import * as map from "./map.js";
import * as search from "./search.js";
import * as source from "./source.js";
import * as status from "./status.js";

const VIEWS = { search, ask, map, index: status };
const TITLES = { search: "Search", ask: "Ask", map: "Map", index: "Index" };
let state = null;

/** What the server has; fetched again after a key or another store. */
async function load() {
  try {
    state = await getJson("ui/api/status");
    byId("notice").hidden = true;
  } catch (error) {
    state = null;
    notice(error.message);
  }
  stores(state);
  tagline(state);
  for (const view of Object.values(VIEWS)) view.setStatus(state);
  show();
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = false;
}

function stores(now) {
  const names = now?.stores ?? [];
  byId("stores").hidden = names.length < 2;
  byId("store").replaceChildren(...names.map((name) => el("option", { selected: name === now.store }, name)));
}

function tagline(now) {
  const line = byId("tagline");
  if (!now) return line.replaceChildren();
  if (!now.info) return line.replaceChildren("This server has no store to search. Start it with decant serve --store DIR.");
  line.replaceChildren(
    `${count(now.info.documents, "document")}, ${count(now.info.chunks, "passage")}, one model: `,
    el("code", {}, now.info.model || now.models[0].name),
  );
}

function show() {
  const [, name, rest] = location.hash.match(/^#\/(\w+)(?:\?(.*))?$/) ?? [null, "search", ""];
  const current = name in VIEWS ? name : "search";
  for (const view of Object.keys(VIEWS)) byId(`view-${view}`).hidden = view !== current;
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("data-current", link.dataset.view === current);
    if (link.dataset.view === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const parameters = new URLSearchParams(rest);
  document.title = [parameters.get("q"), TITLES[current], "Decant"].filter(Boolean).join(" · ");
  VIEWS[current].show(parameters);
}

function theme() {
  const order = ["auto", "light", "dark"];
  const button = byId("theme");
  const now = () => document.documentElement.dataset.theme ?? "auto";
  const draw = () => {
    button.querySelector("use").setAttribute("href", `#i-${now()}`);
    button.setAttribute("aria-label", `Theme: ${now()}`);
    button.title = `Theme: ${now()}`;
  };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(now()) + 1) % order.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    localStorage.setItem("decant.theme", next);
    draw();
    map.redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", map.redraw);
  draw();
}

function keyDialog() {
  const dialog = byId("key-dialog");
  const open = (why) => {
    if (dialog.open) return;
    byId("key-why").textContent = why ?? "Kept in this tab only, until it is closed.";
    byId("key").value = getKey();
    dialog.showModal();
  };
  byId("key-open").addEventListener("click", () => open());
  byId("key-forget").addEventListener("click", () => ((byId("key").value = ""), dialog.close("save")));
  dialog.addEventListener("cancel", () => (dialog.returnValue = ""));
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "save") return;
    setKey(byId("key").value.trim());
    load();
  });
  addEventListener("decant:key", (event) => open(event.detail));
}

function keys() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input, textarea, select");
    if (event.key === "Escape" && source.isOpen()) source.close();
    else if (event.key === "Escape" && typing) event.target.blur();
    else if (typing && !event.key.startsWith("Arrow")) return;
    else if (event.key === "/") focusField();
    else if (event.key === "?") byId("help-dialog").showModal();
    else if (event.key.startsWith("Arrow") && !byId("view-search").hidden && search.move(event.key, event.target)) void 0;
    else return;
    event.preventDefault();
  });
  byId("help-open").addEventListener("click", () => byId("help-dialog").showModal());
}

function focusField() {
  if (byId("view-ask").hidden && byId("view-search").hidden) location.hash = "#/search";
  const field = byId("view-ask").hidden ? byId("query") : byId("question");
  setTimeout(() => (field.focus(), field.select()));
}

byId("store").addEventListener("change", (event) => {
  setStore(event.target.value);
  source.close();
  load();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
for (const view of Object.values(VIEWS)) view.start();
source.start();
theme();
keyDialog();
keys();
addEventListener("hashchange", show);
byId("refresh").addEventListener("click", load);
load();
