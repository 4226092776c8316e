// The chain from data and base to a GGUF file: sound as it was made, and broken by one bit anywhere in it. Hostile records
// lead nowhere. Steps that are made again: test/train/replay.test.ts.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/formats/peft.ts";
import { isSealed, sealedRecord } from "../../src/publish/chain.ts";
import { modelCard } from "../../src/publish/model-card.ts";
import { type Link, recordsOf, walkChain } from "../../src/publish/verify-chain.ts";
import {
  backendName,
  lowrank,
  makeRows,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "../e2e/lowrank.ts";

const folder = scratchFolder();
const place = (name: string) => join(folder, name);
const device = ["--backend", backendName];
const base = writeTinyModel(place("base"));
const rows = writeRows(place("rows.jsonl"), makeRows(16));
const unseen = writeRows(place("unseen.jsonl"), makeRows(20).slice(16));
const template = place("chat.jinja");
writeFileSync(template, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");

beforeAll(() => {
  succeed(
    ...["train", "--model", base, "--data", rows, "--eval-data", unseen, "--out", place("run"), ...device],
    ...["--chat-template", template, "--max-steps", "4", "--save-every", "2", "--batch-size", "2"],
  );
  const merged = ["--model", base, "--adapter", place("run"), "--out", place("merged")];
  succeed("merge", ...merged, ...device, "--chat-template", template);
  succeed("quantize", "--model", place("merged"), "--out", place("four"), ...device);
  succeed(
    ...["export", "--model", place("merged"), "--format", "gguf", "--type", "f16", "--no-receipt", ...device],
    ...["--out", place("merged.gguf")],
  );
});

const walk = async (what: string, options = {}) =>
  (await walkChain(await recordsOf(place(what)), options)).links;
const states = (links: readonly Link[]) => new Set(links.map(({ state }) => state));
const names = (links: readonly Link[]) => new Set(links.map(({ file }) => basename(file)));

/** With one bit turned in each of these files: the first, the last, or one between. */
async function turned<T>(paths: readonly string[], part: number, look: () => Promise<T>): Promise<T> {
  const before = paths.map((path) => readFileSync(path));
  for (const [i, path] of paths.entries()) {
    const bytes = Buffer.from(before[i]!);
    const bit = Math.floor((bytes.length * 8 - 1) * part);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    writeFileSync(path, bytes);
  }
  try {
    return await look();
  } finally {
    for (const [i, path] of paths.entries()) writeFileSync(path, before[i]!);
  }
}
const pathOf = ({ file, record, role }: Link) => (role === "record" ? record : file);

describe("an untouched chain", () => {
  it("holds from a GGUF file back to the rows, and from a 4-bit folder", async () => {
    for (const end of ["merged.gguf", "four"]) {
      const links = await walk(end);
      expect(states(links), end).toEqual(new Set(["sound"]));
      const needed = [
        ...["rows.jsonl", "unseen.jsonl", "chat.jinja", "tokenizer.json", "config.json", "model.safetensors"],
        ...["run.json", "merge-report.json", "adapter_model.safetensors", "state.json", "metrics.jsonl"],
        ...(end === "four"
          ? ["quantize-report.json"]
          : ["merged.gguf", "merged.receipt.json", "merged.Modelfile"]),
      ];
      for (const name of needed) expect(names(links), end).toContain(name);
    }
  });

  it("is found from any of its files", async () => {
    for (const file of ["run/adapter_model.safetensors", "run/run.json", "merged/model.safetensors"])
      expect(states(await walk(file))).toEqual(new Set(["sound"]));
  });

  it("is told by the command, with its exit code", () => {
    const { stdout } = succeed("verify", place("merged.gguf"), "--json");
    expect(JSON.parse(stdout)).toMatchObject({ sound: true, broken: [], notFound: [], replays: [] });
  });
});

describe("one bit", () => {
  it("in any file of it is found, and laid to that file", async () => {
    const files = [...new Set((await walk("merged.gguf")).map(pathOf))];
    expect(files.length).toBeGreaterThan(20);
    // What names others is turned alone: what it names is then not looked at.
    const naming = files.filter((path) => /SHA256SUMS$|(run|report|receipt)\.json$/.test(path));
    const others = files.filter((path) => !naming.includes(path));
    expect(naming.length).toBeGreaterThan(4);
    const every = (parity: number) => others.filter((_, i) => i % 2 === parity);
    for (const part of [0, 0.613, 1]) {
      for (const group of [every(0), every(1), ...(part === 0.613 ? naming.map((path) => [path]) : [])]) {
        const links = await turned(group, part, () => walk("merged.gguf"));
        const broken = new Set(links.filter(({ state }) => state === "broken").map(pathOf));
        expect([...broken].sort(), `at ${part}`).toEqual([...group].sort());
      }
    }
  });

  it("anywhere in a record breaks its seal", () => {
    const text = readFileSync(place("run/run.json"), "utf8");
    expect(isSealed(text)).toBe(true);
    const bytes = Buffer.from(text);
    const end = bytes.length;
    for (let at = 0; at < end; at += at > end - 200 ? 1 : 37) {
      for (const bit of [0, 5]) {
        bytes[at]! ^= 1 << bit;
        expect(isSealed(bytes.toString("utf8")), `byte ${at}`).toBe(false);
        bytes[at]! ^= 1 << bit;
      }
    }
  });

  it("makes the command's exit code 1, and the file is named", async () => {
    const result = await turned([place("rows.jsonl")], 0.3, async () =>
      lowrank("verify", place("merged.gguf")),
    );
    expect(result.status).toBe(1);
    expect(result.stdout).toMatch(/BROKEN +data +.*rows\.jsonl: its SHA-256 is another/);
  });
});

it("what --json prints is what docs/VERIFY.md says, field by field", () => {
  const tables: Record<string, Map<string, string>> = {};
  let title = "";
  for (const line of readFileSync(new URL("../../docs/VERIFY.md", import.meta.url), "utf8").split("\n")) {
    title = /^## (.*)/.exec(line)?.[1] ?? title;
    const [, names, type] = /^\| (`.*?) \| (\w+) \|/.exec(line) ?? [];
    tables[title] ??= new Map();
    for (const [, name, missing] of names?.matchAll(/`(\w+)`(\?)?/g) ?? [])
      tables[title]!.set(name!, missing ? `${type}?` : type!);
  }
  const holds = (value: Record<string, unknown>, table: string) => {
    for (const [name, type] of tables[table]!) {
      if (type.endsWith("?") && value[name] === undefined) continue;
      const found = Array.isArray(value[name]) ? "array" : typeof value[name];
      expect(`${name}: ${found}`, table).toBe(`${name}: ${type.replace("?", "")}`);
    }
    for (const name of Object.keys(value)) expect([...tables[table]!.keys()], table).toContain(name);
  };
  const seen = new Set<string>();
  for (const args of [["run", "--steps", "all"], ["run", "--steps", "none", "--data", "x"], ["four"]]) {
    const [what, ...rest] = args as [string, ...string[]];
    const found = JSON.parse(lowrank("verify", place(what), ...rest, "--json").stdout);
    holds(found, "The whole");
    for (const link of found.links) holds(link, "A link");
    for (const one of found.replays) {
      holds(one, "A replay");
      seen.add("replay");
    }
  }
  expect([...seen]).toEqual(["replay"]);
});

describe("what is not where it was", () => {
  const moved = async (from: string, to: string, look: () => Promise<void>) => {
    renameSync(place(from), place(to));
    try {
      await look();
    } finally {
      renameSync(place(to), place(from));
    }
  };

  it("is told, and found again by --model and --data", () =>
    moved("base", "elsewhere", async () => {
      const links = await walk("run");
      expect(states(links)).toEqual(new Set(["sound", "not found"]));
      const found = await walk("run", { model: place("elsewhere") });
      expect(states(found)).toEqual(new Set(["sound"]));
      const other = await turned([place("elsewhere/config.json")], 0.5, () =>
        walk("run", { model: place("elsewhere") }),
      );
      expect(states(other)).toContain("broken");
    }));

  it("a file that is missing beside others is a broken link", () =>
    moved("base/config.json", "config.json", async () => {
      const [link] = (await walk("run")).filter(({ state }) => state === "broken");
      expect(link).toMatchObject({ role: "model", problem: "it is missing" });
    }));

  it("rows whose file is gone are not there, whether their folder is or not, and are found in the folder that has them", () =>
    moved("rows.jsonl", "run/rows.jsonl", async () => {
      const links = await walk("run", { data: [place("merged")] });
      expect(states(links)).toEqual(new Set(["sound", "not found"]));
      const [link] = links.filter(({ state }) => state === "not found");
      expect(link).toMatchObject({ role: "data", problem: expect.stringMatching(/--data says where/) });
      const found = await walk("run", { data: [place("merged"), place("run")] });
      expect(states(found)).toEqual(new Set(["sound"]));
    }));

  it("rows given by a relative path that are gone are not looked for on the hub", async () => {
    const near = relative(process.cwd(), place("near.jsonl"));
    writeRows(place("near.jsonl"), makeRows(8));
    const flags = ["--max-steps", "2", "--save-every", "1", "--batch-size", "2", ...device];
    succeed("train", "--model", base, "--data", near, "--out", place("near"), ...flags);
    await moved("near.jsonl", "far.jsonl", async () => {
      const { stdout, status } = lowrank("verify", place("near"));
      expect(stdout).toMatch(/not made again: .*near\.jsonl: .*--data says where the rows are now/);
      expect(status).toBe(0);
      const found = lowrank("verify", place("near"), "--data", place("far.jsonl"));
      // Under another name its hash is not looked at, but its rows are those that were learnt.
      expect(found.stdout).toMatch(/bit-identical/);
    });
  });

  it("a file that no record names is not called sound for what lies beside it", () => {
    writeFileSync(place("merged/other.safetensors"), "other");
    const result = lowrank("verify", place("merged/other.safetensors"));
    rmSync(place("merged/other.safetensors"));
    expect(result).toMatchObject({ status: 1, stdout: "" });
    expect(result.stderr).toMatch(/other\.safetensors: no record names this file \(merge-report\.json/);
    expect(lowrank("verify", place("merged/model.safetensors")).status).toBe(0);
    expect(lowrank("verify", place("merged/merge-report.json")).status).toBe(0);
  });

  it("checkpoints that were removed break nothing", () =>
    moved("run/checkpoints", "away", async () => {
      expect(states(await walk("run"))).toEqual(new Set(["sound", "not found"]));
    }));

  it("a GGUF file without its receipt, and a folder without a record, are refused by name", async () => {
    await moved("merged.receipt.json", "other.json", () =>
      expect(recordsOf(place("merged.gguf"))).rejects.toThrow(
        /receipt merged\.receipt\.json does not lie beside it/,
      ),
    );
    await expect(recordsOf(base)).rejects.toThrow(/no record of lowrank lies here/);
    expect(lowrank("verify", base).status).toBe(1);
  });
});

describe("a record from a stranger", () => {
  const withRecord = async (text: string) => {
    const own = place("stranger");
    rmSync(own, { recursive: true, force: true });
    mkdirSync(own);
    writeFileSync(join(own, "run.json"), text);
    return walk("stranger");
  };
  const file = (name: string) => ({ name, bytes: 1, sha256: "0".repeat(64) });
  const part = (path: string, name: string) => [{ role: "result", path, files: [file(name)] }];

  it.each([
    ["no JSON", "{"],
    ["no object", "[]"],
    ["no chain", "{}"],
    ["a chain that is none", '{"chain": {"version": 1, "sources": 3, "outputs": []}}'],
    ["a part that is none", '{"chain": {"version": 1, "sources": [null], "outputs": []}}'],
    [
      "a file that is none",
      '{"chain": {"version": 1, "outputs": [], "sources": [{"role": "a", "path": "b", "files": [null]}]}}',
    ],
    [
      "a name that leads out",
      sealedRecord({}, { made: "train", sources: part("x", "../../etc/hosts"), outputs: [] }),
    ],
    ["an absolute name", sealedRecord({}, { made: "train", sources: [], outputs: part(".", "/etc/hosts") })],
    [
      "a result elsewhere",
      sealedRecord({}, { made: "train", sources: [], outputs: part("../run", "run.json") }),
    ],
    ["bytes that are no UTF-8", '{"a": "\xff"}'],
  ])("%s", async (_, text) => {
    const links = await withRecord(text);
    expect(links).toHaveLength(1);
    expect(links[0]).toMatchObject({ role: "record", state: "broken" });
  });

  it("that leads back to itself ends", async () => {
    const sources = [{ role: "adapter", path: place("stranger"), files: [] }];
    const links = await withRecord(sealedRecord({}, { made: "merge", sources, outputs: [] }));
    expect(links).toEqual([expect.objectContaining({ state: "sound" })]);
  });
});

it("the model card says what the adapter was made of, by hash", async () => {
  const run = JSON.parse(readFileSync(place("run/run.json"), "utf8"));
  const card = modelCard("first", (await readAdapter(place("run"))).config, run);
  const sha = (role: string, name: string) =>
    [...run.chain.sources, ...run.chain.outputs]
      .find((each: { role: string }) => each.role === role)
      .files.find((each: { name: string }) => each.name === name).sha256;
  expect(card).toContain(`| adapter_model.safetensors | ${sha("result", "adapter_model.safetensors")} |`);
  expect(card).toContain(`| model: model.safetensors | ${sha("model", "model.safetensors")} |`);
  expect(card).toContain(`| data: rows.jsonl | ${sha("data", "rows.jsonl")} |`);
  expect(card).toContain(`| run.json | ${run.chain.self.slice(7)} |`);
  expect(card).not.toContain(folder);
});
