// Compiles the native CPU engine: the system's C++ compiler and node-api-headers, nothing else. `npm install` runs
// it; `node native/build.mjs` builds again what changed. Sources in native/ are compiled once, those in its folders
// once per instruction set that uses them (cuda/ once: the driver's face), all under native/build/, cached by content. Names for sources: isa.h.
// With --sanitize it builds a second addon, native/build/sanitize/lowrank.node, that stops at the first bad access or
// undefined operation (tools/test-sanitize.mjs runs the tests over it).

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, platform } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));
const sanitize = process.argv.includes("--sanitize");
const outFolder = sanitize ? join(root, "build", "sanitize") : join(root, "build");
const objectsFolder = join(outFolder, "obj");
const target = join(outFolder, "lowrank.node");
const headers = join(
  dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")),
  "include",
);

const avx2 = ["-mavx2", "-mfma", "-mf16c"];
const avx512 = [...avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"];
const avx512bf16 = [...avx512, "-mavx512bf16"];
const amx = [...avx512bf16, "-mamx-tile", "-mamx-bf16", "-mprfchw"];

const plain = ["gemm", "kernels"];

/**
 * Instruction sets by architecture, lowest first: the linker keeps the first of equal inline functions. `folders` are
 * those whose sources the set compiles; only products use what the last two x64 sets add, and their other kernels are
 * AVX-512's (dispatch.cc).
 */
const instructionSets = {
  x64: [
    { suffix: "Portable", flags: [], folders: plain },
    { suffix: "Avx2", flags: avx2, folders: plain },
    { suffix: "Avx512", flags: avx512, folders: plain },
    { suffix: "Avx512Bf16", flags: avx512bf16, folders: ["gemm", "bf16"] },
    { suffix: "Amx", flags: amx, folders: ["gemm"] },
  ],
  arm64: [
    { suffix: "Portable", flags: [], folders: plain },
    { suffix: "Neon", flags: ["-march=armv8-a"], folders: plain },
  ],
};

const baseFlags = [
  "-std=c++20",
  // -fexpensive-optimizations fuses multiplications and additions as -O3 does: tests hold the last bits to PyTorch's.
  ...(sanitize
    ? ["-O1", "-fexpensive-optimizations", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    : ["-O3"]),
  ...(sanitize ? ["-fno-sanitize-recover=undefined"] : []),
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=fast",
  "-pthread",
  "-Wall",
  "-Wextra",
  "-Wno-psabi",
  "-Wno-uninitialized", // gcc 12 warns inside its own AVX-512 header
  "-Wno-maybe-uninitialized",
  `-I${root}`,
  `-isystem${headers}`,
];

const PROGRESS_FILES = 20;

/**
 * Says it where a person sees it. npm keeps what an install script prints to itself, unless it was asked not to
 * (foreground-scripts, as .npmrc asks in this folder): then the terminal is written to past npm, where there is one.
 */
function say(text) {
  const line = `lowrank: ${text}`;
  const hidden = process.env.npm_lifecycle_event === "install" && !process.stdout.isTTY;
  if (hidden && process.env.npm_config_foreground_scripts !== "true" && !process.env.CI) {
    try {
      const terminal = openSync("/dev/tty", "w");
      writeSync(terminal, `\r\u001b[K${line}\n`);
      closeSync(terminal);
    } catch {
      // No terminal, nobody to tell.
    }
  }
  console.log(line);
}

function findCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"];
  for (const candidate of candidates) {
    const [command, ...args] = candidate.trim().split(/\s+/);
    const probe = spawnSync(command, [...args, "--version"], { encoding: "utf8" });
    if (probe.status === 0) return { command, args, version: probe.stdout };
  }
  return null;
}

function accepts(compiler, flags) {
  const args = [...compiler.args, ...flags, "-Werror", "-std=c++20", "-fsyntax-only", "-x", "c++", "-"];
  return spawnSync(compiler.command, args, { input: "int main() { return 0; }\n" }).status === 0;
}

/** The source and every header of ours that it reaches, as one text. */
function closureOf(path, seen = new Map()) {
  if (seen.has(path) || !existsSync(path)) return seen;
  const text = readFileSync(path, "utf8");
  seen.set(path, text);
  for (const [, name] of text.matchAll(/^\s*#include "([^"]+)"/gm)) {
    closureOf(resolve(dirname(path), name), seen);
    closureOf(resolve(root, name), seen);
  }
  return seen;
}

function sourcesIn(folder) {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((name) => name.endsWith(".cc"));
  return files.sort().map((name) => join(folder, name));
}

/** One compilation: source, flags, object path (named by the hash of all that goes in). */
function unit(compiler, source, label, flags) {
  const hash = createHash("sha256").update(compiler.version).update(flags.join("\0"));
  for (const [path, text] of closureOf(source)) hash.update(relative(root, path)).update("\0").update(text);
  const stem = `${label}-${basename(source, ".cc")}`;
  return { source, flags, stem, object: join(objectsFolder, `${stem}.${hash.digest("hex").slice(0, 20)}.o`) };
}

function planUnits(compiler) {
  const known = instructionSets[process.arch] ?? [{ suffix: "Portable", flags: [], folders: plain }];
  const sets = known.filter((set) => set.flags.length === 0 || accepts(compiler, set.flags));
  const have = sets.map((set) => `-DLOWRANK_HAVE_${set.suffix.toUpperCase()}`);
  const units = sourcesIn(root).map((source) => unit(compiler, source, "all", [...baseFlags, ...have]));
  for (const room of ["cuda", "mpi"]) {
    for (const source of sourcesIn(join(root, room))) units.push(unit(compiler, source, room, baseFlags));
  }
  for (const set of sets) {
    const names = [`-DLOWRANK_ISA_SUFFIX=${set.suffix}`, `-DLOWRANK_ISA_${set.suffix.toUpperCase()}`];
    const flags = [...baseFlags, ...set.flags, ...names];
    const sources = set.folders.flatMap((folder) => sourcesIn(join(root, folder)));
    for (const source of sources) units.push(unit(compiler, source, set.suffix, flags));
  }
  return units;
}

/** Runs the compiler into a temporary file, then renames: builds that overlap do no harm. */
function produce(compiler, args, output) {
  const temporary = `${output}.${process.pid}.tmp`;
  return new Promise((done) => {
    const child = spawn(compiler.command, [...compiler.args, ...args, "-o", temporary], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let messages = "";
    child.stderr.on("data", (chunk) => {
      messages += chunk;
    });
    child.on("close", (code) => {
      if (code === 0) renameSync(temporary, output);
      else rmSync(temporary, { force: true });
      done({ ok: code === 0, messages });
    });
  });
}

async function compileAll(compiler, units) {
  const pending = units.filter((u) => !existsSync(u.object));
  const count = pending.length;
  let failed = false;
  let compiled = 0;
  const lane = async () => {
    for (let next = pending.shift(); next && !failed; next = pending.shift()) {
      const result = await produce(compiler, [...next.flags, "-c", next.source], next.object);
      if (result.messages) process.stderr.write(result.messages);
      if (!result.ok) failed = true;
      compiled++;
      if (compiled % PROGRESS_FILES === 0 && compiled < count) say(`compiled ${compiled} of ${count} files`);
    }
  };
  const lanes = Math.min(count, availableParallelism());
  if (count > 0) say(`compiling the native engine: ${count} files, ${lanes} at a time`);
  await Promise.all(Array.from({ length: lanes }, lane));
  return { ok: !failed, count };
}

async function link(compiler, units) {
  const objects = units.map((u) => u.object);
  const base = ["-shared", "-pthread", ...(sanitize ? ["-fsanitize=address,undefined"] : [])];
  const variants =
    platform() === "darwin"
      ? [["-undefined", "dynamic_lookup"]]
      : sanitize
        ? [[]]
        : [["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"], []];
  let result = { ok: false, messages: "" };
  for (const variant of variants) {
    result = await produce(compiler, [...base, ...objects, ...variant], target);
    if (result.ok) return true;
  }
  process.stderr.write(result.messages);
  return false;
}

/** Removes objects of sources and flags that no longer exist. */
function sweep(units) {
  const kept = new Set(units.map((u) => basename(u.object)));
  for (const name of readdirSync(objectsFolder)) {
    if (name.endsWith(".o") && !kept.has(name)) rmSync(join(objectsFolder, name), { force: true });
  }
}

async function main() {
  const compiler = platform() === "win32" ? null : findCompiler();
  if (!compiler) {
    console.error(
      "lowrank: no C++ compiler found, so the CPU backend is not built. Install one (Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), then run `node native/build.mjs` in the lowrank folder.",
    );
    // An installation goes on: the WebGPU backend needs no compiler, and the CPU backend says this again.
    return process.env.npm_lifecycle_event === "install" ? 0 : 1;
  }
  mkdirSync(objectsFolder, { recursive: true });
  const units = planUnits(compiler);
  const stamp = createHash("sha256")
    .update(units.map((u) => basename(u.object)).join("\n"))
    .digest("hex");
  const stampFile = join(outFolder, "stamp");
  const { ok, count } = await compileAll(compiler, units);
  if (!ok) return 1;
  const current = existsSync(target) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp;
  if (current) return 0;
  if (!(await link(compiler, units))) return 1;
  writeStamp(stampFile, stamp);
  sweep(units);
  say(`native engine built (${count} of ${units.length} files compiled)`);
  return 0;
}

function writeStamp(path, stamp) {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, stamp);
  renameSync(temporary, path);
}

process.exitCode = await main();
