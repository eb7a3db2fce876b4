/* The page: what is requested, what was made, and how the two are shown. State that a reload keeps is in `kept`. */

import {ServerError, copyText, download, follow, getBytes, getJson, headers, postJson, send} from "./api.js";
import {Brush} from "./brush.js";
import {Comparison, ball, thumbnail} from "./compare.js";
import {Character} from "./controls.js";
import {PRESETS, fetchVolume} from "./viewer.js";
import {Volume3D} from "./volume3d.js";
import {zipOf} from "./zip.js";

const $ = (name) => document.getElementById(name);
const SETTINGS = ["steps", "cfg_scale", "guidance_scale", "hu_scale"];
const RETRY_MS = 1000;
const THUMBNAIL_MM = 60;
const EMPTY = {session: null, base: [], draft: {}, settings: {}, history: [null], at: 0, name: ""};

let kept = {...EMPTY, ...JSON.parse(sessionStorage.getItem("page") ?? "{}")};
let scan = null; // what the server knows of it
let results = new Map(); // name -> result, with its change once it was shown
let running = []; // jobs of this page
const stack = $("stack");
const comparison = new Comparison($("below"), $("above"));
const {viewer} = comparison;
const brush = new Brush(comparison, stack, () => { marks(); describe(); });
const volume = new Volume3D($("volume-canvas"));
let character = null;

const path = (rest = "") => `/v1/sessions/${kept.session}${rest}`;
const keep = (change = {}) => {
  Object.assign(kept, change);
  sessionStorage.setItem("page", JSON.stringify(kept));
};

function say(text, fault = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("fault", fault);
}

/* Run an action of a button or a key; what goes wrong is said. */
const act = (action) => async (...values) => {
  try {
    await action(...values);
  } catch (error) {
    say(error instanceof TypeError ? `No connection to the server (${error.message}).` : error.message, true);
  }
};

/* ---- the scan ---- */

async function openScan(name, upload) {
  for (const job of running) await send("DELETE", path(`/jobs/${job}`)).catch(() => {});
  running = [];
  const before = kept.session;
  const {session} = await postJson("/v1/sessions");
  keep({...EMPTY, session, name, settings: kept.settings});
  results = new Map();
  comparison.change = null;
  brush.voxels.clear();
  $("results").replaceChildren();
  $("difference").setAttribute("aria-pressed", "false");
  if (before) send("DELETE", `/v1/sessions/${before}`).catch(() => {});
  say(`Opening ${name} …`);
  try {
    scan = await upload();
  } catch (error) {
    scan = null;
    viewer.clear();
    comparison.upper.clear();
    throw error;
  }
  await showScan();
}

async function showScan() {
  const {data, shape, spacing} = await fetchVolume(path("/scan/volume"), {
    headers: headers(), shape: scan.shape, spacing: scan.spacing_mm, onProgress: (share) => say(`Loading ${Math.round(100 * share)} %`),
  });
  comparison.load(data, shape, spacing);
  $("scan-name").textContent = `${kept.name} · ${shape.join(" × ")} voxels of ${spacing.map((mm) => mm.toFixed(2)).join(" × ")} mm`;
  say(["Click a place in the lung, or press “Suggest a site”. Then press “Generate”.", ...scan.notes].join(" "));
  fill();
}

const openPhantom = () => openScan("chest phantom", () => postJson(path("/phantom")));
const uploaded = (file, name) => async () => (await send("PUT", path(`/scan?name=${encodeURIComponent(name)}`), file)).json();

/* ---- voxels of the viewer and of the scan, which may be turned ---- */

const turned = (voxel) => voxel.map((at, axis) => (scan.flips[axis] ? scan.shape[axis] - 1 - at : at));

/* ---- the request ---- */

function draftOf() {
  const {center} = kept.draft;
  const attributes = character?.value ?? {};
  const shared = {seed: Number($("seed").value), attributes};
  return {center, diameter_mm: Number($("diameter").value), ...shared};
}

const settingsOf = () =>
  ({...Object.fromEntries(SETTINGS.map((name) => [name, Number($(name).value)])), shape: $("shape").value});

/* Put what is kept into the controls. */
function fill() {
  const {draft, settings} = kept;
  $("center").value = draft.center ? draft.center.join(", ") : "";
  if (draft.diameter_mm) $("diameter").value = draft.diameter_mm;
  if (draft.seed !== undefined) $("seed").value = draft.seed;
  for (const name of [...SETTINGS, "shape"]) if (settings[name] !== undefined) $(name).value = settings[name];
  character.value = draft.attributes ?? {};
  describe();
  marks();
}

function changed() {
  keep({draft: {...draftOf(), mask: kept.draft.mask}, settings: settingsOf()});
  describe();
  marks();
}

function place(center) {
  keep({draft: {...draftOf(), center}});
  brush.voxels.clear();
  fill();
}

function describe() {
  const items = [...kept.base, {...draftOf(), mask: brush.voxels.size || kept.draft.mask}];
  $("lesions").replaceChildren(...items.map((lesion, index) => {
    const item = document.createElement("li");
    const where = lesion.mask ? "brushed" : lesion.center ? `at ${lesion.center.map((at) => Math.round(at)).join(", ")}` : "no place yet";
    const size = lesion.mask ? "" : `${lesion.diameter_mm} mm, `;
    item.textContent = `${size}${where}, seed ${lesion.seed ?? 0}`;
    if (index < kept.base.length) {
      const button = document.createElement("button");
      button.textContent = "Remove";
      button.addEventListener("click", () => {
        keep({base: kept.base.filter((_, other) => other !== index)});
        describe();
      });
      item.append(button);
    }
    return item;
  }));
  $("brushed").textContent = brush.voxels.size ? `${brush.voxels.size} voxels` : "";
  const result = results.get(kept.history[kept.at]);
  for (const name of ["save-nifti", "save-zip", "save-record", "copy-command", "copy-python", "another"]) $(name).disabled = !result;
  $("undo").disabled = kept.at === 0;
  $("redo").disabled = kept.at >= kept.history.length - 1;
  $("generate").disabled = !scan;
  $("cancel").hidden = !running.length;
  $("progress").hidden = !running.length;
}

/* The brush, the labels of the result, or a ball where the lesion will be. */
function marks() {
  if (!viewer.volume) return;
  comparison.setMarks((mask) => {
    if ($("outline").getAttribute("aria-pressed") === "false") return;
    const shown = comparison.change;
    comparison.each((index, at) => { if (shown.labels[at]) mask[index] = 1; });
    for (const index of brush.voxels) mask[index] = 1;
    const {center, diameter_mm: diameter} = draftOf();
    const made = results.get(kept.history[kept.at])?.lesions ?? [];
    const isMade = made.some((lesion) => JSON.stringify(lesion.center) === JSON.stringify(center));
    if (!center || isMade || brush.voxels.size) return;
    for (const index of ball(turned(center), diameter / 2, scan.shape, scan.spacing_mm)) mask[index] = 1;
  });
  if (!$("volume-canvas").hidden) showVolume(true);
}

/* The volume from any side, with the lesions of the present result. */
function showVolume(shown) {
  $("volume-canvas").hidden = !shown;
  if (!shown || !viewer.volume) return;
  volume.load(viewer.volume, comparison.mask);
}

/* ---- jobs ---- */

async function generate() {
  const draft = draftOf();
  let lesion = draft;
  if (brush.voxels.size) {
    const {origin, size, bytes} = brush.box(scan.flips);
    const {mask} = await (await send("PUT", path(`/masks?origin=${origin}&size=${size}`), bytes)).json();
    lesion = {mask, seed: draft.seed, attributes: draft.attributes};
  } else if (!draft.center) {
    if (kept.draft.mask) lesion = {mask: kept.draft.mask, seed: draft.seed, attributes: draft.attributes};
    else throw new Error("The lesion has no place yet: click into the lung, suggest a site, or use the brush.");
  }
  keep({draft: {...lesion, diameter_mm: draft.diameter_mm}, settings: settingsOf()});
  const variants = Math.min(Math.max(Number($("variants").value), 1), 4);
  const jobs = [];
  for (let number = 0; number < variants; number++) {
    const lesions = [...kept.base, {...lesion, seed: lesion.seed + number}];
    const {job} = await postJson("/v1/inpaint", {session: kept.session, lesions, settings: settingsOf()});
    jobs.push(job);
    running.push(job);
  }
  describe();
  await Promise.all(jobs.map(act(watch)));
}

/* Follow a job to its end, also over a broken connection, and show its result. */
async function watch(job) {
  for (;;) {
    try {
      const end = await follow(path(`/jobs/${job}/events`), progress);
      running = running.filter((other) => other !== job);
      if (end.state === "failed") throw new Error(`Not painted: ${end.detail}`);
      if (end.state === "cancelled") say("Cancelled.");
      if (end.state === "done") {
        await addResult(await getJson(path(`/results/${job}`)), true);
        say([results.get(job).summary, ...end.notes].join(" "));
      }
      return;
    } catch (error) {
      const gone = error instanceof ServerError && error.status === 404;
      if (gone) {
        running = running.filter((other) => other !== job);
        const found = await getJson(path(`/results/${job}`)).catch(() => null);
        if (!found) throw new Error("The server was restarted before this lesion was finished; generate it again.");
        return await addResult(found, true);
      }
      if (!(error instanceof TypeError)) throw error;
      say("No connection to the server. Trying again …", true);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      describe();
    }
  }
}

function progress(state) {
  if (state.state === "queued") say(`Waiting; place ${state.position} in the queue.`);
  if (state.state !== "running") return;
  const {lesion = 1, lesions = 1, step = 0, steps = 1, attempt = 1} = state;
  $("progress").value = (lesion - 1 + step / steps) / lesions;
  const again = attempt > 1 ? `, try ${attempt} of 3: the first left its label` : "";
  say(step ? `Lesion ${lesion} of ${lesions}, step ${step} of ${steps}${again}` : "Drawing the shape …");
}

async function cancel() {
  await Promise.all(running.map((job) => send("DELETE", path(`/jobs/${job}`))));
}

/* ---- results ---- */

async function addResult(result, isNew) {
  const measured = result.measured.at(-1);
  result.summary = `Mean HU ${Math.round(measured.mean_hu_after)} in ${measured.voxels} voxels; ` +
    `${result.changed_outside_paint} voxels changed outside the painted region.`;
  results.set(result.result, result);
  const button = document.createElement("button");
  button.dataset.result = result.result;
  button.title = result.summary;
  const canvas = Object.assign(document.createElement("canvas"), {width: 72, height: 72});
  button.append(canvas, `${result.number} · seed ${result.lesions.at(-1).seed ?? 0}`);
  button.addEventListener("click", act(() => choose(result.result)));
  $("results").append(button);
  await loadChange(result);
  comparison.withResult(result.change, (data) => {
    const volume = {data, shape: scan.shape, spacing: scan.spacing_mm};
    thumbnail(canvas, volume, centreOf(result.change), THUMBNAIL_MM, PRESETS.lung);
  });
  if (isNew) await choose(result.result);
}

async function loadChange(result) {
  if (result.change) return;
  const [after, labels] = await Promise.all(["after", "labels"].map((kind) => getBytes(path(`/results/${result.result}/change/${kind}`))));
  result.change = {box: result.box, after: new Int16Array(after), labels: new Uint8Array(labels)};
}

/* The middle of the last lesion's label. */
function centreOf({box: [[z0, z1], [y0, y1], [x0, x1]], labels}) {
  const most = labels.reduce((a, b) => Math.max(a, b), 0);
  const sums = [0, 0, 0, 0];
  let at = 0;
  for (let z = z0; z < z1; z++) for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
    if (labels[at++] === most) [z, y, x, 1].forEach((value, index) => { sums[index] += value; });
  }
  return sums.slice(0, 3).map((sum) => Math.round(sum / sums[3]));
}

/* A new entry of the history. */
async function choose(name) {
  const history = [...kept.history.slice(0, kept.at + 1), name];
  keep({history, at: history.length - 1});
  await showChosen(true);
}

async function showChosen(moves = false) {
  const result = results.get(kept.history[kept.at]);
  if (result) {
    await loadChange(result);
    const draft = {seed: 0, attributes: {}, diameter_mm: kept.draft.diameter_mm, ...result.lesions.at(-1)};
    keep({base: result.lesions.slice(0, -1), draft, settings: result.settings});
    brush.voxels.clear();
    comparison.show(result.change);
    if (moves) viewer.setCrosshair(centreOf(result.change));
    say(result.summary);
  } else {
    keep({base: [], draft: {...kept.draft}});
    comparison.show(null);
  }
  for (const button of $("results").children) button.setAttribute("aria-pressed", String(button.dataset.result === result?.result));
  fill();
}

const step = (by) => act(async () => {
  const at = kept.at + by;
  if (at < 0 || at >= kept.history.length) return;
  keep({at});
  await showChosen();
});

function another() {
  const result = results.get(kept.history[kept.at]);
  keep({base: result.lesions, draft: {seed: Number($("seed").value) + 1, diameter_mm: Number($("diameter").value)}});
  brush.voxels.clear();
  fill();
  say("Choose the place of the next lesion. It is painted into the present result.");
}

const chosen = () => results.get(kept.history[kept.at]);

/* ---- what the user does ---- */

const toggle = (name, action) => {
  const button = $(name);
  const flip = () => {
    const pressed = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(pressed));
    action(pressed);
  };
  button.addEventListener("click", flip);
  return flip;
};

const actions = {
  site: act(async () => {
    if (!scan) return;
    const seed = Math.floor(Math.random() * 2 ** 31);
    const body = {diameter_mm: Number($("diameter").value), seed, kind: $("site-kind").value, lesions: kept.base.filter((lesion) => lesion.center)};
    const {center} = await postJson(path("/site"), body);
    place(center);
    viewer.setCrosshair(turned(center));
    say(`${body.kind === "free" ? "A free site" : "A site"}. Press “Generate”, or suggest another one.`);
  }),
  generate: act(generate),
  cancel: act(cancel),
  undo: step(-1),
  redo: step(1),
  another: act(another),
  "open-phantom": act(openPhantom),
  "clear-brush": () => brush.clear(),
  "save-nifti": act(() => download(path(`/results/${chosen().result}/files/ct.nii.gz`), "ct.nii.gz")),
  "save-zip": act(() => download(path(`/results/${chosen().result}/zip`), "lesion.zip")),
  "save-record": act(() => download(path(`/results/${chosen().result}/files/record.json`), "record.json")),
  "copy-command": act(async () => { await copyText(chosen().command); say(chosen().command); }),
  "copy-python": act(async () => { await copyText(chosen().python); say("Copied."); }),
};
for (const [name, action] of Object.entries(actions)) $(name).addEventListener("click", () => action());
const toggles = {
  difference: toggle("difference", (pressed) => viewer.volume && comparison.setMode(pressed ? "difference" : "after")),
  outline: toggle("outline", marks),
  brush: toggle("brush", (pressed) => { brush.active = pressed; stack.classList.toggle("brushing", pressed); }),
  erase: toggle("erase", (pressed) => { brush.erases = pressed; }),
  volume: toggle("volume", (pressed) => { showVolume(pressed); stack.focus(); }),
};

if (!volume.usable) Object.assign($("volume"), {disabled: true, title: "This browser has no WebGL 2."});

$("open-file").addEventListener("change", act(async ({target}) => {
  const [file] = target.files;
  if (file) await openScan(file.name, uploaded(file, file.name));
  target.value = "";
}));
$("open-folder").addEventListener("change", act(async ({target}) => {
  const files = [...target.files];
  if (!files.length) return;
  say(`Packing ${files.length} files …`);
  const zip = await zipOf(files);
  await openScan("DICOM folder", uploaded(zip, "scan.zip"));
  target.value = "";
}));
$("center").addEventListener("change", act(() => {
  const center = $("center").value.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (center.length !== 3 || center.some(Number.isNaN)) throw new Error("Centre: expected three numbers z, y, x.");
  place(center);
  viewer.setCrosshair(turned(center));
}));
for (const name of ["diameter", "seed", "shape", ...SETTINGS]) $(name).addEventListener("input", changed);
$("radius").addEventListener("input", () => { brush.radius = Number($("radius").value); });
$("swipe").addEventListener("input", () => comparison.setSwipe(Number($("swipe").value)));
for (const button of document.querySelectorAll("[data-preset]")) {
  button.addEventListener("click", () => viewer.setPreset(button.dataset.preset));
}
viewer.addEventListener("pick", ({detail}) => {
  stack.focus();
  place(turned(detail.voxel));
});
viewer.addEventListener("hover", ({detail}) => {
  $("readout").textContent = detail ? `${turned(detail.voxel).join(", ")} · ${detail.hu} HU` : "";
});

const KEYS = {
  s: actions.site, g: actions.generate, d: toggles.difference, o: toggles.outline, b: toggles.brush, e: toggles.erase, v: toggles.volume,
  c: () => scan && place(turned(viewer.crosshair)), " ": () => brush.active && brush.paint(viewer.crosshair),
};
document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const ctrl = event.ctrlKey || event.metaKey;
  const typing = event.target.matches("input, select, textarea");
  if (key === "Escape" && running.length) actions.cancel();
  else if (ctrl && key === "z" && !typing) (event.shiftKey ? actions.redo : actions.undo)();
  else if (ctrl && key === "y" && !typing) actions.redo();
  else if (ctrl || event.altKey || typing) return;
  else if (key === " " && event.target.matches("button")) return;
  else if (KEYS[key]) KEYS[key]();
  else if (event.target.matches("button") && key.startsWith("Arrow")) return;
  else if (!($("volume-canvas").hidden ? viewer : volume).key(event)) return;
  event.preventDefault();
});

/* ---- the beginning: a new session with the phantom, or what a reload left ---- */

async function begin() {
  const info = await getJson("/v1/info");
  character = new Character($("character"), info.attributes, changed);
  $("shape").replaceChildren(...info.shapes.map((kind) => new Option(kind, kind)));
  const state = kept.session ? await getJson(path()).catch((error) => {
    if (error instanceof ServerError && error.status === 404) return null;
    throw error;
  }) : null;
  if (!state?.scan) return await openPhantom();
  scan = state.scan;
  await showScan();
  for (const result of state.results) await addResult(result, false);
  const history = kept.history.filter((name) => name === null || results.has(name));
  for (const name of results.keys()) if (!history.includes(name)) history.push(name); // finished while the page was away
  const news = history.length > kept.history.length;
  keep({history, at: news ? history.length - 1 : Math.min(kept.at, history.length - 1)});
  if (chosen()) await showChosen(true);
  running = state.jobs.map(({job}) => job);
  describe();
  await Promise.all(running.map(act(watch)));
}

act(begin)();
