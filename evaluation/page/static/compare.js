/* A scan before and after: two viewers, one above the other, of which the upper one shows the left part of each plane.

   The volume of the lower viewer is a copy that holds the present result, or the difference to the scan. */

import {VolumeViewer, PLANES} from "./viewer.js";

export {PLANES};
const DIFFERENCE = {width: 800, level: 0}; // HU

export class Comparison {
  constructor(below, above) {
    this.viewer = new VolumeViewer(below);
    this.upper = new VolumeViewer(above);
    this.upper.table = this.viewer.table;
    this.upper.showCrosshair(false);
    this.above = above;
    this.before = null;
    this.change = null; // {box, after, labels} of a result
    this.mask = null;
    this.mode = "after";
    const refresh = this.viewer.refresh.bind(this.viewer);
    this.viewer.refresh = () => {
      Object.assign(this.upper, {zoom: this.viewer.zoom, centre: [...this.viewer.centre], crosshair: [...this.viewer.crosshair]});
      this.upper.refresh();
      refresh();
    };
    this.setSwipe(0);
  }

  load(data, shape, spacing) {
    this.before = data;
    this.change = null;
    this.mode = "after";
    this.above.hidden = false;
    this.upper.load({data, shape, spacing});
    this.viewer.load({data: Int16Array.from(data), shape, spacing});
    this.mask = new Uint8Array(data.length);
    this.viewer.setMask(this.mask);
  }

  get shape() {
    return this.viewer.volume.shape;
  }

  /* Show a result, or null for the scan alone. */
  show(change) {
    this.#restore();
    this.change = change;
    this.#fill();
  }

  /* "after", or "difference". */
  setMode(mode) {
    if (mode === this.mode) return;
    if (mode === "difference") this.window = {...this.viewer.window};
    this.#restore();
    this.mode = mode;
    this.viewer.volume.data.set(mode === "after" ? this.before : new Int16Array(this.before.length));
    this.#fill();
    const {width, level} = mode === "after" ? this.window ?? this.viewer.window : DIFFERENCE;
    this.viewer.setWindow(width, level);
    this.above.hidden = mode !== "after";
  }

  /* Per cent of each plane that shows the scan before. */
  setSwipe(percent) {
    this.above.style.setProperty("--swipe", `${percent}%`);
  }

  /* Colour voxels: calls paint(mask) on an empty mask. */
  setMarks(paint) {
    this.mask.fill(0);
    paint(this.mask);
    this.viewer.refresh();
  }

  /* Calls use(data) while the volume holds a result that may not be the one that is shown. */
  withResult(change, use) {
    const [{data}, shown, mode] = [this.viewer.volume, this.change, this.mode];
    if (mode === "after") this.#restore();
    const whole = mode === "after" ? data : Int16Array.from(this.before);
    this.change = change;
    this.each((index, place) => { whole[index] = change.after[place]; });
    use(whole);
    if (mode === "after") this.#restore();
    this.change = shown;
    this.#fill();
  }

  /* Calls action(index in the volume, index in the box) for each voxel of the change's box. */
  each(action) {
    if (!this.change) return;
    const [, rows, columns] = this.shape;
    const [[z0, z1], [y0, y1], [x0, x1]] = this.change.box;
    let place = 0;
    for (let z = z0; z < z1; z++) for (let y = y0; y < y1; y++) {
      const line = (z * rows + y) * columns;
      for (let x = x0; x < x1; x++) action(line + x, place++);
    }
  }

  #restore() {
    const {data} = this.viewer.volume;
    this.each((index) => { data[index] = this.mode === "after" ? this.before[index] : 0; });
  }

  #fill() {
    const {data} = this.viewer.volume;
    this.each((index, place) => {
      data[index] = this.change.after[place] - (this.mode === "after" ? 0 : this.before[index]);
    });
    this.viewer.refresh();
  }
}

/* Voxels of a ball, as indices into the volume. */
export function* ball([z, y, x], radius, shape, spacing) {
  const [first, last] = [-1, 1].map((sign) => [z, y, x].map((at, axis) =>
    Math.min(Math.max(Math.round(at + sign * (radius / spacing[axis] + 1)), 0), shape[axis] - 1)));
  for (let k = first[0]; k <= last[0]; k++) for (let j = first[1]; j <= last[1]; j++) for (let i = first[2]; i <= last[2]; i++) {
    const [dz, dy, dx] = [(k - z) * spacing[0], (j - y) * spacing[1], (i - x) * spacing[2]];
    if (dz * dz + dy * dy + dx * dx <= radius * radius) yield (k * shape[1] + j) * shape[2] + i;
  }
}

/* A small picture of the axial slice at a voxel, `edge` mm wide; each pixel shows the nearest voxel. */
export function thumbnail(canvas, {data, shape, spacing}, [z, y, x], edge, {width, level}) {
  const size = canvas.width;
  const pixels = canvas.getContext("2d").createImageData(size, size);
  const at = (pixel, centre, mm) => Math.round(centre + ((pixel + 0.5) / size - 0.5) * edge / mm);
  for (let row = 0; row < size; row++) for (let column = 0; column < size; column++) {
    const [j, i] = [at(row, y, spacing[1]), at(column, x, spacing[2])];
    const hu = j >= 0 && j < shape[1] && i >= 0 && i < shape[2] ? data[(z * shape[1] + j) * shape[2] + i] : -1024;
    const grey = ((hu - level) / width + 0.5) * 255;
    pixels.data.set([grey, grey, grey, 255], 4 * (row * size + column));
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
