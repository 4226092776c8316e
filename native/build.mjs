// Puts the native CPU engine in its place. `npm install` runs it: where the package of this machine (prebuilt.mjs) is
// installed, was made from these sources and loads, that is all; else the system's C++ compiler and node-api-headers
// make native/build/lowrank.node, which goes before any package. `node native/build.mjs` builds again what changed.
// With LOWRANK_BUILD=source it compiles whatever is installed. With --sanitize it builds a second addon,
// native/build/sanitize/lowrank.node, that stops at the first bad access or undefined operation (the repository's
// `tools/test-sanitize.mjs` runs the tests over it).

import { spawnSync } from "node:child_process";
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildAddon, findCompiler } from "./compile.mjs";
import { findPrebuilt, foreignPackages, packageOfThisMachine, problemOf } from "./prebuilt.mjs";

const root = dirname(fileURLToPath(import.meta.url));
const sanitize = process.argv.includes("--sanitize");
const isInstalling = process.env.npm_lifecycle_event === "install";

/**
 * Says it where a person sees it. npm keeps what an install script prints to itself, unless it was asked not to
 * (foreground-scripts, as .npmrc asks in this folder): then the terminal is written to past npm, where there is one.
 */
function say(text) {
  const line = `lowrank: ${text}`;
  const hidden = isInstalling && !process.stdout.isTTY;
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

/** Whether this Node loads it, tried by another process: one that does not may end the process. */
function loads(path) {
  const words = ["-e", "require(process.argv[1])", path];
  const { status, stderr } = spawnSync(process.execPath, words, { encoding: "utf8" });
  if (status === 0) return "";
  return /^Error: (.*)$/m.exec(stderr ?? "")?.[1] ?? `Node ended with ${status}`;
}

/** Whether the installed package of this machine is the engine; says why where one is there and is not. */
function takePrebuilt() {
  if (sanitize) return false;
  if (process.env.LOWRANK_BUILD === "source") return false;
  const prebuilt = findPrebuilt();
  if (!prebuilt) {
    const foreign = foreignPackages();
    if (foreign) say(`${foreign}; compiling the native engine instead`);
    return false;
  }
  let problem = problemOf(prebuilt);
  if (!problem) {
    const failure = loads(prebuilt.path);
    if (failure) problem = `${prebuilt.name} does not load here (${failure})`;
  }
  if (problem) {
    say(`${problem}; compiling the native engine instead`);
    return false;
  }
  rmSync(join(root, "build", "lowrank.node"), { force: true });
  rmSync(join(root, "build", "stamp"), { force: true });
  say(`the native engine is that of ${prebuilt.name} ${prebuilt.manifest.version}`);
  return true;
}

function complain() {
  const name = packageOfThisMachine();
  const install =
    process.platform === "win32"
      ? `On Windows lowrank does not compile: install ${name ?? "it under WSL"}`
      : "Install one (Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; Alpine: apk add g++; macOS: xcode-select --install), then run `node native/build.mjs` in the lowrank folder";
  const other = process.platform !== "win32" && name ? `, or install ${name} of lowrank's version` : "";
  console.error(`lowrank: no C++ compiler found, so the CPU backend is not built. ${install}${other}.`);
}

async function main() {
  if (takePrebuilt()) return 0;
  const compiler = process.platform === "win32" ? null : findCompiler();
  if (!compiler) {
    complain();
    // An installation goes on: the WebGPU backend needs no compiler, and the CPU backend says this again.
    return isInstalling ? 0 : 1;
  }
  const outFolder = sanitize ? join(root, "build", "sanitize") : join(root, "build");
  const { platform, arch } = process;
  return (await buildAddon({ compiler, platform, arch, outFolder, sanitize, say })) ? 0 : 1;
}

process.exitCode = await main();
