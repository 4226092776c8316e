// Checks that the source keeps to the architecture: who may import whom, and who alone may touch the network, the
// addon, the screen or Node itself. The tables below are the rules; ARCHITECTURE.md tells why. Reads import lines
// with regular expressions, because the compiler has no JavaScript API. Not here: types (tsc) and style (biome).

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** A file imports from its own room and from rooms on earlier lines; rooms on one line never import each other. */
const ORDER = [
  ["util"],
  ["tensor"],
  ["quant"],
  ["backend"],
  ["distributed"],
  ["autograd"],
  ["nn", "optim"],
  ["formats", "text"],
  ["models", "data", "metrics"],
  ["generate", "objectives"],
  ["publish"],
  ["config"],
  ["session"],
  ["measure", "memory", "rollouts"],
  ["train"],
  ["plan"],
  ["compare"],
  ["serve"],
  ["library", "browser"],
  ["ui"],
  ["cli"],
];

/** Things that only some files may do: a pattern over code without comments, and the files that may. */
const PRIVILEGES = [
  { what: 'import "webgpu"', pattern: /(?:from|import|import\()\s*"webgpu"/, where: /^backend\/webgpu/ },
  {
    what: "load the native addon",
    pattern: /process\.dlopen|\.node["'`]/,
    where: /^backend\/cpu\/addon\.node\.ts$/,
  },
  {
    what: "reach the network",
    pattern: /(?<![\w.])fetch\(|"(?:node:)?(?:http2?|https|net|tls|dgram|dns)"|"undici"|"@huggingface\/hub"/,
    // The page of `lowrank ui` asks its own server, through one file.
    where: /^(formats\/hub|train\/trackers\/http|browser\/host\/download)\.ts$|^ui\/page\/server-calls\.ts$/,
  },
  { what: "print", pattern: /(?<!\w)console\.\w|process\.std(out|err)/, where: /^cli\// },
  {
    what: "end the process",
    pattern: /process\.(exit|abort|reallyExit)\b|process\.exitCode/,
    where: /^cli\//,
  },
  {
    what: "use Node's own modules",
    pattern: /(?:from|import|import\(|require\()\s*"node:/,
    // Rooms at the edges, and elsewhere the files that say so in their names: all else also runs in a browser.
    where: /^(formats|publish|memory|measure|train|plan|compare|serve|library|ui|cli)\/|\.node\.ts$/,
  },
];
/** serve/ and ui/ listen on loopback: they answer, and call nobody. */
const SERVER_MODULES = /^(serve|ui)\//;

/** Written by tools/embed-wgsl.mjs. */
const GENERATED = "backend/webgpu/shaders.ts";
const LONG_FILE_LINES = 400;
const IMPORT = /(?:^|[;\n])\s*(?:import|export)\b[^;"'`]*?\bfrom\s*"([^"]+)"|\bimport\s*\(?\s*"([^"]+)"/g;

/** Complaints about one file: `path` relative to src/, with forward slashes. */
export function checkFile(path, source) {
  const errors = [];
  const warnings = [];
  const body = source.replace(/^#!.*\n/, "");
  if (!/^(\/\/|\/\*)/.test(body))
    errors.push("must open with a comment: what it is, what it is not, where to look");
  const lines = source.split("\n").length;
  if (lines > LONG_FILE_LINES) warnings.push(`has ${lines} lines; about ${LONG_FILE_LINES} is the most`);

  const code = withoutComments(body);
  const room = path.includes("/") ? path.split("/")[0] : undefined;
  const rank = rankOf(room);
  if (room !== undefined && rank < 0)
    errors.push(`lies in "${room}", which is no room of the table in tools/check-house.mjs`);
  for (const match of code.matchAll(IMPORT)) {
    const target = match[1] ?? match[2];
    if (!target.startsWith(".") || room === undefined || rank < 0) continue;
    const resolved = resolveFrom(path, target);
    const other = resolved.includes("/") ? resolved.split("/")[0] : undefined;
    if (other === room) continue;
    if (other === undefined) errors.push(`imports ${target}: src/index.ts is for users of the package only`);
    else if (other === "..") continue;
    else if (rankOf(other) < 0) errors.push(`imports ${target}: no such room`);
    else if (rankOf(other) >= rank) errors.push(`imports ${target}: ${room}/ may not depend on ${other}/`);
  }
  for (const { what, pattern, where } of PRIVILEGES) {
    if (
      where.test(path) ||
      (what === "reach the network" && SERVER_MODULES.test(path) && !/\bfetch\(/.test(code))
    )
      continue;
    const found = pattern.exec(code);
    if (found) errors.push(`may not ${what} (${found[0].trim()})`);
  }
  return { errors, warnings };
}

function rankOf(room) {
  return ORDER.findIndex((line) => line.includes(room));
}

/** The path, relative to src/, that a relative import in `path` names; ".." first where it leaves src/. */
function resolveFrom(path, target) {
  return relative("/src", join("/src", dirname(path), target))
    .split(sep)
    .join("/");
}

/** Code without comments. Strings are kept: imports live in them. */
function withoutComments(source) {
  const token = /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  return source.replace(token, (found) => (found.startsWith("//") || found.startsWith("/*") ? " " : found));
}

/**
 * Groups of files that import each other in a circle, types included: `sources` is path -> source. Tarjan's strongly
 * connected components.
 */
export function findCircles(sources) {
  const imports = new Map();
  for (const [path, source] of sources) {
    // What is imported when it is needed makes no circle.
    const targets = [...withoutComments(source).matchAll(IMPORT)].flatMap((match) => match[1] ?? []);
    const own = targets.filter((target) => target.startsWith(".")).map((target) => resolveFrom(path, target));
    imports.set(
      path,
      own.filter((target) => sources.has(target)),
    );
  }
  const [index, low, stack, circles] = [new Map(), new Map(), [], []];
  const visit = (path) => {
    index.set(path, index.size);
    low.set(path, index.get(path));
    stack.push(path);
    for (const target of imports.get(path)) {
      if (!index.has(target)) visit(target);
      if (stack.includes(target)) low.set(path, Math.min(low.get(path), low.get(target)));
    }
    if (low.get(path) !== index.get(path)) return;
    const circle = stack.splice(stack.indexOf(path));
    if (circle.length > 1) circles.push(circle);
  };
  for (const path of imports.keys()) if (!index.has(path)) visit(path);
  return circles;
}

function main() {
  const root = join(dirname(fileURLToPath(import.meta.url)), "..", "src");
  const files = readdirSync(root, { recursive: true })
    .map((path) => path.split(sep).join("/"))
    .filter((path) => /\.tsx?$/.test(path) && path !== GENERATED)
    .sort();
  const sources = new Map(files.map((path) => [path, readFileSync(join(root, path), "utf8")]));
  let broken = 0;
  for (const circle of findCircles(sources)) {
    console.error(`error: these import each other in a circle: ${circle.join(", ")}`);
    broken++;
  }
  for (const [path, source] of sources) {
    const { errors, warnings } = checkFile(path, source);
    for (const warning of warnings) console.warn(`warning: src/${path} ${warning}`);
    for (const error of errors) console.error(`error: src/${path} ${error}`);
    broken += errors.length;
  }
  console.log(`check-house: ${files.length} files, ${broken} broken rules`);
  process.exitCode = broken > 0 ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
