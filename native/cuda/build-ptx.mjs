// Compiles the kernels to PTX: kernels/*.cu -> ptx/*.ptx, each headed by a hash of what it was made from, which a test holds
// against the sources (ptx-source.mjs). The compilers come from PyPI: NVRTC 12.4, whose PTX every driver since version 550
// reads, and ptxas 13.0, which tells registers and spills on the cards of four generations (ptx/registers.txt).
//   node native/cuda/build-ptx.mjs [NAME ...]    all that changed, or these; needs python3 with pip the first time

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { kernelFiles, ptxPath, sourceHash, statedHash } from "./ptx-source.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const wheels = join(here, "..", "build", "cuda", "wheels");
const packages = ["nvidia-cuda-nvrtc-cu12==12.4.127", "nvidia-cuda-nvcc==13.0.88"];
const library = join(wheels, "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so.12");
const ptxas = join(wheels, "nvidia", "cu13", "bin", "ptxas");
const cards = ["sm_80", "sm_89", "sm_90", "sm_100"];

/** A kernel with wgmma is for Hopper alone: its file ends in "-sm90". */
const archOf = (file) => (file.endsWith("-sm90") ? "compute_90a" : "compute_80");
const cardsOf = (file) => (file.endsWith("-sm90") ? ["sm_90a"] : cards);

const python = process.env.LOWRANK_PYTHON || "python3";

function fetchCompilers() {
  if (existsSync(library) && existsSync(ptxas)) return;
  mkdirSync(wheels, { recursive: true });
  const args = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", wheels, ...packages];
  if (spawnSync(python, args, { stdio: "inherit" }).status !== 0)
    throw new Error("pip could not fetch the compilers");
}

function compile(file) {
  const request = {
    library,
    name: `${file}.cu`,
    source: `#include "device.h"\n#include "kernels/${file}.cu"\n`,
    options: [
      `--gpu-architecture=${archOf(file)}`,
      "--std=c++17",
      "--fmad=false",
      `--include-path=${here}`,
      `--include-path=${join(here, "kernels")}`,
    ],
  };
  const run = spawnSync(python, [join(here, "nvrtc.py")], {
    input: JSON.stringify(request),
    encoding: "utf8",
    maxBuffer: 2 ** 28,
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, LD_LIBRARY_PATH: dirname(library) },
  });
  if (run.status !== 0) throw new Error(`${file}.cu: the compiler ended with ${run.status}`);
  const { ptx, problem } = JSON.parse(run.stdout);
  if (problem !== undefined) throw new Error(`${file}.cu does not compile`);
  // Comments and empty lines are half of nothing a driver needs.
  const text = ptx
    .replace(/^\s*\/\/.*\n/gm, "")
    .replace(/\n{2,}/g, "\n")
    .trim();
  return `// lowrank ${file}.cu ${sourceHash(file)}\n${text}\n`;
}

/** What ptxas says of every kernel of a file on a card: registers, and bytes of spills and of shared memory. */
function assemble(file, card, folder) {
  const args = ["-v", `-arch=${card}`, ptxPath(file), "-o", join(folder, "out.cubin")];
  const run = spawnSync(ptxas, args, { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`${file}.ptx does not assemble for ${card}:\n${run.stderr}`);
  const found = new Map();
  const pattern =
    /Compiling entry function '(\w+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g;
  for (const [, name, , stores, loads, registers] of run.stderr.matchAll(pattern))
    found.set(name, `${registers} ${Number(stores) + Number(loads)}`);
  return found;
}

const registersPath = join(here, "ptx", "registers.txt");

/** Lines of the table by file. */
function knownRegisters() {
  const known = new Map();
  if (!existsSync(registersPath)) return known;
  for (const line of readFileSync(registersPath, "utf8").split("\n")) {
    const file = line.split(" ")[0];
    if (line && !line.startsWith("#")) known.set(file, [...(known.get(file) ?? []), line]);
  }
  return known;
}

function main(names) {
  fetchCompilers();
  const files = kernelFiles();
  mkdirSync(join(here, "ptx"), { recursive: true });
  const registers = knownRegisters();
  const folder = mkdtempSync(join(tmpdir(), "lowrank-ptx-"));
  for (const file of files) {
    if (
      names.length > 0 ? !names.includes(file) : statedHash(file) === sourceHash(file) && registers.has(file)
    )
      continue;
    writeFileSync(ptxPath(file), compile(file));
    const lines = new Map();
    for (const card of cardsOf(file)) {
      for (const [kernel, text] of assemble(file, card, folder))
        lines.set(kernel, `${lines.get(kernel) ?? `${file} ${kernel}`} ${card} ${text}`);
    }
    registers.set(file, [...lines.values()].sort());
    console.log([...lines.values()].sort().join("\n"));
  }
  rmSync(folder, { recursive: true });
  for (const name of readdirSync(join(here, "ptx")))
    if (name.endsWith(".ptx") && !files.includes(name.slice(0, -4))) rmSync(join(here, "ptx", name));
  const table = files.flatMap((file) => registers.get(file) ?? []);
  writeFileSync(
    registersPath,
    `# ptxas 13.0 -v of every kernel, by build-ptx.mjs: file, kernel, then card, registers, bytes spilt.\n${table.join("\n")}\n`,
  );
}

main(process.argv.slice(2));
