// What stands for vitest where vitest does not run: describe, it and their kin as the conformance suites call them, with
// vitest's own `expect`, which is plain JavaScript. test-elsewhere.mjs copies it beside the compiled tests. Not here:
// mocks, snapshots, timeouts, tests side by side.

import { writeSync } from "node:fs";
import { chai, JestAsymmetricMatchers, JestChaiExpect, JestExtend } from "@vitest/expect";

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
export const expect = (value, message) => chai.expect(value, message);
Object.assign(expect, chai.expect);

const open = (name, parent) => ({
  name,
  parent,
  skip: parent?.skip ?? false,
  items: [],
  beforeAll: [],
  afterAll: [],
  beforeEach: [],
  afterEach: [],
});
let current = open("", undefined);
const title = (name, row, i) => {
  const values = Array.isArray(row) ? row : [row];
  let next = 0;
  return name
    .replace(/\$([\w.]+)/g, (_, path) => String(path.split(".").reduce((value, key) => value?.[key], row)))
    .replace(/%([sdifjo#])/g, (_, kind) => (kind === "#" ? i : String(values[next++])));
};
const eachOf = (call) => (rows) => (name, body) => {
  for (const [i, row] of rows.entries()) {
    call(title(name, row, i), () => (Array.isArray(row) ? body(...row) : body(row)));
  }
};
const variants = (call, skipped) =>
  Object.assign(call, {
    each: eachOf(call),
    skip: skipped,
    skipIf: (condition) => (condition ? variants(skipped, skipped) : call),
    runIf: (condition) => (condition ? call : variants(skipped, skipped)),
  });
const group = (skip) => (name, body) => {
  const suite = open(name, current);
  suite.skip ||= skip;
  current.items.push(suite);
  const before = current;
  current = suite;
  body();
  current = before;
};
const single = (skip) => (name, first, second) => {
  const body = typeof first === "function" ? first : second;
  current.items.push({ name, body, skip: skip || current.skip });
};
export const describe = variants(group(false), group(true));
export const it = variants(single(false), single(true));
export const test = it;
for (const hook of ["beforeAll", "afterAll", "beforeEach", "afterEach"])
  globalThis[hook] = (body) => current[hook].push(body);
export const { beforeAll, afterAll, beforeEach, afterEach } = globalThis;

const counts = { passed: 0, failed: 0, skipped: 0 };
const print = (text) => writeSync(1, `${text}\n`);
const selects = (suite, only) =>
  suite.items.some((item) => (item.items ? selects(item, only) : !item.skip && item.path.includes(only)));
function name(suite, prefix) {
  for (const item of suite.items) {
    item.path = prefix + item.name;
    if (item.items) name(item, `${item.path} > `);
  }
}
const testsIn = (suite) => suite.items.reduce((sum, item) => sum + (item.items ? testsIn(item) : 1), 0);

async function run(suite, only, each) {
  if (!selects(suite, only)) {
    counts.skipped += testsIn(suite);
    return;
  }
  const inner = { before: [...each.before, ...suite.beforeEach], after: [...suite.afterEach, ...each.after] };
  for (const hook of suite.beforeAll) await hook();
  for (const item of suite.items) {
    if (item.items) {
      await run(item, only, inner);
      continue;
    }
    if (item.skip || !item.path.includes(only)) {
      counts.skipped++;
      continue;
    }
    try {
      for (const hook of inner.before) await hook();
      await item.body();
      for (const hook of inner.after) await hook();
      counts.passed++;
    } catch (error) {
      counts.failed++;
      const lines = String(error?.stack ?? error)
        .split("\n")
        .slice(0, 6);
      print(`FAILED ${item.path}\n  ${lines.join("\n  ")}`);
    }
  }
  for (const hook of suite.afterAll) await hook();
}

/** Runs the tests of a compiled file whose names contain `only`. */
export async function runFile(file, only) {
  current = open("", undefined);
  const before = { ...counts };
  const start = performance.now();
  await import(file);
  name(current, "");
  await run(current, only, { before: [], after: [] });
  const [passed, failed, skipped] = Object.keys(counts).map((key) => `${counts[key] - before[key]} ${key}`);
  print(`${passed}, ${failed}, ${skipped}, ${Math.round((performance.now() - start) / 1000)} s: ${file}`);
}

/** Says what came of all files and ends the process, with 1 where a test failed or none ran. */
export function finish() {
  const { passed, failed, skipped } = counts;
  const where = `${process.platform} ${process.arch}, Node ${process.version}`;
  print(`${passed} passed, ${failed} failed, ${skipped} skipped in all, ${where}`);
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}
