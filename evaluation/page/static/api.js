/* The server's REST service, as this page uses it. A token comes in the page's address, after the #, which is not sent. */

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

export class ServerError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const headers = () => {
  const token = sessionStorage.getItem("token");
  return token ? {Authorization: `Bearer ${token}`} : {};
};

/* Send a request; an answer other than 2xx throws a ServerError with the server's sentence. */
export async function send(method, path, body, options = {}) {
  const json = body !== undefined && !(body instanceof Blob) && !(body instanceof Uint8Array);
  const response = await fetch(path, {
    method,
    headers: {...headers(), ...(json ? {"Content-Type": "application/json"} : {})},
    body: json ? JSON.stringify(body) : body,
    cache: "no-store",
    ...options,
  });
  if (!response.ok) {
    const detail = await response.json().then((answer) => answer.detail, () => response.statusText);
    throw new ServerError(response.status, detail);
  }
  return response;
}

export const getJson = async (path) => (await send("GET", path)).json();
export const postJson = async (path, body = {}) => (await send("POST", path, body)).json();
export const getBytes = async (path) => (await send("GET", path)).arrayBuffer();

/* Call `onState` with each state of a job until it ends. Throws when the connection breaks. */
export async function follow(path, onState) {
  const reader = (await send("GET", path)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let last = null;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      last = JSON.parse(part.slice(6));
      onState(last);
    }
  }
  if (!last || !["done", "failed", "cancelled"].includes(last.state)) throw new TypeError("the connection broke");
  return last;
}

export async function download(path, name) {
  const blob = await (await send("GET", path)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // where the page has no secure context
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
