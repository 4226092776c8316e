// One kernel of a PTX file as a file of its own. The driver compiles PTX when it is loaded, file by file, and a file of
// native/cuda/ptx has every variant of its kernels: so only what is launched is compiled for the card. Not here: reading files (files.node.ts).
//
//   .version 8.4  .target sm_80  .address_size 64      the head
//   .global ..., .shared ..., .extern ...              a line each, used by some of the kernels
//   .visible .entry NAME( ... ) ... { ... }            the last line is "}" alone

import { BugError } from "../../util/errors.ts";

const head = /^\.(version|target|address_size)\b/;
/** The name that a declaration gives: its last word before a length, a value or the end. */
const declared = /([\w$]+)(?:\[\d*\])?\s*(?:=.*)?;$/;

/** The kernels of a PTX text, by name. BugError when it is not as build-ptx.mjs leaves it. */
export function kernelsOf(text: string, file: string): ReadonlyMap<string, string> {
  const heads: string[] = [];
  const declarations: { readonly name: string; readonly line: string }[] = [];
  const bodies = new Map<string, string>();
  let body: { readonly name: string; readonly lines: string[] } | undefined;
  for (const line of text.split("\n")) {
    if (body) {
      body.lines.push(line);
      if (line !== "}") continue;
      bodies.set(body.name, body.lines.join("\n"));
      body = undefined;
      continue;
    }
    const entry = /^\.visible \.entry (\w+)\(/.exec(line);
    if (entry) body = { name: entry[1]!, lines: [line] };
    else if (head.test(line)) heads.push(line);
    else if (/^\.(global|shared|extern|const)\b/.test(line)) {
      const name = declared.exec(line)?.[1];
      if (name === undefined) throw new BugError(`${file}.ptx: the declaration "${line}" cannot be read`);
      declarations.push({ name, line });
    } else if (line !== "" && !line.startsWith("//"))
      throw new BugError(`${file}.ptx: "${line.slice(0, 60)}" is not expected between kernels`);
  }
  if (body || heads.length !== 3) throw new BugError(`${file}.ptx is cut off`);
  const found = new Map<string, string>();
  for (const [name, lines] of bodies) {
    const words = new Set(lines.match(/[\w$]+/g));
    const used = declarations.filter((declaration) => words.has(declaration.name)).map(({ line }) => line);
    found.set(name, [...heads, ...used, lines, ""].join("\n"));
  }
  return found;
}
