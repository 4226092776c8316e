// How the native engine is compiled, by whichever compiler for whichever platform: sources in native/ and in its rooms
// cuda/, mpi/ and system/ once, those in its other folders once per instruction set that uses them, cached by content.
// Names for sources: isa.h. Who compiles: build.mjs for the machine that it runs on; for others the repository's
// `tools/prebuild.mjs`.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));

const avx2 = ["-mavx2", "-mfma", "-mf16c"];
const avx512 = [...avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"];
const avx512bf16 = [...avx512, "-mavx512bf16"];
const amx = [...avx512bf16, "-mamx-tile", "-mamx-bf16", "-mprfchw"];

const plain = ["gemm", "kernels"];

/**
 * Instruction sets by architecture, lowest first: the linker keeps the first of equal inline functions. `folders` are
 * those whose sources the set compiles; only products use what the last two x64 sets add, and their other kernels are
 * AVX-512's (dispatch.cc). `isOn`: no Mac has AVX512-BF16, and only Linux is asked for the tiles' registers.
 */
const instructionSets = {
  x64: [
    { suffix: "Portable", flags: [], folders: plain },
    { suffix: "Avx2", flags: avx2, folders: plain },
    { suffix: "Avx512", flags: avx512, folders: plain },
    {
      suffix: "Avx512Bf16",
      flags: avx512bf16,
      folders: ["gemm", "bf16"],
      isOn: (system) => system !== "darwin",
    },
    { suffix: "Amx", flags: amx, folders: ["gemm"], isOn: (system) => system === "linux" },
  ],
  arm64: [
    { suffix: "Portable", flags: [], folders: plain },
    { suffix: "Neon", flags: [], folders: plain }, // which every such processor has
  ],
};

/** Sources that are one platform's: name-<suffix>.cc. Linux's stand for every system that has no suffix of its own. */
const suffixes = {
  win32: ["windows"],
  darwin: ["posix", "macos"],
  linux: ["posix", "linux"],
};

const PROGRESS_FILES = 20;

/**
 * What to build. `platform` and `arch` are Node's names; `knowsAllSets` says that the compiler need not
 * be tried on the sets' flags; `compileFlags` come after the engine's own, `linkFlags` stand for those of its linking;
 * `say` prints progress.
 * @typedef {{ command: string, args: string[], version: string }} Compiler
 * @typedef {{ compiler: Compiler, platform: string, arch: string, outFolder: string, sanitize?: boolean, knowsAllSets?: boolean,
 *   compileFlags?: string[], linkFlags?: string[], say: (text: string) => void }} Build
 */

function baseFlags({ platform, sanitize }) {
  const headers = join(
    dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")),
    "include",
  );
  return [
    "-std=c++20",
    // -fexpensive-optimizations fuses multiplications and additions as -O3 does: tests hold the last bits to PyTorch's.
    ...(sanitize
      ? ["-O1", "-fexpensive-optimizations", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
      : ["-O3"]),
    ...(sanitize ? ["-fno-sanitize-recover=undefined"] : []),
    ...(platform === "win32" ? [] : ["-fPIC"]),
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
}

function accepts({ compiler }, flags) {
  if (flags.length === 0) return true;
  const all = [...flags, "-Werror", "-std=c++20", "-fsyntax-only", "-x", "c++", "-"];
  const options = { input: "int main() { return 0; }\n" };
  return spawnSync(compiler.command, [...compiler.args, ...all], options).status === 0;
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

function sourcesIn(folder, platform) {
  const own = suffixes[platform] ?? suffixes.linux;
  const isOurs = (name) => {
    const [, suffix] = /-(posix|linux|macos|windows)\.cc$/.exec(name) ?? [];
    return suffix === undefined || own.includes(suffix);
  };
  const files = readdirSync(folder).filter((name) => name.endsWith(".cc") && isOurs(name));
  return files.sort().map((name) => join(folder, name));
}

/** One compilation: source, flags, object path (named by the hash of all that goes in). */
function unit({ compiler, outFolder }, source, label, flags) {
  const hash = createHash("sha256").update(compiler.version).update(flags.join("\0"));
  for (const [path, text] of closureOf(source)) hash.update(relative(root, path)).update("\0").update(text);
  const stem = `${label}-${basename(source, ".cc")}`;
  const object = join(outFolder, "obj", `${stem}.${hash.digest("hex").slice(0, 20)}.o`);
  return { source, flags, stem, object };
}

function planUnits(build, sets) {
  const { platform } = build;
  const base = [...baseFlags(build), ...(build.compileFlags ?? [])];
  const have = sets.map((set) => `-DLOWRANK_HAVE_${set.suffix.toUpperCase()}`);
  const units = sourcesIn(root, platform).map((source) => unit(build, source, "all", [...base, ...have]));
  for (const room of ["cuda", "mpi", "system"]) {
    for (const source of sourcesIn(join(root, room), platform)) units.push(unit(build, source, room, base));
  }
  for (const set of sets) {
    const names = [`-DLOWRANK_ISA_SUFFIX=${set.suffix}`, `-DLOWRANK_ISA_${set.suffix.toUpperCase()}`];
    const flags = [...base, ...set.flags, ...names];
    const sources = set.folders.flatMap((folder) => sourcesIn(join(root, folder), platform));
    for (const source of sources) units.push(unit(build, source, set.suffix, flags));
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

async function compileAll({ compiler, say }, units) {
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

async function link({ compiler, platform, sanitize, linkFlags }, units, target) {
  const objects = units.map((u) => u.object);
  const base = ["-shared", "-pthread", ...(sanitize ? ["-fsanitize=address,undefined"] : [])];
  const variants = linkFlags
    ? [linkFlags]
    : platform === "darwin"
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
function sweep({ outFolder }, units) {
  const kept = new Set(units.map((u) => basename(u.object)));
  for (const name of readdirSync(join(outFolder, "obj"))) {
    if (name.endsWith(".o") && !kept.has(name)) rmSync(join(outFolder, "obj", name), { force: true });
  }
}

/** The first C++ compiler there is, CXX before all; null where there is none. */
export function findCompiler() {
  const candidates = process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"];
  for (const candidate of candidates) {
    const [command, ...args] = candidate.trim().split(/\s+/);
    const probe = spawnSync(command, [...args, "--version"], { encoding: "utf8" });
    if (probe.status === 0) return { command, args, version: probe.stdout };
  }
  return null;
}

/**
 * Compiles what changed into `outFolder`/lowrank.node, and says which instruction sets the addon has. False where the
 * compiler failed, which has told why.
 * @param {Build} build
 */
export async function buildAddon(build) {
  const { outFolder, say } = build;
  const target = join(outFolder, "lowrank.node");
  mkdirSync(join(outFolder, "obj"), { recursive: true });
  const known = instructionSets[build.arch] ?? [{ suffix: "Portable", flags: [], folders: plain }];
  const possible = known.filter(({ isOn }) => !isOn || isOn(build.platform));
  const sets = possible.filter((set) => build.knowsAllSets || accepts(build, set.flags));
  const units = planUnits(build, sets);
  const stamp = createHash("sha256")
    .update(units.map((u) => basename(u.object)).join("\n"))
    .update((build.linkFlags ?? []).join("\0"))
    .digest("hex");
  const stampFile = join(outFolder, "stamp");
  const { ok, count } = await compileAll(build, units);
  if (!ok) return false;
  const result = { target, sets: sets.map(({ suffix }) => suffix.toLowerCase()) };
  if (existsSync(target) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return result;
  if (!(await link(build, units, target))) return false;
  writeStamp(stampFile, stamp);
  sweep(build, units);
  say(`native engine built (${count} of ${units.length} files compiled)`);
  return result;
}

function writeStamp(path, stamp) {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, stamp);
  renameSync(temporary, path);
}
