// Makes what is published: lowrank's own package and one package of the compiled engine for each platform, as npm's
// tarballs in one folder. The engine is cross-compiled by zig's clang, which has every platform's C and C++ libraries
// with it, so that none of the platforms is needed; each addon's headers are then read (inspect-binary.mjs), and one
// that needs more than its platform has is refused. lowrank's own tarball names the packages among its optional
// dependencies, at its version; the repository's package.json does not, so that a checkout compiles.
//   node tools/prebuild.mjs [--target NAME,...] [--out DIR] [--engine-only]
// NAME is one of native/prebuilt.mjs (all without it), DIR is native/build/packages without it; --engine-only makes no
// tarball of lowrank itself. zig is $LOWRANK_ZIG, or comes from PyPI by $LOWRANK_PYTHON's pip (python3) the first time.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { buildAddon } from "../native/compile.mjs";
import { platforms, sourceDigest } from "../native/prebuilt.mjs";
import { inspectBinary } from "./inspect-binary.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const buildFolder = join(root, "native", "build");
const zigVersion = "0.17.0";

/** The oldest glibc and macOS that Node 20's own releases run on. */
const glibc = "2.28";
const macos = { x64: "10.15", arm64: "11.0" };

const triples = {
  "linux-x64": `x86_64-linux-gnu.${glibc}`,
  "linux-arm64": `aarch64-linux-gnu.${glibc}`,
  "linux-x64-musl": "x86_64-linux-musl",
  "linux-arm64-musl": "aarch64-linux-musl",
  "darwin-arm64": `aarch64-macos.${macos.arm64}`,
  "darwin-x64": `x86_64-macos.${macos.x64}`,
  "win32-x64": "x86_64-windows-gnu",
};

/** The libraries that an addon may need: those that Node itself cannot run without on the platform. */
const systemLibraries = {
  glibc:
    /^(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux-(x86-64|aarch64)\.so\.[12])$/,
  musl: /^libc(\.musl-\w+)?\.so(\.1)?$/,
  darwin: /^\/usr\/lib\/libSystem\.B\.dylib$/,
  win32:
    /^(node\.exe|kernel32\.dll|ntdll\.dll|api-ms-win-[\w-]+\.dll|ucrtbase\.dll|msvcrt\.dll|advapi32\.dll)$/i,
};

const say = (text) => console.log(`prebuild: ${text}`);

function fail(reason) {
  console.error(`prebuild: ${reason}`);
  process.exit(1);
}

function run(command, args, options = {}) {
  const { status, error, stdout } = spawnSync(command, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    ...options,
  });
  if (error || status !== 0) fail(`${command} ${args.join(" ")} failed`);
  return stdout;
}

function findZig() {
  if (process.env.LOWRANK_ZIG) return process.env.LOWRANK_ZIG;
  const folder = join(buildFolder, "zig");
  const zig = join(folder, "ziglang", process.platform === "win32" ? "zig.exe" : "zig");
  if (!existsSync(zig)) {
    say(`fetching ziglang ${zigVersion} from PyPI`);
    const python = process.env.LOWRANK_PYTHON || "python3";
    run(python, ["-m", "pip", "install", "--quiet", "--target", folder, `ziglang==${zigVersion}`]);
  }
  return zig;
}

/** Windows' addons import Node-API from node.exe: a library of these imports, made of node-api-headers' lists. */
function importLibrary(zig, folder) {
  const lists = join(dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")), "def");
  return ["js_native_api", "node_api"].map((name) => {
    const library = join(folder, `${name}.lib`);
    run(zig, ["dlltool", "-m", "i386:x86-64", "-d", join(lists, `${name}.def`), "-l", library]);
    return library;
  });
}

function linkFlagsOf(name, zig, folder) {
  const { os } = platforms[name];
  if (os === "darwin") return ["-Wl,-undefined,dynamic_lookup", "-Wl,-install_name,lowrank.node", "-s"];
  if (os === "win32") return [...importLibrary(zig, folder), "-s"];
  const exported = join(folder, "exports.map");
  writeFileSync(
    exported,
    "{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };\n",
  );
  return [`-Wl,--version-script=${exported}`, "-s"];
}

/** Why an addon would not run where it should, by its headers; empty when it would. */
export function addonProblem(name, facts) {
  const { os, cpu, libc } = platforms[name];
  const format = { linux: "elf", darwin: "mach-o", win32: "pe" }[os];
  if (facts.format !== format || facts.machine !== cpu) return `it is ${facts.format} for ${facts.machine}`;
  const strange = facts.needs.filter((library) => !systemLibraries[libc ?? os].test(library));
  if (strange.length > 0) return `it needs ${strange.join(", ")}`;
  for (const wanted of ["napi_register_module_v1", "node_api_module_get_api_version_v1"]) {
    if (!facts.exports.includes(wanted)) return `it does not export ${wanted}`;
  }
  const isNewer = (a, b) => a.localeCompare(b, "en", { numeric: true }) > 0;
  if (libc === "glibc" && isNewer(facts.glibc, glibc)) return `it needs glibc ${facts.glibc}`;
  if (os === "darwin" && isNewer(facts.minimumMacos, macos[cpu]))
    return `it needs macOS ${facts.minimumMacos}`;
  if (name === "darwin-arm64" && !facts.isSigned)
    return "it is not signed, and Apple's processors run nothing else";
  return "";
}

async function compileFor(name, zig) {
  const { os, cpu } = platforms[name];
  const outFolder = join(buildFolder, "cross", name);
  mkdirSync(outFolder, { recursive: true });
  const compiler = {
    command: zig,
    args: ["c++", "-target", triples[name]],
    version: `zig ${run(zig, ["version"]).trim()} ${triples[name]}`,
  };
  return await buildAddon({
    compiler,
    platform: os,
    arch: cpu,
    outFolder,
    knowsAllSets: true,
    compileFlags: [
      "-Wno-unknown-warning-option", // of what only gcc knows
      "-Wno-pass-failed", // of loops too short to be unrolled
    ],
    // -O3 here is for zig's own parts, libc++ among them, which it compiles for each target.
    linkFlags: ["-O3", ...linkFlagsOf(name, zig, outFolder)],
    say: (text) => say(`${name}: ${text}`),
  });
}

/** Writes the folder of a platform's package: manifest, addon, licence, a line of explanation. */
export function writePackage(folder, name, addon, made) {
  const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const { os, cpu, libc } = platforms[name];
  const bytes = readFileSync(addon);
  const manifest = {
    name: `@lowrank/${name}`,
    version: own.version,
    description: `The native engine of lowrank, compiled for ${name}.`,
    license: own.license,
    homepage: own.homepage,
    repository: own.repository,
    bugs: own.bugs,
    os: [os],
    cpu: [cpu],
    ...(libc ? { libc: [libc] } : {}),
    engines: own.engines,
    main: "lowrank.node",
    files: ["lowrank.node"],
    lowrank: { sources: sourceDigest(), sha256: createHash("sha256").update(bytes).digest("hex"), ...made },
  };
  mkdirSync(folder, { recursive: true });
  copyFileSync(addon, join(folder, "lowrank.node"));
  copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(
    join(folder, "README.md"),
    `# @lowrank/${name}\n\nThe native engine of [lowrank](${own.homepage}), compiled for ${name}. npm installs it with lowrank; it is of no use alone. LLVM's libc++${os === "win32" ? " and mingw-w64's runtime are" : " is"} part of it.\n`,
  );
}

/** The tarball of a folder named "package", under npm's name for it; returns its path. */
export function pack(folder, out) {
  const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const path = join(out, `${name.replace(/^@/, "").replace("/", "-")}-${version}.tgz`);
  run("tar", ["-czf", path, "-C", dirname(folder), basename(folder)]);
  return path;
}

/** lowrank's own tarball, whose manifest names the platforms' packages. */
export function packLowrank(out) {
  const work = mkdtempSync(join(tmpdir(), "lowrank-pack-"));
  try {
    const words = ["pack", "--ignore-scripts", "--json", "--pack-destination", work];
    const [{ filename }] = JSON.parse(run("npm", words, { cwd: root, shell: process.platform === "win32" }));
    run("tar", ["-xzf", join(work, filename), "-C", work]);
    const folder = join(work, "package");
    const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const packages = Object.keys(platforms).map((name) => [`@lowrank/${name}`, manifest.version]);
    manifest.optionalDependencies = { ...manifest.optionalDependencies, ...Object.fromEntries(packages) };
    writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    return pack(folder, out);
  } finally {
    rmSync(work, { recursive: true });
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      target: { type: "string" },
      out: { type: "string", default: join(buildFolder, "packages") },
      "engine-only": { type: "boolean", default: false },
    },
  });
  const names = values.target ? values.target.split(",") : Object.keys(platforms);
  for (const name of names) {
    if (!(name in triples)) fail(`there is no target ${name}: ${Object.keys(triples).join(", ")}`);
  }
  const out = resolve(values.out);
  mkdirSync(out, { recursive: true });
  const zig = findZig();
  for (const name of names) {
    const built = await compileFor(name, zig);
    if (!built) fail(`${name} does not compile`);
    const facts = inspectBinary(readFileSync(built.target));
    const problem = addonProblem(name, facts);
    if (problem) fail(`${name}: ${problem}`);
    const folder = join(buildFolder, "cross", name, "package");
    rmSync(folder, { recursive: true, force: true });
    writePackage(folder, name, built.target, { compiler: `zig ${zigVersion}`, instructionSets: built.sets });
    const needs = [...facts.needs, ...(facts.glibc ? [`glibc ${facts.glibc}`] : [])];
    say(`${pack(folder, out)} (${built.sets.join(", ")}; needs ${needs.join(", ")})`);
  }
  if (!values["engine-only"]) say(packLowrank(out));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
