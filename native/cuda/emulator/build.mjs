// Compiles the CUDA emulator, tests' stand-in for a card: native/build/cuda/libcuda-emulator.so from emulator/*.cc and every
// kernels/*.cu as C++, by the compiler that builds the addon. Objects are cached by content. Never shipped, never built at install.
//   node native/cuda/emulator/build.mjs

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { layoutsOf } from "../../../tools/embed-cuda.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const cuda = dirname(here);
const outFolder = join(cuda, "..", "build", "cuda");
export const emulatorPath = join(outFolder, "libcuda-emulator.so");

const flags = [
  "-std=c++20",
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-math-errno",
  "-ffp-contract=off", // as the card: -fmad=false
  "-pthread",
  "-Wall",
  "-Wno-unused-function",
  "-Wno-unknown-pragmas",
  "-Wno-unused-variable",
  "-Wno-unused-but-set-variable",
];

function compilerOf() {
  for (const candidate of process.env.CXX ? [process.env.CXX] : ["c++", "g++", "clang++"]) {
    const [command, ...args] = candidate.trim().split(/\s+/);
    const probe = spawnSync(command, [...args, "--version"], { encoding: "utf8" });
    if (probe.status === 0) return { command, args, version: probe.stdout };
  }
  return undefined;
}

function accepts(compiler, flag) {
  const args = [...compiler.args, flag, "-Werror", "-fsyntax-only", "-x", "c++", "-"];
  return spawnSync(compiler.command, args, { input: "int main() { return 0; }\n" }).status === 0;
}

/** A kernel file as C++: in a namespace without a name, its argument structs held to the layouts that TypeScript writes. */
function wrapperOf(file) {
  const { structs } = layoutsOf(readFileSync(join(cuda, file), "utf8"), file);
  const checks = [...structs].flatMap(([name, { fields, sizeBytes }]) => [
    `static_assert(sizeof(${name}) == ${sizeBytes});`,
    ...fields.map((field) => `static_assert(__builtin_offsetof(${name}, ${field.name}) == ${field.offset});`),
  ]);
  return `#include "device.h"\nnamespace {\n#include "${file}"\n${checks.join("\n")}\n}\n`;
}

/** Every header that a kernel or the emulator may include, as one text. */
function headerText() {
  const folders = [cuda, here, join(cuda, "kernels")];
  const files = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".h"))
      .sort()
      .map((name) => join(folder, name)),
  );
  return files.map((file) => readFileSync(file, "utf8")).join("\0");
}

function compile(compiler, args) {
  return new Promise((done) => {
    const child = spawn(compiler.command, [...compiler.args, ...args], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    child.on("close", (code) => done(code === 0));
  });
}

/** Builds what is out of date. The library's path, or undefined where there is no compiler or it fails. */
export async function buildEmulator() {
  const compiler = process.platform === "win32" ? undefined : compilerOf();
  if (!compiler) return undefined;
  const all = accepts(compiler, "-march=native") ? [...flags, "-march=native"] : flags;
  mkdirSync(outFolder, { recursive: true });
  const headers = headerText();
  const sources = [
    ...["driver.cc", "fibers.cc"].map((name) => ({
      name,
      text: readFileSync(join(here, name), "utf8"),
      own: "",
    })),
    ...["kernels", "emulator"]
      .flatMap((folder) => readdirSync(join(cuda, folder)).map((name) => `${folder}/${name}`))
      .filter((name) => name.endsWith(".cu"))
      .sort()
      .map((name) => ({ name, text: readFileSync(join(cuda, name), "utf8"), own: wrapperOf(name) })),
  ];
  const units = sources.map(({ name, text, own }) => {
    const hash = createHash("sha256")
      .update([compiler.version, ...all, headers, text, own].join("\0"))
      .digest("hex")
      .slice(0, 20);
    return { name, own, object: join(outFolder, `${basename(name).replace(/\W/g, "-")}.${hash}.o`) };
  });
  const pending = units.filter(({ object }) => !existsSync(object));
  let ok = true;
  const lane = async () => {
    for (let unit = pending.shift(); unit && ok; unit = pending.shift()) {
      let source = join(here, unit.name);
      if (unit.own) {
        source = `${unit.object}.${process.pid}.cc`;
        writeFileSync(source, unit.own);
      }
      const temporary = `${unit.object}.${process.pid}.tmp`;
      if (
        await compile(compiler, [
          ...all,
          `-I${cuda}`,
          `-I${join(cuda, "kernels")}`,
          "-c",
          source,
          "-o",
          temporary,
        ])
      )
        renameSync(temporary, unit.object);
      else ok = false;
      if (unit.own) rmSync(source, { force: true });
    }
  };
  const stale = pending.length > 0;
  await Promise.all([lane(), lane()]);
  if (!ok) return undefined;
  const stamp = units.map(({ object }) => basename(object)).join("\n");
  const stampFile = join(outFolder, "stamp");
  const known = existsSync(stampFile) ? readFileSync(stampFile, "utf8") : "";
  if (!stale && known === stamp && existsSync(emulatorPath)) return emulatorPath;
  const temporary = `${emulatorPath}.${process.pid}.tmp`;
  const objects = units.map(({ object }) => object);
  if (!(await compile(compiler, ["-shared", "-pthread", ...objects, "-o", temporary]))) return undefined;
  renameSync(temporary, emulatorPath);
  writeFileSync(stampFile, stamp);
  for (const name of readdirSync(outFolder)) {
    if (name.endsWith(".o") && !stamp.includes(name)) rmSync(join(outFolder, name), { force: true });
  }
  return emulatorPath;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = await buildEmulator();
  if (!path) console.error("lowrank: the CUDA emulator was not built");
  process.exitCode = path ? 0 : 1;
}
