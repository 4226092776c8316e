// What `npm pack` ships: what the README speaks of and what runs, and neither objects of the compiler nor maps whose
// sources are not there. And the lock, which npm 10 and 11 must both find as they would write it. That the package runs
// is library/package.test.ts.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const readJson = (path: string) => JSON.parse(readFileSync(join(root, path), "utf8"));

function packedFiles(): string[] {
  const words = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const { stdout, stderr } = spawnSync("npm", words, { cwd: root, encoding: "utf8" });
  expect(stdout, stderr).not.toBe("");
  const [packed] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  return packed.files.map(({ path }) => path);
}

describe("the package", () => {
  const files = packedFiles();

  it("holds no object files, nothing built by a compiler, and no map without its source", () => {
    expect(files.filter((path) => /\.(o|a|so|node|tmp|map)$|^native\/build\//.test(path))).toEqual([]);
  });

  it("holds what runs", () => {
    for (const path of [
      "dist/cli/main.js",
      "dist/index.js",
      "native/build.mjs",
      "native/addon.cc",
      "data/gpus.yaml",
    ])
      expect(files).toContain(path);
    expect(files).toContain("models/tiny-base/model.safetensors");
    expect(files).toContain("docs/measured.json");
  });

  it("holds every file that a document in it names, unless it says that the repository does", () => {
    for (const document of files.filter((path) => path.endsWith(".md") && !path.endsWith("LOG.md"))) {
      const text = readFileSync(join(root, document), "utf8").replace(/the repository's `[^`]*`/g, "");
      const named = [...text.matchAll(/`([\w.-]+(?:\/[\w.-]+)*\/?)`|\]\(([^)#:]+)\)/g)].map(
        (match) => (match[1] ?? match[2])!,
      );
      const missing = named.filter((path) => {
        const place = existsSync(join(root, path)) ? path : join(dirname(document), path);
        const isOurs =
          path.includes("/") && existsSync(join(root, place)) && !/^(src|test|tools|bench)\//.test(path);
        return isOurs && !files.some((file) => file === place || file.startsWith(place.replace(/\/?$/, "/")));
      });
      expect(missing, document).toEqual([]);
    }
    const readme = readFileSync(join(root, "README.md"), "utf8").replace(/the repository's `[^`]*`/g, "");
    expect(readme).not.toMatch(/`(src|test|tools|bench)\//);
  });

  it("says where it comes from and where reports go", () => {
    const { repository, bugs, homepage, license } = readJson("package.json");
    expect([repository.url, bugs.url, homepage]).toEqual(
      Array(3).fill(expect.stringMatching(/^(git\+)?https:\/\//)),
    );
    expect(license).toBe("Apache-2.0");
  });
});

describe("the lock", () => {
  const { packages } = readJson("package-lock.json") as { packages: Record<string, LockEntry> };
  interface LockEntry {
    readonly libc?: unknown;
    readonly optionalDependencies?: Record<string, string>;
  }

  it("has every platform's optional packages, which npm would else add", () => {
    for (const [path, { optionalDependencies = {} }] of Object.entries(packages)) {
      for (const name of Object.keys(optionalDependencies)) {
        const found = packages[`${path}/node_modules/${name}`] ?? packages[`node_modules/${name}`];
        expect(found, `${name} of ${path || "lowrank"}`).toBeDefined();
      }
    }
  });

  it("has no libc fields, which npm 11 writes and npm 10 takes out", () => {
    expect(Object.entries(packages).filter(([, entry]) => entry.libc !== undefined)).toEqual([]);
  });
});
