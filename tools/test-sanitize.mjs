// `npm run test:sanitize`: the CPU engine's tests over an addon built with AddressSanitizer and
// UndefinedBehaviorSanitizer (native/build.mjs --sanitize), which ends at the first bad access or undefined operation;
// then short runs of the real command, whose leaks are looked for at the exit. Needs g++ on Linux. Further words go to
// vitest in place of the list below. Not here: the tests themselves.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const addon = join(root, "native/build/sanitize/lowrank.node");
const tests = ["test/native", "test/conformance", "test/backend/cpu-memory", "test/backend/cpu-queue"];
/** Innermost frames by which a leak is judged: enough for the engine's own, few enough to tell Node's apart. */
const LEAK_FRAMES = 4;

if (process.platform !== "linux") stop("needs Linux: it preloads gcc's libasan.");
run("node", ["native/build.mjs", "--sanitize"], {}, "the build");

const compiler = (process.env.CXX ?? "g++").trim().split(/\s+/);
const found = spawnSync(compiler[0], [...compiler.slice(1), "-print-file-name=libasan.so"], {
  encoding: "utf8",
});
const libasan = found.stdout?.trim() ?? "";
if (!libasan.startsWith("/") || !existsSync(libasan)) stop(`${compiler[0]} has no libasan.so.`);

const scratch = mkdtempSync(join(tmpdir(), "lowrank-sanitize-"));
const reports = join(scratch, "report");
try {
  const { tests: passed, seconds } = runTests();
  const runs = lookForLeaks();
  console.log(
    `sanitize: ${passed} tests in ${seconds} s and ${runs} runs of the command: no bad access, no undefined operation, no leak`,
  );
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

/** Of a process whose sanitizers speak through `options`. Node itself is not instrumented, only watched. */
function sanitized(options) {
  return {
    LD_PRELOAD: libasan,
    LOWRANK_ADDON: addon,
    LOWRANK_CACHE: join(scratch, "cache"),
    ASAN_OPTIONS: `halt_on_error=1:allocator_may_return_null=1:log_path=${reports}:${options}`,
    UBSAN_OPTIONS: `halt_on_error=1:print_stacktrace=1:log_path=${reports}`,
  };
}

function runTests() {
  const words = process.argv.length > 2 ? process.argv.slice(2) : tests;
  const results = join(scratch, "results.json");
  const started = performance.now();
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${results}`];
  // Not the CUDA emulator: it changes stacks, which the sanitizers take for faults.
  const limits = [
    "--project=lowrank",
    "--pool=forks",
    "--maxWorkers=1",
    "--testTimeout=1200000",
    "--hookTimeout=1200000",
  ];
  // WebGPU is another engine's code.
  const names = ["--testNamePattern", "^(?!.*webgpu)"];
  const vitest = join(root, "node_modules/vitest/vitest.mjs");
  run(
    "node",
    [vitest, "run", ...words, ...limits, ...names, ...reporters],
    sanitized("detect_leaks=0"),
    "a test",
  );
  const { numPassedTests } = JSON.parse(readFileSync(results, "utf8"));
  if (numPassedTests === 0) stop("no test ran.");
  return { tests: numPassedTests, seconds: Math.round((performance.now() - started) / 1000) };
}

/** Leaks are told where a process ends by itself, which test workers do not. */
function lookForLeaks() {
  const suppressions = join(scratch, "suppressions");
  // What Node and its libraries keep until the process ends.
  writeFileSync(suppressions, `leak:${process.execPath}\nleak:libnode\nleak:libstdc++\nleak:ld-linux\n`);
  const options = {
    ...sanitized(`detect_leaks=1:malloc_context_size=${LEAK_FRAMES}`),
    LSAN_OPTIONS: `suppressions=${suppressions}:print_suppressions=0`,
  };
  const data = join(scratch, "rows.jsonl");
  const rows = Array.from({ length: 8 }, (_, i) => ({ prompt: `Tom saw ${i} birds.`, completion: " Yes." }));
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const cli = join(root, "dist/cli/main.js");
  const train = ["train", "--model", "tiny", "--data", data, "--max-steps", "2", "--backend", "cpu"];
  const runs = [
    [...train, "--out", join(scratch, "bf16")],
    [...train, "--out", join(scratch, "qlora"), "--method", "qlora", "--optimizer", "adamw8bit", "--paged"],
    [...train, "--out", join(scratch, "full"), "--method", "full", "--precision", "fp32"],
    ["generate", "--model", "tiny", "--backend", "cpu", "--prompt", "Once", "--max-new-tokens", "8"],
  ];
  for (const words of runs) run("node", [cli, ...words], options, `lowrank ${words[0]}`);
  return runs.length;
}

function run(command, words, environment, what) {
  const done = spawnSync(command, words, {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  if (done.status === 0) return;
  spawnSync("sh", ["-c", `cat ${reports}.* >&2 2>/dev/null`]);
  stop(`${what} failed (${done.signal ?? `code ${done.status}`}).`);
}

function stop(why) {
  console.error(`sanitize: ${why}`);
  process.exit(1);
}
