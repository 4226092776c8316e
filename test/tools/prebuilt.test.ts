// An installation without a compiler: the packed tarballs in an empty project, npm itself, a registry on loopback that
// knows neither the other platforms' packages nor WebGPU's, and a PATH without compilers. The package of this machine
// is made of the addon that was compiled here. Not here: cross-compiling (tools/prebuild.mjs, which needs zig).

import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageOfThisMachine, platforms } from "../../native/prebuilt.mjs";
import { pack, packLowrank, writePackage } from "../../tools/prebuild.mjs";
import { servePackages } from "./package-registry.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const built = join(root, "native/build/lowrank.node");
const mine = packageOfThisMachine() ?? "";
const rows = ["red", "blue"].map((color) => ({ prompt: `${color}:`, completion: ` ${color}` }));

/** Of a platform's package, as far as tests change it. */
interface Manifest {
  version: string;
  lowrank?: { sources: string; sha256: string };
}

describe.skipIf(!existsSync(built) || mine === "")("an installation without a compiler", () => {
  let folder: string;
  let project: string;
  let environment: NodeJS.ProcessEnv;
  let installed: { stdout: string; stderr: string };
  let asked: readonly string[];
  const package_ = () => join(project, "node_modules", mine);
  const lowrank = () => join(project, "node_modules/lowrank");

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "lowrank-prebuilt-"));
    project = join(folder, "project");
    const tools = join(folder, "bin");
    mkdirSync(project);
    mkdirSync(tools);
    for (const name of ["sh", "npm"]) {
      const { stdout } = spawnSync("/bin/sh", ["-c", `command -v ${name}`], { encoding: "utf8" });
      symlinkSync(stdout.trim(), join(tools, name));
    }
    symlinkSync(process.execPath, join(tools, "node"));
    const name = mine.replace("@lowrank/", "");
    writePackage(join(folder, "package"), name, built, { compiler: "this machine's" });
    const tarballs = [packLowrank(folder), pack(join(folder, "package"), folder)];
    writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));
    writeFileSync(join(project, "rows.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
    const registry = await servePackages(join(root, "node_modules"), ["webgpu", "lowrank"]);
    asked = registry.asked;
    const kept = Object.entries(process.env).filter(([key]) => !/^npm_|^CXX$|^LOWRANK_/i.test(key));
    const caches = { npm_config_cache: join(folder, "cache"), LOWRANK_CACHE: join(folder, "lowrank") };
    environment = { ...Object.fromEntries(kept), PATH: tools, npm_config_registry: registry.url, ...caches };
    try {
      const words = ["install", "--foreground-scripts", "--no-audit", "--no-fund", ...tarballs];
      installed = await promisify(execFile)(join(tools, "npm"), words, { cwd: project, env: environment });
    } finally {
      registry.close();
    }
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** The install script as npm runs it. */
  const install = (more: NodeJS.ProcessEnv = {}) => {
    const env = { ...environment, npm_lifecycle_event: "install", ...more };
    const { status, stdout, stderr } = spawnSync(process.execPath, ["native/build.mjs"], {
      cwd: lowrank(),
      env,
      encoding: "utf8",
    });
    return { status, text: stdout + stderr };
  };
  const train = () => {
    const words = ["train", "--model", "tiny", "--data", "rows.jsonl", "--out", "run", "--max-steps", "2"];
    const command = join(project, "node_modules/.bin/lowrank");
    rmSync(join(project, "run"), { recursive: true, force: true });
    const { status, stdout, stderr } = spawnSync(command, [...words, "--backend", "cpu"], {
      cwd: project,
      env: environment,
      encoding: "utf8",
    });
    return { status, text: stdout + stderr };
  };
  const manifestPath = () => join(package_(), "package.json");
  type Change = (manifest: Manifest, addon: Buffer) => Buffer | undefined;
  /** Runs `body` with the package changed, and puts it right again. */
  const withChange = (change: Change, body: () => void) => {
    const paths = [manifestPath(), join(package_(), "lowrank.node")] as const;
    const [text, addon] = paths.map((path) => readFileSync(path)) as [Buffer, Buffer];
    try {
      const manifest = JSON.parse(text.toString());
      const bytes = change(manifest, Buffer.from(addon));
      writeFileSync(paths[0], JSON.stringify(manifest));
      if (bytes) writeFileSync(paths[1], bytes);
      body();
    } finally {
      writeFileSync(paths[0], text);
      writeFileSync(paths[1], addon);
    }
  };

  it("compiles nothing, asks for every platform's package and goes on without those that are not there", () => {
    expect(installed.stdout).toMatch(new RegExp(`native engine is that of ${mine} \\d`));
    expect(existsSync(join(lowrank(), "native/build"))).toBe(false);
    expect(existsSync(join(project, "node_modules/webgpu"))).toBe(false);
    const others = Object.keys(platforms).map((name) => `@lowrank/${name}`);
    expect([...asked].sort()).toEqual(expect.arrayContaining(others.filter((name) => name !== mine)));
    const { optionalDependencies, version } = JSON.parse(
      readFileSync(join(lowrank(), "package.json"), "utf8"),
    );
    for (const name of others) expect(optionalDependencies[name]).toBe(version);
  });

  it("trains", () => {
    const { status, text } = train();
    expect(status, text).toBe(0);
    expect(existsSync(join(project, "run/adapter_model.safetensors"))).toBe(true);
  });

  it("the quickstart runs in the project and writes nothing into the package", () => {
    const script = "node_modules/lowrank/examples/quickstart/run.mjs";
    const before = readdirSync(lowrank(), { recursive: true }).sort();
    const words = [script, "--max-steps", "1", "--backend", "cpu"];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, {
      cwd: project,
      env: environment,
      encoding: "utf8",
    });
    expect(status, stdout + stderr).toBe(0);
    expect(existsSync(join(project, "runs/quickstart/adapter/adapter_model.safetensors"))).toBe(true);
    expect(readdirSync(lowrank(), { recursive: true }).sort()).toEqual(before);
  });

  it("what was compiled on another system, as a shared folder has it, gives way to the package", () => {
    const compiled = join(lowrank(), "native/build/lowrank.node");
    mkdirSync(dirname(compiled));
    writeFileSync(compiled, "another system's");
    try {
      const { status, text } = train();
      expect(status, text).toBe(0);
    } finally {
      rmSync(dirname(compiled), { recursive: true });
    }
  });

  it("another system's package in place of this one's is named, installing and running", () => {
    const other = mine === "@lowrank/darwin-arm64" ? "@lowrank/linux-x64" : "@lowrank/darwin-arm64";
    renameSync(package_(), join(project, "node_modules", other));
    try {
      const reason = `${other} is here, this Node needs ${mine}`;
      const { status, text } = install();
      expect(status).toBe(0);
      expect(text).toContain(reason);
      const refused = train();
      expect(refused.status).toBe(1);
      expect(refused.text).toContain(reason);
      expect(refused.text).toContain(`install ${mine} `);
    } finally {
      renameSync(join(project, "node_modules", other), package_());
    }
  });

  it("a package of another version is neither installed nor loaded, and both say so", () => {
    withChange(
      (manifest) => {
        manifest.version = "0.0.1";
        return undefined;
      },
      () => {
        const { status, text } = install();
        expect(status).toBe(0);
        expect(text).toContain(`${mine} is version 0.0.1, lowrank `);
        expect(text).toContain("no C++ compiler found");
        const refused = train();
        expect(refused.status).toBe(1);
        expect(refused.text).toContain(`${mine} is version 0.0.1`);
        expect(refused.text).toContain("install a C++ compiler");
      },
    );
  });

  it.each<[string, RegExp, Change]>([
    [
      "with a flipped bit",
      /is damaged/,
      (_, addon) => {
        addon[addon.length >> 1]! ^= 1;
        return addon;
      },
    ],
    [
      "made from other sources",
      /was made from other sources/,
      (manifest) => {
        manifest.lowrank!.sources = "0";
        return undefined;
      },
    ],
    [
      "that this machine's loader refuses",
      /does not load here/,
      (manifest) => {
        const text = Buffer.from("no addon");
        manifest.lowrank!.sha256 = createHash("sha256").update(text).digest("hex");
        return text;
      },
    ],
    [
      "without what it says of itself",
      /was made from other sources/,
      (manifest) => {
        delete manifest.lowrank;
        return undefined;
      },
    ],
  ])("a package %s is not taken", (_, reason, change) => {
    withChange(change, () => {
      const { text } = install();
      expect(text).toMatch(reason);
      expect(text).toContain("no C++ compiler found");
    });
  });

  it("what cannot be loaded is refused with what to do", () => {
    withChange(
      () => Buffer.from("no addon"),
      () => {
        const { status, text } = train();
        expect(status).toBe(1);
        expect(text).toContain("LOWRANK_BUILD=source node native/build.mjs");
      },
    );
  });

  it("LOWRANK_BUILD=source compiles beside a good package, and what was compiled is what runs", () => {
    // It stands for a compiler: objects are empty, and the linked addon is the one that is there.
    const compiler = join(folder, "compiler");
    const last = `for word; do output=$word; done\ncase "$*" in *-shared*) cat '${built}' >"$output";;`;
    const probe = 'case "$*" in *--version*) echo stand-in 1; exit;; *-fsyntax-only*) exit 1;; esac';
    writeFileSync(compiler, `#!/bin/sh\n${probe}\n${last} *) : >"$output";; esac\n`);
    chmodSync(compiler, 0o755);
    // `cat` of the script's own system, nothing of which could compile.
    const cat = spawnSync("/bin/sh", ["-c", "command -v cat"], { encoding: "utf8" }).stdout.trim();
    const path = `${environment.PATH}:${dirname(cat)}`;
    const { status, text } = install({ LOWRANK_BUILD: "source", CXX: compiler, PATH: path });
    expect(status, text).toBe(0);
    expect(text).toContain("native engine built");
    expect(existsSync(join(lowrank(), "native/build/lowrank.node"))).toBe(true);
    withChange(
      () => Buffer.from("no addon"),
      () => expect(train().status).toBe(0),
    );
    expect(install().text).toContain("native engine is that of");
    expect(existsSync(join(lowrank(), "native/build/lowrank.node"))).toBe(false);
  });
});
