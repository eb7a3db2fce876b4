/* A brush over the viewer: a ball of a radius in mm, in any plane; by mouse, touch or keyboard. */

import {ball} from "./compare.js";

export class Brush {
  constructor(comparison, stack, onChange) {
    this.comparison = comparison;
    this.onChange = onChange;
    this.active = this.erases = this.pressed = false;
    this.radius = 3; // mm
    this.voxels = new Set();
    const {viewer} = comparison;
    viewer.addEventListener("hover", ({detail}) => {
      this.hovered = detail?.voxel ?? null;
      if (this.active && this.pressed && this.hovered) this.paint(this.hovered);
    });
    // The viewer must not take the drag for a change of the window.
    stack.addEventListener("pointerdown", (event) => {
      if (!this.active || event.button !== 0) return;
      event.stopPropagation();
      event.preventDefault();
      stack.focus();
      this.pressed = true;
      const {clientX, clientY, pointerId} = event; // a touch has not hovered before
      event.target.dispatchEvent(new PointerEvent("pointermove", {clientX, clientY, pointerId, bubbles: true}));
    }, {capture: true});
    addEventListener("pointerup", () => { this.pressed = false; });
  }

  /* Add or erase a ball around a voxel. */
  paint(voxel) {
    const {shape, spacing} = this.comparison.viewer.volume;
    for (const index of ball(voxel, this.radius, shape, spacing)) this.erases ? this.voxels.delete(index) : this.voxels.add(index);
    this.onChange();
  }

  clear() {
    this.voxels.clear();
    this.onChange();
  }

  /* The box of the painted voxels in the scan's own axes, and its bytes; `flips` says which axes the viewer turned. */
  box(flips) {
    const {shape} = this.comparison.viewer.volume;
    const own = [...this.voxels].map((index) => {
      const voxel = [Math.floor(index / (shape[1] * shape[2])), Math.floor(index / shape[2]) % shape[1], index % shape[2]];
      return voxel.map((at, axis) => (flips[axis] ? shape[axis] - 1 - at : at));
    });
    const origin = [...shape];
    const end = [0, 0, 0];
    for (const voxel of own) voxel.forEach((at, axis) => {
      origin[axis] = Math.min(origin[axis], at);
      end[axis] = Math.max(end[axis], at + 1);
    });
    const size = end.map((at, axis) => at - origin[axis]);
    const bytes = new Uint8Array(size[0] * size[1] * size[2]);
    for (const [z, y, x] of own) bytes[((z - origin[0]) * size[1] + y - origin[1]) * size[2] + x - origin[2]] = 1;
    return {origin, size, bytes};
  }
}
