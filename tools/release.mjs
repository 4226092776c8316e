// Makes a release of what is committed: `npm run release -- 0.2.0`. Checks that the tree is clean, that CHANGELOG.md
// has something under "Unreleased", and that the tests pass; then dates that section, sets the version, commits and
// tags. It publishes nothing and pushes nothing: the last lines say how.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const [version, ...flags] = process.argv.slice(2);
const path = (name) => join(root, name);

if (!/^\d+\.\d+\.\d+$/.test(version ?? ""))
  fail("give the new version: npm run release -- 1.2.3 [--no-test]");
if (output("git", ["status", "--porcelain"]) !== "") fail("the tree is not clean: commit or stash first");
if (output("git", ["tag", "--list", `v${version}`]) !== "") fail(`there is a tag v${version} already`);
const changes = readFileSync(path("CHANGELOG.md"), "utf8");
const [, unreleased = ""] = /^## Unreleased\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(changes) ?? [];
if (unreleased.trim() === "") fail('CHANGELOG.md has nothing under "## Unreleased"');

if (!flags.includes("--no-test")) run("npm", ["test"]);
const today = new Date().toISOString().slice(0, 10);
writeFileSync(
  path("CHANGELOG.md"),
  changes.replace("## Unreleased\n", `## Unreleased\n\n## ${version}, ${today}\n`),
);
run("npm", ["version", version, "--no-git-tag-version"]);
run("git", ["commit", "--quiet", "--all", "--message", `Release ${version}`]);
run("git", ["tag", "--annotate", `v${version}`, "--message", `lowrank ${version}\n${unreleased}`]);
console.log(
  `\nRelease ${version} is committed and tagged. To publish it, the platforms' packages before lowrank's own, which names them:
  git push --follow-tags
  node tools/prebuild.mjs --out packages
  for f in packages/lowrank-*-*-${version}.tgz packages/lowrank-${version}.tgz; do npm publish --access public $f; done`,
);

function output(command, args) {
  const { status, stdout, error } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  if (error || status !== 0) fail(`${command} ${args.join(" ")} failed`);
  return stdout.trim();
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (error || status !== 0) fail(`${command} ${args.join(" ")} failed; nothing was tagged`);
}

function fail(reason) {
  console.error(`release: ${reason}`);
  process.exit(1);
}
