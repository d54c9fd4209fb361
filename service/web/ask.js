// Ask: a conversation; each answer streams in, then its citations become links to the source.
import { postStream } from "./api.js";
import { byId, el, heading, icon, shortPlace } from "./dom.js";
import { open } from "./source.js";

const REMEMBERED = 6;
const turns = []; // {question, answer}
let status = null;
let running = null;

export function setStatus(now) {
  if (status && now && status.store !== now.store) forget();
  status = now;
  const how = now?.ask;
  byId("ask-how").textContent = how?.reason ?? "";
  byId("ask-go").disabled = !how?.available;
}

export function start() {
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = byId("question").value.trim();
    if (!question || !status?.ask.available) return;
    byId("question").value = "";
    ask(question);
  });
  byId("ask-new").addEventListener("click", () => (forget(), byId("question").focus()));
}

export function show(parameters) {
  const question = parameters.get("q");
  if (question && status?.ask.available && !turns.length && !running) ask(question);
  if (!turns.length) welcome();
  if (matchMedia("(hover: hover)").matches) byId("question").focus();
}

function welcome() {
  if (byId("thread").children.length) return;
  byId("thread").replaceChildren(
    el("div", { class: "welcome" }, icon("ask"), el("p", {}, "Ask in plain words."), el("p", { class: "small" }, "Every sentence is checked against the documents and names its source. Where they do not say, neither does the answer.")),
  );
}

function forget() {
  running?.abort();
  running = null;
  turns.length = 0;
  byId("thread").replaceChildren();
  byId("ask-new").hidden = true;
  welcome();
}

async function ask(question) {
  running?.abort();
  const abort = (running = new AbortController());
  byId("thread").querySelector(".welcome")?.remove();
  const text = el("p", { class: "answer-text", "data-writing": true });
  const sources = el("ol", { class: "sources" });
  const note = el("p", { class: "small note" });
  const turn = el("article", { class: "turn" }, el("h2", { class: "question" }, question), el("div", { class: "answer" }, text, note, sources));
  byId("thread").append(turn);
  byId("thread").setAttribute("aria-busy", "true");
  turn.scrollIntoView({ block: "start", behavior: "smooth" });
  try {
    for await (const { event, data } of postStream("ask", { question, history: history(), stream: true }, abort.signal)) {
      if (event === "text") text.append(data.text);
      else if (event === "answer") finish(question, data, { text, note, sources });
      else if (event === "error") throw new Error(data.error.message);
    }
  } catch (error) {
    if (error.name === "AbortError") turn.remove();
    else note.replaceChildren(el("span", { role: "alert", class: "failed" }, error.message));
  }
  text.removeAttribute("data-writing");
  if (running === abort) {
    running = null;
    byId("thread").setAttribute("aria-busy", "false");
    byId("ask-new").hidden = !turns.length;
  }
}

function history() {
  return turns.slice(-REMEMBERED).flatMap(({ question, answer }) => [
    { role: "user", text: question },
    { role: "assistant", text: answer },
  ]);
}

function finish(question, answer, { text, note, sources }) {
  turns.push({ question, answer: answer.text });
  const byNumber = new Map(answer.citations.map((citation) => [citation.number, citation]));
  text.replaceChildren(...linked(answer.text, byNumber));
  text.closest(".answer").toggleAttribute("data-abstained", !answer.grounded);
  note.textContent = [
    answer.note,
    answer.generator === "evidence" ? "" : `Written by ${answer.generator}${sureness(answer)}.`,
  ].filter(Boolean).join(" ");
  sources.replaceChildren(...answer.citations.map(source));
}

function sureness({ confidence, grounded }) {
  return confidence == null || !grounded ? "" : `, ${Math.round(100 * confidence)} % sure`;
}

/** The answer's text: fenced code as code, each `[n]` elsewhere that is a citation as a button. */
function linked(text, byNumber) {
  return text.split(/^((?:```|~~~)[^\n]*\n[^]*?^(?:```|~~~)$)\n*/m).flatMap((part, i) => (i % 2 ? [code(part)] : cited(part, byNumber)));
}

function code(fenced) {
  return el("pre", { class: "code", tabindex: 0 }, fenced.split("\n").slice(1, -1).join("\n"));
}

function cited(text, byNumber) {
  return text.split(/(\[\d+\])/).map((piece) => {
    const citation = byNumber.get(Number(piece.match(/^\[(\d+)\]$/)?.[1]));
    if (!citation) return document.createTextNode(piece);
    const button = el("button", { type: "button", class: "cite", "aria-label": `Source ${citation.number}: ${heading(citation)}`, on: { click: () => open(citation, button) } }, String(citation.number));
    return button;
  });
}

function source(citation) {
  const button = el(
    "button",
    { type: "button", class: "source-card", on: { click: () => open(citation, button) } },
    el("span", { class: "cite", "aria-hidden": true }, String(citation.number)),
    el("span", { class: "grow" }, el("span", { class: "title" }, heading(citation)), shortPlace(citation)),
  );
  return el("li", {}, button);
}
