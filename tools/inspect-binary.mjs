// Reads what a loader would of a shared library, for whichever platform it was made, without running it: format and
// machine, the libraries it needs, the glibc version it needs, the names it exports. ELF, Mach-O and PE of 64 bits,
// little-endian, from the formats' own specifications. Not here: what is allowed (tools/prebuild.mjs).
//   node tools/inspect-binary.mjs FILE ...

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

/** @typedef {{ format: "elf" | "mach-o" | "pe", machine: "x64" | "arm64" | string, needs: string[], glibc: string, exports: string[], minimumMacos: string }} Facts */

const textAt = (bytes, at) => bytes.toString("latin1", at, bytes.indexOf(0, at));
const number64 = (bytes, at) => Number(bytes.readBigUInt64LE(at));
const higher = (a, b) => {
  const [x, y] = [a, b].map((text) => text.split(".").map(Number));
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    const difference = (x[i] ?? 0) - (y[i] ?? 0);
    if (difference !== 0) return difference > 0 ? a : b;
  }
  return a;
};

/** Facts of a library in memory. Throws at what is none of the three formats. @returns {Facts} */
export function inspectBinary(bytes) {
  if (bytes.readUInt32BE(0) === 0x7f454c46) return inspectElf(bytes);
  if (bytes.readUInt32LE(0) === 0xfeedfacf) return inspectMachO(bytes);
  if (bytes.readUInt16LE(0) === 0x5a4d) return inspectPe(bytes);
  throw new Error("neither ELF, Mach-O of 64 bits nor PE");
}

/*
 * ELF: section headers from e_shoff (at 40); of each its type (4), offset (24), size (32), link (40), entry size (56).
 * .dynamic (type 6) names the libraries needed (tag 1), .dynsym (11) has exports, .gnu.version_r (0x6ffffffe) the
 * versions of other libraries' symbols: records of file and count, each with a chain of names.
 */
function inspectElf(bytes) {
  const machine = { 62: "x64", 183: "arm64" }[bytes.readUInt16LE(18)] ?? `ELF ${bytes.readUInt16LE(18)}`;
  const [start, size, count] = [number64(bytes, 40), bytes.readUInt16LE(58), bytes.readUInt16LE(60)];
  const sections = Array.from({ length: count }, (_, i) => {
    const at = start + i * size;
    const [offset, length] = [number64(bytes, at + 24), number64(bytes, at + 32)];
    return { type: bytes.readUInt32LE(at + 4), offset, length, link: bytes.readUInt32LE(at + 40) };
  });
  const stringsOf = (section) => sections[section.link].offset;
  const find = (type) => sections.find((section) => section.type === type);
  const needs = [];
  const dynamic = find(6);
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.length; at += 16) {
    if (number64(bytes, at) === 1) needs.push(textAt(bytes, stringsOf(dynamic) + number64(bytes, at + 8)));
  }
  const names = [];
  const symbols = find(11);
  for (let at = symbols.offset; at < symbols.offset + symbols.length; at += 24) {
    const isDefined = bytes.readUInt16LE(at + 6) !== 0;
    const isVisible = (bytes[at + 5] & 3) === 0 && bytes[at + 4] >> 4 !== 0;
    if (isDefined && isVisible) names.push(textAt(bytes, stringsOf(symbols) + bytes.readUInt32LE(at)));
  }
  return {
    format: "elf",
    machine,
    needs,
    exports: names,
    glibc: glibcOf(bytes, find(0x6ffffffe), stringsOf),
  };
}

function glibcOf(bytes, versions, stringsOf) {
  let needed = "";
  for (let at = versions?.offset ?? 0, more = versions !== undefined; more; ) {
    let entry = at + bytes.readUInt32LE(at + 8);
    for (let left = bytes.readUInt16LE(at + 2); left > 0; left--) {
      const name = textAt(bytes, stringsOf(versions) + bytes.readUInt32LE(entry + 8));
      const [, version] = /^GLIBC_(\d[\d.]*)$/.exec(name) ?? [];
      if (version) needed = needed ? higher(needed, version) : version;
      entry += bytes.readUInt32LE(entry + 12);
    }
    const next = bytes.readUInt32LE(at + 12);
    more = next !== 0;
    at += next;
  }
  return needed;
}

/*
 * Mach-O: ncmds (at 16) load commands from byte 32, each its kind and size. Libraries are 0xc, 0x80000018 and
 * 0x8000001f with a name at an offset of theirs (8); the symbol table is 2 (offset 8, count 12, strings 16); the
 * oldest macOS is 0x32 (12) or 0x24 (8), as xxxx.yy.zz in bytes.
 */
function inspectMachO(bytes) {
  const kind = bytes.readUInt32LE(4);
  const machine = { 16777223: "x64", 16777228: "arm64" }[kind] ?? `Mach-O ${kind}`;
  const needs = [];
  const names = [];
  let minimumMacos = "";
  let isSigned = false;
  const versionAt = (at) => `${bytes.readUInt16LE(at + 2)}.${bytes[at + 1]}`;
  for (let i = 0, at = 32; i < bytes.readUInt32LE(16); i++, at += bytes.readUInt32LE(at + 4)) {
    const command = bytes.readUInt32LE(at);
    if ([0xc, 0x80000018, 0x8000001f].includes(command))
      needs.push(textAt(bytes, at + bytes.readUInt32LE(at + 8)));
    if (command === 0x32) minimumMacos = versionAt(at + 12);
    if (command === 0x24) minimumMacos = versionAt(at + 8);
    if (command === 0x1d) isSigned = true;
    if (command !== 2) continue;
    const [symbols, count, strings] = [8, 12, 16].map((offset) => bytes.readUInt32LE(at + offset));
    for (let symbol = symbols; symbol < symbols + count * 16; symbol += 16) {
      const type = bytes[symbol + 4];
      const isExport = (type & 0xe0) === 0 && (type & 0x11) === 1 && (type & 0xe) !== 0;
      if (isExport) names.push(textAt(bytes, strings + bytes.readUInt32LE(symbol)).replace(/^_/, ""));
    }
  }
  return { format: "mach-o", machine, needs, exports: names, glibc: "", minimumMacos, isSigned };
}

/*
 * PE: the header lies where byte 60 says: machine (4), sections (6), size of the optional header (20), which holds
 * pairs of address and size from 112: exports, imports (and delayed ones, 13). Addresses are turned to offsets by the
 * section table.
 */
function inspectPe(bytes) {
  const header = bytes.readUInt32LE(60);
  const kind = bytes.readUInt16LE(header + 4);
  const machine = { 34404: "x64", 43620: "arm64" }[kind] ?? `PE ${kind}`;
  const optional = header + 24;
  const table = optional + bytes.readUInt16LE(header + 20);
  const sections = Array.from({ length: bytes.readUInt16LE(header + 6) }, (_, i) => {
    const at = table + i * 40;
    return [12, 16, 20].map((offset) => bytes.readUInt32LE(at + offset));
  });
  const offsetOf = (address) => {
    const section = sections.find(([start, size]) => address >= start && address < start + size);
    if (!section) throw new Error("an address outside all sections");
    return address - section[0] + section[2];
  };
  const directory = (i) => bytes.readUInt32LE(optional + 112 + i * 8);
  const needs = [];
  for (let at = offsetOf(directory(1)); bytes.readUInt32LE(at + 12) !== 0; at += 20) {
    needs.push(textAt(bytes, offsetOf(bytes.readUInt32LE(at + 12))));
  }
  const names = [];
  if (directory(0) !== 0) {
    const at = offsetOf(directory(0));
    const list = offsetOf(bytes.readUInt32LE(at + 32));
    for (let i = 0; i < bytes.readUInt32LE(at + 24); i++) {
      names.push(textAt(bytes, offsetOf(bytes.readUInt32LE(list + i * 4))));
    }
  }
  return { format: "pe", machine, needs, exports: names, glibc: "" };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const path of process.argv.slice(2)) console.log(path, inspectBinary(readFileSync(path)));
}
