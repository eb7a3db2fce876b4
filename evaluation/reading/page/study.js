/* The page of a reader. The server knows where the reader is; the page shows that case and sends one answer at a time.
   The token stands behind the # of the address, which a browser sends to no server. */

import {VolumeViewer, fetchVolume} from "./viewer.js";

const RETRY_MS = 1000;
const element = (id) => document.getElementById(id);
const pressed = (name) => [...document.querySelectorAll(`[data-${name}]`)];

const viewer = new VolumeViewer(element("viewer"));
let state = null; // of the server
let shown = null; // position whose volume is on the screen
let loading = null; // position whose volume is on its way
let choice = {};
let busy = false;
let waits = null; // for Enter, after a training case

const token = () => (/^#[!-~]+$/.test(location.hash) ? location.hash.slice(1) : "");
const headers = () => ({Authorization: `Bearer ${token()}`});

/* Seconds for which the present case was visible; a reload of the tab goes on counting. */
const clock = {
  since: null,
  key: () => `seconds ${state.reader} ${state.position}`,
  stored: () => Number(sessionStorage.getItem(clock.key()) ?? 0),
  start() { clock.since ??= document.hidden ? null : performance.now(); },
  stop() {
    if (clock.since === null) return;
    sessionStorage.setItem(clock.key(), clock.stored() + (performance.now() - clock.since) / 1000);
    clock.since = null;
  },
  read() {
    clock.stop();
    clock.start();
    return clock.stored();
  },
};

/* Ask the server until it answers; a lost connection is said and tried again. */
async function persistently(ask) {
  for (;;) {
    try {
      const found = await ask();
      if (element("notice").dataset.kind === "connection") notify("");
      return found;
    } catch (error) {
      if (error.status) throw error;
      notify("No connection to the server. Nothing is lost; trying again …", "connection");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function call(path, options = {}) {
  const response = await fetch(path, {...options, headers: {...headers(), ...options.headers}, cache: "no-store"});
  const body = await response.json();
  if (!response.ok && response.status !== 409) throw Object.assign(new Error(body.detail), {status: response.status});
  return {status: response.status, body};
}

function notify(text, kind = "") {
  element("notice").textContent = text;
  element("notice").dataset.kind = kind;
}

function show(section) {
  for (const id of ["study", "message", "login"]) element(id).hidden = id !== section;
  element("help").hidden = section !== "study";
}

function message(text) {
  element("message").textContent = text;
  show("message");
}

function choose(changes) {
  choice = {...choice, ...changes};
  for (const button of pressed("verdict")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === choice.verdict));
  }
  for (const button of pressed("confidence")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.confidence) === choice.confidence));
  }
  update();
}

function update() {
  const isReady = shown !== null && !busy;
  for (const button of [...pressed("verdict"), ...pressed("confidence")]) button.disabled = !isReady || Boolean(waits);
  element("confirm").disabled = !waits && !(isReady && choice.verdict && choice.confidence);
  element("confirm").firstChild.textContent = waits ? "Next case " : "Confirm ";
}

/* Show the server's state: the case, or the end. */
async function enter(next) {
  clock.stop();
  state = next;
  [shown, loading] = [null, state.position];
  element("reader").textContent = state.reader;
  element("progress").hidden = false;
  element("progress").value = (state.position - 1) / state.total;
  element("training").hidden = !state.training;
  element("count").textContent = state.done ? `${state.total} of ${state.total}` : `case ${state.position} of ${state.total}`;
  choose({verdict: null, confidence: null});
  if (state.done) {
    viewer.clear();
    message("All cases are answered. Thank you! You may close this page.");
    return;
  }
  show("study");
  const {position, shape, spacing_mm: spacing} = state;
  try {
    const url = `api/volume?position=${position}`;
    const volume = await persistently(() => fetchVolume(url, {headers: headers(), shape, spacing}));
    if (state.position !== position) return;
    viewer.load(volume);
    [shown, loading] = [position, null];
    clock.start();
  } catch (error) {
    loading = null;
    if (error.status === 409) await refresh();
    else fail(error);
  }
  update();
}

/* Look where the reader is; in another tab it may have gone on. */
async function refresh() {
  try {
    const {body} = await persistently(() => call("api/state"));
    if (state === null || body.position !== state.position || (shown ?? loading) === null) await enter(body);
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  notify(error.message);
  if (error.status === 401) show("login");
}

async function confirm() {
  if (waits) {
    const next = waits;
    waits = null;
    notify("");
    await enter(next);
    return;
  }
  if (busy || shown === null || !choice.verdict || !choice.confidence) return;
  busy = true;
  update();
  const answer = {position: shown, verdict: choice.verdict, confidence: choice.confidence, seconds: clock.read()};
  const body = JSON.stringify(answer);
  const options = {method: "POST", body, headers: {"Content-Type": "application/json"}};
  try {
    const {status, body: next} = await persistently(() => call("api/answer", options));
    busy = false;
    clock.stop();
    sessionStorage.removeItem(clock.key());
    if (next.truth) {
      waits = next;
      notify(`This lesion is ${next.truth}. You said ${answer.verdict}. Press Enter for the next case.`, "truth");
      update();
      return;
    }
    notify(status === 409 ? "This case was answered in another tab. That answer counts." : "");
    await enter(next);
  } catch (error) {
    busy = false;
    update();
    fail(error);
  }
}

document.addEventListener("keydown", (event) => {
  if (element("study").hidden || event.target.tagName === "INPUT" || event.repeat && event.key === "Enter") return;
  const key = event.key.toLowerCase();
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const canChoose = isPlain && shown !== null && !busy && !waits;
  if (isPlain && event.key === "Enter") confirm();
  else if (canChoose && key === "r") choose({verdict: "real"});
  else if (canChoose && key === "s") choose({verdict: "synthetic"});
  else if (canChoose && "12345".includes(event.key)) choose({confidence: Number(event.key)});
  else if (!viewer.key(event)) return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clock.stop();
  else {
    if (shown !== null && !waits) clock.start();
    if (!busy && !waits && token()) refresh();
  }
});
window.addEventListener("focus", () => { if (!busy && !waits && state) refresh(); });
window.addEventListener("pagehide", () => { if (state) clock.stop(); });
window.addEventListener("hashchange", () => location.reload());
element("login").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = element("token").value.trim();
});
for (const button of pressed("verdict")) button.addEventListener("click", () => choose({verdict: button.dataset.verdict}));
for (const button of pressed("confidence")) {
  button.addEventListener("click", () => choose({confidence: Number(button.dataset.confidence)}));
}
for (const button of pressed("preset")) button.addEventListener("click", () => viewer.setPreset(button.dataset.preset));
element("confirm").addEventListener("click", confirm);
element("crosshair").addEventListener("click", () => viewer.showCrosshair(!viewer.crosshairShown));
element("reset").addEventListener("click", () => viewer.reset());
viewer.addEventListener("window", ({detail}) => {
  element("window").textContent = `window ${detail.width}, level ${detail.level} HU`;
});
viewer.addEventListener("hover", ({detail}) => {
  element("hu").textContent = detail ? `${detail.hu} HU` : "";
});

if (token()) refresh();
else show("login");
