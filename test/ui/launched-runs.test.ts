// Where the page's server keeps recipes and logs of what it starts: no link there leads it to another file.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";

const built = new URL("../../dist/ui/launched-runs.js", import.meta.url);
if (!existsSync(built)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { LaunchedRuns } = (await import(built.href)) as typeof import("../../src/ui/launched-runs.ts");

const base = mkdtempSync(join(tmpdir(), "lowrank-ui-launched-"));
afterAll(() => rmSync(base, { recursive: true, force: true }));
const precious = join(base, "precious");

it("a link in place of a log is replaced, and one in place of the folder refused", async () => {
  writeFileSync(precious, "kept");
  const root = join(base, "runs");
  mkdirSync(root);
  const ended: string[] = [];
  const runs = new LaunchedRuns(root, (id) => ended.push(id));
  const launch = (id: string) =>
    runs.launch(id, join(root, id), { model: join(base, "nowhere"), data: "x" }, false);
  await launch("first");
  while (ended.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  expect(runs.fateOf("first")).toMatchObject({ alive: false, code: 1 });
  expect((await runs.logOf("first"))?.lines.join("\n")).toMatch(/^error: /m);
  expect(await runs.recipeOf("first")).toEqual({ model: join(base, "nowhere"), data: "x" });

  const own = join(root, ".lowrank-ui");
  const [log] = readdirSync(own).filter((name) => name.endsWith(".log"));
  rmSync(join(own, log!));
  symlinkSync(precious, join(own, log!));
  expect(await runs.logOf("first")).toBeUndefined();
  await launch("first");
  while (ended.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  expect(readFileSync(precious, "utf8")).toBe("kept");
  expect((await runs.logOf("first"))?.lines.length).toBeGreaterThan(0);

  // Of two pages that start the same run at once, one is told so; and never more than four runs are at work.
  const ask = (id: string) =>
    launch(id).then(
      () => "started",
      (error: Error) => error.message,
    );
  expect((await Promise.all([ask("twice"), ask("twice"), ask("twice")])).sort()).toEqual(
    ["started", ...["twice", "twice"].map((id) => `${id}: it is at work already`)].sort(),
  );
  while (ended.length < 3) await new Promise((resolve) => setTimeout(resolve, 10));
  const many = await Promise.all(["a", "b", "c", "d", "e", "f"].map(ask));
  expect(many.filter((said) => said === "started")).toHaveLength(4);
  expect(many.at(-1)).toBe("4 runs that were started here are at work already");
  while (ended.length < 7) await new Promise((resolve) => setTimeout(resolve, 10));

  rmSync(own, { recursive: true });
  mkdirSync(join(base, "elsewhere"));
  symlinkSync(join(base, "elsewhere"), own);
  await expect(launch("second")).rejects.toThrow(/a link is in place/);
});
