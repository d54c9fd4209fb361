// Calls to this server. The key lives in the tab's sessionStorage and leaves it only as a header to this origin.

const KEY = "decant.key";
let store = "";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
export const getStore = () => store;
export const setStore = (name) => (store = name);

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function send(path, { query, body, signal } = {}) {
  const address = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries({ ...query, ...(body ? {} : { store }) })) {
    if (value !== "" && value !== undefined) address.searchParams.set(name, value);
  }
  const headers = getKey() ? { authorization: `Bearer ${getKey()}` } : {};
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address, {
      method: body ? "POST" : "GET",
      headers,
      body: body ? JSON.stringify({ ...body, store }) : undefined,
      signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer: is it still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const refused = new Refused(answer.status, said.error?.message ?? `the server answered ${answer.status}`);
  if (answer.status === 401) dispatchEvent(new CustomEvent("decant:key", { detail: refused.message }));
  throw refused;
}

export const getJson = async (path, query, signal) => (await send(path, { query, signal })).json();
export const postJson = async (path, body, signal) => (await send(path, { body, signal })).json();

/** Yield `{event, data}` of a stream of server-sent events. */
export async function* postStream(path, body, signal) {
  const answer = await send(path, { body, signal });
  let rest = "";
  for await (const piece of read(answer.body.pipeThrough(new TextDecoderStream()))) {
    const events = (rest + piece).split("\n\n");
    rest = events.pop();
    for (const event of events) yield parse(event);
  }
}

async function* read(stream) {
  const reader = stream.getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) yield step.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(event) {
  const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s, 2)));
  return { event: fields.event ?? "message", data: JSON.parse(fields.data) };
}
