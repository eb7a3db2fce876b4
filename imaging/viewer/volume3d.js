/* A CT volume from any side: what X-rays would show of it, with marked voxels in colour. WebGL 2, no other file.

   const view = new Volume3D(canvas);                     // view.usable is false without WebGL 2
   view.load({data, shape: [D, H, W], spacing: [z, y, x]}, mask);   // Int16Array in HU; Uint8Array of the same length or null
   view.rotate(dx, dy);  view.setZoom(2);  view.reset();  // radians
   if (view.key(keyboardEvent)) event.preventDefault();   // arrows turn, + and - zoom, 0 resets

   Mouse: dragging turns, the wheel zooms. The volume is averaged to at most `MOST` voxels along each axis. */

const MOST = 160;
const HU = [-1000, 400]; // black to white, before the mean along the ray
const STEP_RAD = 0.1;
const MOST_ZOOM = 8;

const VERTEX = `#version 300 es
in vec2 corner;
out vec2 at;
void main() { at = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;

/* Parallel rays through the box; the mean of the attenuation, and the longest way through marked voxels. */
const FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler3D;
uniform sampler3D volume;
uniform mat3 turn;   // from the screen to the box
uniform vec3 extent; // of the box, relative to its longest edge
uniform vec2 aspect;
uniform float zoom;
in vec2 at;
out vec4 colour;
const int STEPS = 320;
void main() {
  vec3 origin = turn * vec3(at * aspect / zoom, -1.0);
  vec3 way = turn * vec3(0.0, 0.0, 2.0 / float(STEPS));
  float sum = 0.0, marked = 0.0, inside = 0.0;
  for (int i = 0; i < STEPS; i++) {
    vec3 place = (origin + float(i) * way) / extent + 0.5;
    if (all(greaterThanEqual(place, vec3(0.0))) && all(lessThanEqual(place, vec3(1.0)))) {
      vec2 seen = texture(volume, place).rg;
      sum += seen.r * seen.r;
      marked += step(0.25, seen.g);
      inside += 1.0;
    }
  }
  float grey = 1.0 - exp(-4.0 * sum / float(STEPS));
  float share = 1.0 - exp(-0.35 * marked);
  colour = vec4(mix(vec3(grey), vec3(1.0, 0.55, 0.1), 0.85 * share), 1.0);
}`;

export class Volume3D {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", {antialias: false});
    this.usable = Boolean(this.gl);
    this.reset();
    if (!this.usable) return;
    this.program = linked(this.gl);
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.rotate((event.movementX / canvas.clientHeight) * 4, (event.movementY / canvas.clientHeight) * 4);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.setZoom(this.zoom * Math.exp(-event.deltaY / 400));
    }, {passive: false});
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  load({data, shape, spacing}, mask = null) {
    if (!this.usable) return;
    const {texels, size} = averaged(data, mask, shape);
    const {gl} = this;
    gl.bindTexture(gl.TEXTURE_3D, this.texture ??= gl.createTexture());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage3D(gl.TEXTURE_3D, 0, gl.RG8, size[2], size[1], size[0], 0, gl.RG, gl.UNSIGNED_BYTE, texels);
    for (const name of ["MIN_FILTER", "MAG_FILTER"]) gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_${name}`], gl.LINEAR);
    for (const name of ["S", "T", "R"]) gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_WRAP_${name}`], gl.CLAMP_TO_EDGE);
    const edges = shape.map((count, axis) => count * spacing[axis]).reverse(); // x, y, z
    const longest = Math.max(...edges);
    this.extent = edges.map((edge) => edge / longest);
    this.draw();
  }

  rotate(dx, dy) {
    this.angles = [this.angles[0] + dx, Math.min(Math.max(this.angles[1] + dy, -Math.PI / 2), Math.PI / 2)];
    this.draw();
  }

  setZoom(zoom) {
    this.zoom = Math.min(Math.max(zoom, 0.5), MOST_ZOOM);
    this.draw();
  }

  reset() {
    this.angles = [0, 0]; // from the front, head up
    this.zoom = 1.8;
    this.draw();
  }

  key({key}) {
    const turns = {ArrowLeft: [-STEP_RAD, 0], ArrowRight: [STEP_RAD, 0], ArrowUp: [0, -STEP_RAD], ArrowDown: [0, STEP_RAD]};
    if (turns[key]) this.rotate(...turns[key]);
    else if (key === "+" || key === "=") this.setZoom(this.zoom * 1.25);
    else if (key === "-") this.setZoom(this.zoom / 1.25);
    else if (key === "0") this.reset();
    else return false;
    return true;
  }

  draw() {
    if (!this.extent || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const {gl, canvas, program} = this;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!width || !height) return;
      Object.assign(canvas, {width, height});
      gl.viewport(0, 0, width, height);
      gl.useProgram(program);
      gl.bindTexture(gl.TEXTURE_3D, this.texture);
      gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), false, turnOf(...this.angles));
      gl.uniform3fv(gl.getUniformLocation(program, "extent"), this.extent);
      gl.uniform2f(gl.getUniformLocation(program, "aspect"), width / Math.min(width, height), height / Math.min(width, height));
      gl.uniform1f(gl.getUniformLocation(program, "zoom"), this.zoom);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    });
  }
}

/* Columns of the matrix from the screen (right, up, away from the reader) to the box (x, y, z): from the front at (0, 0). */
function turnOf(around, over) {
  const [c, s, C, S] = [Math.cos(around), Math.sin(around), Math.cos(over), Math.sin(over)];
  const right = [c, s, 0];
  const away = [-s * C, c * C, -S];
  const up = [-s * S, c * S, C];
  return new Float32Array([...right, ...up, ...away]);
}

/* Mean HU of boxes of voxels as 0 ... 255, beside 255 where one of them is marked. */
export function averaged(data, mask, shape) {
  const factors = shape.map((count) => Math.ceil(count / MOST));
  const size = shape.map((count, axis) => Math.ceil(count / factors[axis]));
  const sums = new Float32Array(size[0] * size[1] * size[2]);
  const counts = new Uint16Array(sums.length);
  const texels = new Uint8Array(2 * sums.length);
  let from = 0;
  for (let z = 0; z < shape[0]; z++) for (let y = 0; y < shape[1]; y++) {
    const row = (Math.floor(z / factors[0]) * size[1] + Math.floor(y / factors[1])) * size[2];
    for (let x = 0; x < shape[2]; x++, from++) {
      const to = row + Math.floor(x / factors[2]);
      sums[to] += data[from];
      counts[to]++;
      if (mask?.[from]) texels[2 * to + 1] = 255;
    }
  }
  const [low, high] = HU;
  for (let to = 0; to < sums.length; to++) {
    texels[2 * to] = 255 * Math.min(Math.max((sums[to] / counts[to] - low) / (high - low), 0), 1);
  }
  return {texels, size};
}

function linked(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "corner");
  gl.linkProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  gl.enableVertexAttribArray(0);
  gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  return program;
}
