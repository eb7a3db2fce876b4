/* Files as one zip, stored without compression (PKWARE's APPNOTE, version 2.0): how a DICOM folder is sent. */

const TABLE = Uint32Array.from({length: 256}, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/* Numbers of 2 or 4 bytes, little-endian: [value, size] each. */
function record(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view.buffer;
}

/* A Blob with the files; they are numbered, their own names are not sent. */
export async function zipOf(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [number, file] of files.entries()) {
    const name = new TextEncoder().encode(`${String(number).padStart(5, "0")}.dcm`);
    const common = [[20, 2], [0, 2], [0, 2], [0, 2], [33, 2], [crc32(new Uint8Array(await file.arrayBuffer())), 4],
      [file.size, 4], [file.size, 4], [name.length, 2], [0, 2]];
    const head = record([0x04034b50, 4], ...common);
    parts.push(head, name, file);
    directory.push(record([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), name);
    offset += head.byteLength + name.length + file.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = record([0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end]);
}
