// The engine compiled ahead, in packages of one platform each: their names, which of them is this machine's, and
// whether what is installed of it was made from these sources. build.mjs asks at installation, the CPU backend when it
// loads the addon. Not here: how they are made (the repository's `tools/prebuild.mjs`).

import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));

/** Packages by their name after "@lowrank/"; fields as in their package.json. */
export const platforms = {
  "linux-x64": { os: "linux", cpu: "x64", libc: "glibc" },
  "linux-arm64": { os: "linux", cpu: "arm64", libc: "glibc" },
  "linux-x64-musl": { os: "linux", cpu: "x64", libc: "musl" },
  "linux-arm64-musl": { os: "linux", cpu: "arm64", libc: "musl" },
  "darwin-arm64": { os: "darwin", cpu: "arm64" },
  "darwin-x64": { os: "darwin", cpu: "x64" },
  "win32-x64": { os: "win32", cpu: "x64" },
};

const HEAD_BYTES = 8192;

/** Which C library this Node runs on: by the loader that its program names, else by what it reports. */
function libcOfThisNode() {
  const head = Buffer.alloc(HEAD_BYTES);
  try {
    const file = openSync(process.execPath, "r");
    readSync(file, head, 0, HEAD_BYTES, 0);
    closeSync(file);
  } catch {
    // The report knows too.
  }
  if (head.includes("/ld-musl-")) return "musl";
  if (head.includes("/ld-linux")) return "glibc";
  process.report.excludeNetwork = true;
  return process.report.getReport().header.glibcVersionRuntime === undefined ? "musl" : "glibc";
}

/** The package of this machine, "@lowrank/linux-x64"; undefined where there is none. */
export function packageOfThisMachine() {
  const libc = process.platform === "linux" ? libcOfThisNode() : undefined;
  for (const [name, { os, cpu, libc: wanted }] of Object.entries(platforms)) {
    if (os === process.platform && cpu === process.arch && wanted === libc) return `@lowrank/${name}`;
  }
  return undefined;
}

/** The installed package of that name as lowrank sees it: its addon's path and its manifest; undefined without it. */
export function findPrebuilt(name = packageOfThisMachine()) {
  if (name === undefined) return undefined;
  let manifestPath;
  try {
    manifestPath = createRequire(import.meta.url).resolve(`${name}/package.json`);
  } catch {
    return undefined;
  }
  try {
    const manifest = JSON.parse(readFileSync(manifestPath, "utf8"));
    return { name, path: join(dirname(manifestPath), "lowrank.node"), manifest };
  } catch {
    return { name, path: join(dirname(manifestPath), "lowrank.node"), manifest: {} };
  }
}

/**
 * What is installed in place of this machine's package, as where node_modules was made on another system (a Mac's folder
 * in a container, Debian's on Alpine); empty where nothing is.
 */
export function foreignPackages() {
  const mine = packageOfThisMachine();
  const names = Object.keys(platforms).map((name) => `@lowrank/${name}`);
  const found = names.filter((name) => name !== mine && findPrebuilt(name) !== undefined);
  if (found.length === 0) return "";
  return `${found.join(", ")} is here, ${mine ? `this Node needs ${mine}` : "which this Node does not run"}: node_modules comes from another system`;
}

/** Of the lowrank that these sources are part of. */
export function ownVersion() {
  return JSON.parse(readFileSync(join(root, "..", "package.json"), "utf8")).version;
}

/** Why a package cannot be this lowrank's engine, by what is cheap to know; empty when it can. */
export function quickProblem({ name, path, manifest }) {
  const version = ownVersion();
  if (manifest.version !== version) return `${name} is version ${manifest.version}, lowrank ${version}`;
  return existsSync(path) ? "" : `${name} holds no lowrank.node`;
}

/** Why a package cannot be this lowrank's engine, by its bytes and the sources here; empty when it can. */
export function problemOf(prebuilt) {
  const quick = quickProblem(prebuilt);
  if (quick) return quick;
  const { name, path, manifest } = prebuilt;
  if (manifest.lowrank?.sources !== sourceDigest()) return `${name} was made from other sources`;
  const digest = createHash("sha256").update(readFileSync(path)).digest("hex");
  return manifest.lowrank.sha256 === digest
    ? ""
    : `${name} is damaged: its lowrank.node is not what was published`;
}

/** SHA-256 of all that is compiled and of how, whatever a checkout made of the line ends. */
export function sourceDigest() {
  const hash = createHash("sha256");
  for (const folder of ["", "bf16", "cuda", "gemm", "kernels", "mpi", "system"]) {
    const names = readdirSync(join(root, folder)).filter((name) => /\.(cc|h|def)$|^compile\.mjs$/.test(name));
    for (const name of names.sort()) {
      const text = readFileSync(join(root, folder, name), "utf8").replaceAll("\r\n", "\n");
      hash.update(`${folder}/${name}\0${text.length}\0`).update(text);
    }
  }
  return hash.digest("hex");
}
