/* A CT volume in three planes. One class, no framework, no other file than viewer.css.

   const viewer = new VolumeViewer(element, {headUp: true, preset: "lung", gapMm: 7});  // element: an empty one
   viewer.load({data, shape: [D, H, W], spacing: [z, y, x]});   // Int16Array in HU, z slowest; mm
   viewer.setMask(mask, {colour: [255, 160, 0], opacity: 0.4}); // Uint8Array of the same length, or null
   viewer.setCrosshair([z, y, x]);                      // voxel; it also chooses the slice of each plane
   viewer.setWindow(1500, -600);  viewer.setPreset("lung");     // HU
   viewer.showCrosshair(false);  viewer.setZoom(2);  viewer.reset();  viewer.scroll(1);  viewer.refresh();
   if (viewer.key(keyboardEvent)) event.preventDefault();       // arrows, PageUp, PageDown, L, M, X, +, -, 0
   viewer.addEventListener("pick", (event) => ...);     // click on a voxel: event.detail = {voxel, hu, plane, event}
   viewer.destroy();

   Events: "pick"; "hover" {voxel, hu} or null; "crosshair" {voxel}; "window" {width, level}; "active" {plane}.
   Properties to read: volume, crosshair, window, zoom, active (index of the plane that keys scroll), mask.

   Mouse: wheel scrolls; dragging (left or right button) sets the window: right for wider, up for brighter; Ctrl + wheel
   zooms; Shift + drag or the middle button pans; a click moves the crosshair and picks.

   The volume is not copied: a caller that changes `data` or the mask calls `refresh()`. Memory: the volume and one slice a
   plane. A frame draws at most once, whatever happened since the last one. With `headUp` (the default) the last slice of
   z is at the top of the coronal and the sagittal plane. */

export const PRESETS = {lung: {width: 1500, level: -600}, mediastinum: {width: 400, level: 40}};
export const PLANES = [
  {name: "axial", axis: 0, down: 1, across: 2},
  {name: "coronal", axis: 1, down: 0, across: 2},
  {name: "sagittal", axis: 2, down: 0, across: 1},
];

const CLICK_PX = 4; // a shorter way is a click, not a drag
const WHEEL_STEP = 40; // of deltaY: touchpads send many small ones
const MOST_ZOOM = 20;
const LEAST_GAP_PX = 8; // of the crosshair
const LEAST_WIDTH = 1; // HU

/* Fetch an int16 volume; onProgress gets shares from 0 to 1. Throws for a status other than 2xx: error.status, and
   error.message is the server's sentence. */
export async function fetchVolume(url, {headers = {}, shape, spacing, signal, onProgress = () => {}}) {
  const response = await fetch(url, {headers, signal, cache: "no-store"});
  if (!response.ok) {
    const detail = await response.json().then((body) => body.detail, () => response.statusText);
    throw Object.assign(new Error(detail), {status: response.status});
  }
  const size = 2 * shape[0] * shape[1] * shape[2];
  const bytes = new Uint8Array(size);
  const reader = response.body.getReader();
  let received = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    if (received + value.length > size) throw new Error(`the volume has more than ${size} bytes`);
    bytes.set(value, received);
    received += value.length;
    onProgress(received / size);
  }
  if (received !== size) throw new Error(`the volume has ${received} bytes, expected ${size}`);
  return {data: new Int16Array(bytes.buffer), shape, spacing};
}

export class VolumeViewer extends EventTarget {
  constructor(element, {headUp = true, preset = "lung", gapMm = 7} = {}) {
    super();
    this.element = element;
    this.headUp = headUp;
    this.gapMm = gapMm; // free of the crosshair, around its place
    this.volume = null;
    this.mask = null;
    this.crosshair = [0, 0, 0];
    this.zoom = 1;
    this.active = 0;
    this.initialPreset = preset;
    this.window = {...PRESETS[preset]};
    this.crosshairShown = true;
    this.maskStyle = {colour: [255, 160, 0], opacity: 0.4};
    this.centre = [0, 0, 0]; // of the view, in voxels; 0 is the lower edge of the first
    this.table = new Uint32Array(65536); // HU -> RGBA
    this.tint = new Uint32Array(256); // grey value -> RGBA, inside the mask
    this.stop = new AbortController(); // ends all listeners
    element.classList.add("viewer");
    this.panes = PLANES.map((plane, index) => this.#pane(plane, index));
    this.resizing = new ResizeObserver(() => this.refresh());
    this.panes.forEach((pane) => this.resizing.observe(pane.frame));
    this.#fillTable();
    this.#mark();
  }

  /* Show a volume, from its centre. Throws for data that does not fit. */
  load({data, shape, spacing}) {
    if (!(data instanceof Int16Array) || data.length !== shape[0] * shape[1] * shape[2]) {
      throw new Error(`expected an Int16Array of ${shape.join(" x ")} voxels`);
    }
    this.volume = {data, shape: [...shape], spacing: [...spacing]};
    this.mask = null;
    PLANES.forEach((plane, index) => {
      const slice = this.panes[index].slice;
      slice.width = shape[plane.across];
      slice.height = shape[plane.down];
      this.panes[index].pixels = slice.getContext("2d").createImageData(slice.width, slice.height);
    });
    this.reset();
  }

  /* Show nothing. */
  clear() {
    this.volume = this.mask = null;
    this.refresh();
  }

  setMask(mask, style = {}) {
    if (mask && (!this.volume || mask.length !== this.volume.data.length)) {
      throw new Error("the mask has another number of voxels than the volume");
    }
    this.mask = mask;
    this.maskStyle = {...this.maskStyle, ...style};
    const {colour, opacity} = this.maskStyle;
    for (let grey = 0; grey < 256; grey++) {
      const [r, g, b] = colour.map((c) => Math.round(grey * (1 - opacity) + c * opacity));
      this.tint[grey] = 0xff000000 | (b << 16) | (g << 8) | r;
    }
    this.refresh();
  }

  setCrosshair(voxel) {
    if (!this.volume) return;
    this.crosshair = voxel.map((v, axis) => Math.min(Math.max(Math.round(v), 0), this.volume.shape[axis] - 1));
    this.#tell("crosshair", {voxel: [...this.crosshair]});
    this.refresh();
  }

  showCrosshair(shown) {
    this.crosshairShown = shown;
    this.refresh();
  }

  setWindow(width, level) {
    this.window = {width: Math.max(LEAST_WIDTH, Math.round(width)), level: Math.round(level)};
    this.#fillTable();
    this.#tell("window", {...this.window});
    this.refresh();
  }

  setPreset(name) {
    this.setWindow(PRESETS[name].width, PRESETS[name].level);
  }

  /* Zoom; 1 fits the plane into its pane. `about`, a voxel, stays where it is. */
  setZoom(zoom, about = null) {
    const before = this.zoom;
    this.zoom = Math.min(Math.max(zoom, 1), MOST_ZOOM);
    if (this.zoom === 1) this.#centreView();
    else if (about) this.centre = this.centre.map((c, axis) => about[axis] + 0.5 + (c - about[axis] - 0.5) * before / this.zoom);
    this.refresh();
  }

  /* Centre, zoom 1, the preset of the beginning. */
  reset() {
    if (!this.volume) return;
    this.zoom = 1;
    this.#centreView();
    this.setPreset(this.initialPreset);
    this.setCrosshair(this.volume.shape.map((n) => Math.floor(n / 2)));
  }

  /* Move `steps` slices in a plane; the active one if none is given. */
  scroll(steps, index = this.active) {
    const voxel = [...this.crosshair];
    voxel[PLANES[index].axis] += steps;
    this.setCrosshair(voxel);
  }

  activate(index) {
    if (index === this.active) return;
    this.active = index;
    this.#mark();
    this.#tell("active", {plane: PLANES[index].name});
  }

  /* Act on a key of the viewer; says whether it was one. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.volume) return false;
    const actions = {
      ArrowUp: () => this.scroll(1),
      ArrowDown: () => this.scroll(-1),
      PageUp: () => this.scroll(5),
      PageDown: () => this.scroll(-5),
      ArrowLeft: () => this.activate((this.active + 2) % 3),
      ArrowRight: () => this.activate((this.active + 1) % 3),
      l: () => this.setPreset("lung"),
      m: () => this.setPreset("mediastinum"),
      x: () => this.showCrosshair(!this.crosshairShown),
      "+": () => this.setZoom(this.zoom * 1.25, this.crosshair),
      "-": () => this.setZoom(this.zoom / 1.25, this.crosshair),
      0: () => this.reset(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) action();
    return Boolean(action);
  }

  /* Draw again in the next frame. */
  refresh() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.panes.forEach((pane) => this.#draw(pane));
    });
  }

  destroy() {
    this.stop.abort();
    this.resizing.disconnect();
    if (this.frame) cancelAnimationFrame(this.frame);
    this.element.replaceChildren();
    this.element.classList.remove("viewer");
    this.volume = this.mask = null;
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  #centreView() {
    this.centre = this.volume.shape.map((n) => n / 2);
  }

  #mark() {
    this.panes.forEach((pane, index) => pane.frame.classList.toggle("active", index === this.active));
  }

  #fillTable() {
    const {width, level} = this.window;
    for (let hu = -32768; hu < 32768; hu++) {
      const grey = Math.min(255, Math.max(0, Math.round(((hu - level) / width + 0.5) * 255)));
      this.table[hu + 32768] = 0xff000000 | (grey << 16) | (grey << 8) | grey; // little-endian RGBA
    }
  }

  #pane(plane, index) {
    const frame = document.createElement("div");
    frame.className = `viewer-pane viewer-${plane.name}`;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${plane.name} plane`);
    const caption = document.createElement("span");
    caption.className = "viewer-caption";
    frame.append(canvas, caption);
    this.element.append(frame);
    const pane = {plane, index, frame, canvas, caption, slice: document.createElement("canvas"), pixels: null, wheel: 0};
    const listen = (name, action, options = {}) =>
      canvas.addEventListener(name, action, {...options, signal: this.stop.signal});
    listen("wheel", (event) => this.#onWheel(pane, event), {passive: false});
    listen("contextmenu", (event) => event.preventDefault());
    listen("pointerdown", (event) => this.#onPress(pane, event));
    listen("pointermove", (event) => this.#onMove(pane, event));
    listen("pointerup", (event) => this.#onRelease(pane, event));
    listen("pointercancel", () => { pane.drag = null; });
    listen("pointerenter", () => this.activate(index));
    listen("pointerleave", () => this.#tell("hover", null));
    return pane;
  }

  #onWheel(pane, event) {
    event.preventDefault();
    if (!this.volume) return;
    if (event.ctrlKey) {
      this.setZoom(this.zoom * Math.exp(-event.deltaY / 400), this.#voxelAt(pane, event) ?? this.crosshair);
      return;
    }
    pane.wheel += event.deltaMode === 0 ? event.deltaY : WHEEL_STEP * event.deltaY;
    const steps = Math.trunc(pane.wheel / WHEEL_STEP);
    pane.wheel -= steps * WHEEL_STEP;
    if (steps) this.scroll(-Math.sign(steps) * Math.min(Math.abs(steps), 3), pane.index);
  }

  #onPress(pane, event) {
    if (!this.volume) return;
    event.preventDefault();
    this.activate(pane.index);
    pane.canvas.setPointerCapture(event.pointerId);
    const pans = event.button === 1 || event.shiftKey;
    pane.drag = {x: event.clientX, y: event.clientY, window: {...this.window}, centre: [...this.centre], pans, moved: false};
  }

  #onMove(pane, event) {
    if (!this.volume) return;
    const drag = pane.drag;
    if (!drag) {
      const voxel = this.#voxelAt(pane, event);
      this.#tell("hover", voxel && {voxel, hu: this.#hu(voxel)});
      return;
    }
    const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(right, down) >= CLICK_PX;
    if (!drag.moved) return;
    if (drag.pans) {
      const {scaleX, scaleY, flip} = this.#placement(pane);
      const ratio = this.#ratio(pane);
      this.centre[pane.plane.across] = drag.centre[pane.plane.across] - right * ratio / scaleX;
      this.centre[pane.plane.down] = drag.centre[pane.plane.down] - (flip ? -1 : 1) * down * ratio / scaleY;
      this.refresh();
    } else {
      const pace = Math.max(drag.window.width, 50) / 400; // HU a pixel
      this.setWindow(drag.window.width + right * pace, drag.window.level + down * pace);
    }
  }

  #onRelease(pane, event) {
    const drag = pane.drag;
    pane.drag = null;
    if (!drag || drag.moved || event.button !== 0) return;
    const voxel = this.#voxelAt(pane, event);
    if (!voxel) return;
    this.setCrosshair(voxel);
    this.#tell("pick", {voxel, hu: this.#hu(voxel), plane: pane.plane.name, event});
  }

  #hu([z, y, x]) {
    const [, rows, columns] = this.volume.shape;
    return this.volume.data[(z * rows + y) * columns + x];
  }

  #ratio(pane) { // canvas pixels for a CSS pixel
    return pane.canvas.width / Math.max(pane.canvas.clientWidth, 1);
  }

  /* Where the slice lies on the canvas: its corner and the size of a voxel, in canvas pixels. */
  #placement({plane, canvas}) {
    const {shape, spacing} = this.volume;
    const {across, down} = plane;
    const fit = Math.min(canvas.width / (shape[across] * spacing[across]), canvas.height / (shape[down] * spacing[down]));
    const [scaleX, scaleY] = [spacing[across] * fit * this.zoom, spacing[down] * fit * this.zoom];
    const flip = this.headUp && down === 0;
    const row = flip ? shape[down] - this.centre[down] : this.centre[down];
    return {x: canvas.width / 2 - this.centre[across] * scaleX, y: canvas.height / 2 - row * scaleY, scaleX, scaleY, flip};
  }

  #voxelAt(pane, event) {
    if (!this.volume) return null;
    const {x, y, scaleX, scaleY, flip} = this.#placement(pane);
    const {shape} = this.volume;
    const {axis, across, down} = pane.plane;
    const ratio = this.#ratio(pane);
    const bounds = pane.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - bounds.left) * ratio - x) / scaleX);
    let row = Math.floor(((event.clientY - bounds.top) * ratio - y) / scaleY);
    if (flip) row = shape[down] - 1 - row;
    if (column < 0 || column >= shape[across] || row < 0 || row >= shape[down]) return null;
    const voxel = [0, 0, 0];
    [voxel[axis], voxel[across], voxel[down]] = [this.crosshair[axis], column, row];
    return voxel;
  }

  #draw(pane) {
    const {canvas, frame, caption, plane, slice, pixels} = pane;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(frame.clientWidth * density), Math.round(frame.clientHeight * density)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    caption.textContent = plane.name;
    if (!this.volume) return;
    this.#fillSlice(plane, pixels);
    slice.getContext("2d").putImageData(pixels, 0, 0);
    const {x, y, scaleX, scaleY, flip} = this.#placement(pane);
    context.imageSmoothingQuality = "high";
    context.drawImage(slice, x, y, slice.width * scaleX, slice.height * scaleY);
    const row = this.crosshair[plane.down];
    if (this.crosshairShown) {
      const lineY = y + ((flip ? this.volume.shape[plane.down] - 1 - row : row) + 0.5) * scaleY;
      const gap = Math.max(this.gapMm * scaleX / this.volume.spacing[plane.across], LEAST_GAP_PX * density);
      this.#drawCrosshair(context, x + (this.crosshair[plane.across] + 0.5) * scaleX, lineY, gap, density);
    }
    caption.textContent = `${plane.name} ${this.crosshair[plane.axis] + 1}/${this.volume.shape[plane.axis]}`;
  }

  /* The grey values of the present slice, with the mask's colour over them. */
  #fillSlice({axis, across, down}, pixels) {
    const {data, shape} = this.volume;
    const strides = [shape[1] * shape[2], shape[2], 1];
    const [columns, rows] = [shape[across], shape[down]];
    const out = new Uint32Array(pixels.data.buffer);
    const first = this.crosshair[axis] * strides[axis];
    const flip = this.headUp && down === 0;
    const {table, tint, mask} = this;
    for (let row = 0, place = 0; row < rows; row++) {
      let index = first + (flip ? rows - 1 - row : row) * strides[down];
      for (let column = 0; column < columns; column++, index += strides[across], place++) {
        out[place] = table[data[index] + 32768];
        if (mask !== null && mask[index]) out[place] = tint[out[place] & 255];
      }
    }
  }

  /* Four arms that leave the place itself free. */
  #drawCrosshair(context, x, y, gap, density) {
    const {width, height} = context.canvas;
    context.strokeStyle = "rgba(80, 200, 190, 0.65)";
    context.lineWidth = density;
    context.beginPath();
    for (const [fromX, fromY, toX, toY] of [[0, y, x - gap, y], [x + gap, y, width, y]]) {
      if (toX > fromX) { context.moveTo(fromX, fromY); context.lineTo(toX, toY); }
    }
    for (const [fromY, toY] of [[0, y - gap], [y + gap, height]]) {
      if (toY > fromY) { context.moveTo(x, fromY); context.lineTo(x, toY); }
    }
    context.stroke();
  }
}
