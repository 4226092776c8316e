// Downloads from a hub on loopback: cuts, wrong bytes, two processes at once, a cache that cannot be written, offline;
// that Python's huggingface_hub finds the files; and uploads.

import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openDataFile, readRows } from "../../src/data/read-rows.node.ts";
import { rowLabel } from "../../src/data/row.ts";
import { fetchData, fetchModel } from "../../src/formats/fetch-named.ts";
import { fetchSnapshot } from "../../src/formats/hub.ts";
import { hubSettings, parseHubName } from "../../src/formats/hub-cache.ts";
import { locateData, locateGguf, locateModel } from "../../src/formats/locate-model.ts";
import { pushAdapter } from "../../src/publish/push-adapter.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";
import { commit, type MockHub, startHub } from "./hub-server.ts";
import { python } from "./python.ts";

const root = scratchFolder();
const weights = randomBytes(300_000);
const config = Buffer.from('{"model_type":"llama"}\n');
let hub: MockHub;
let home: string;
let count = 0;
const environment = { ...process.env };

beforeAll(async () => {
  hub = await startHub({
    "us/model": {
      "config.json": config,
      "model.safetensors": weights,
      "pytorch_model.bin": Buffer.from("pickle"),
      "../escape.json": Buffer.from("{}"),
      "onnx/config.json": Buffer.from("{}"),
    },
    "us/parts": {
      "data/train-00001-of-00003.jsonl": Buffer.from('{"text":"c"}\n{"text":"d"}\n'),
      "data/train-00000-of-00003.jsonl": Buffer.from('{"text":"a"}\n{"text":"b"}\n'),
      "data/train-00002-of-00003.jsonl": Buffer.from('{"text":"e"}\n'),
      "data/dev-00000-of-00002.jsonl": Buffer.from('{"text":"a"}\n'),
      "a/test-00000-of-00001.jsonl": Buffer.from('{"text":"a"}\n'),
      "b/test-00000-of-00001.jsonl": Buffer.from('{"text":"b"}\n'),
    },
    "us/files": { "README.md": Buffer.from("files"), "small.Q8_0.gguf": Buffer.from("GGUF") },
    "us/cut": {
      "big-00001-of-00002.gguf": Buffer.from("GGUF1"),
      "big-00002-of-00002.gguf": Buffer.from("GGUF2"),
      "half-00001-of-00002.gguf": Buffer.from("GGUF1"),
    },
    "us/rows": {
      "README.md": Buffer.from("rows"),
      "data/train.jsonl": Buffer.from('{"text":"a"}\n'),
      "data/test.jsonl": Buffer.from('{"text":"b"}\n'),
    },
  });
});
afterAll(() => hub.close());
beforeEach(() => {
  home = join(root, `home-${count++}`);
  process.env.HF_HOME = home;
  process.env.HF_ENDPOINT = hub.url;
  for (const key of ["HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"])
    delete process.env[key];
  hub.requests.length = 0;
  hub.cuts.clear();
  hub.corrupt.clear();
  hub.token = undefined;
  hub.delayMs = 0;
});
afterEach(() => {
  process.env = { ...environment };
});

const module = fileURLToPath(new URL("../../dist/formats/fetch-named.js", import.meta.url));

/** Runs a module's text in a process of its own. */
function runScript(
  script: string,
  as: { uid?: number; gid?: number } = {},
): Promise<{ code: number | null; stderr: string }> {
  return new Promise((resolve) => {
    const env = { ...process.env };
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], { env, ...as });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("close", (code) => resolve({ code, stderr }));
  });
}

const blobs = () => readdirSync(join(home, "hub/models--us--model/blobs"));

describe("fetching from the hub", () => {
  it("fetches one GGUF file of a repository by name, and says which there are", async () => {
    await fetchModel("us/files/small.Q8_0.gguf", "all");
    expect(readFileSync(locateGguf("us/files/small.Q8_0.gguf")!, "utf8")).toBe("GGUF");
    await expect(fetchModel("us/files/other.gguf", "all")).rejects.toThrow(
      /no other\.gguf; GGUF files there: small\.Q8_0\.gguf/,
    );
    expect(locateGguf("us/files")).toBeUndefined();
  });

  it("fetches the parts of a model in several GGUF files with the first, and none without", async () => {
    await expect(fetchModel("us/cut/big-00002-of-00002.gguf", "all")).rejects.toThrow(
      /one of 2 parts; give the first, big-00001-of-00002\.gguf/,
    );
    await expect(fetchModel("us/cut/half-00001-of-00002.gguf", "all")).rejects.toThrow(
      /no half-00002-of-00002\.gguf; GGUF files there/,
    );
    expect(existsSync(join(home, "hub/models--us--cut/blobs"))).toBe(false);
    await fetchModel("us/cut/big-00001-of-00002.gguf", "all");
    const first = locateGguf("us/cut/big-00001-of-00002.gguf")!;
    expect(readFileSync(first.replace("00001", "00002"), "utf8")).toBe("GGUF2");
  });

  it("puts a model's files where huggingface_hub has them, and asks for nothing twice", async () => {
    await fetchModel("us/model", "all");
    const folder = locateModel("us/model");
    expect(folder).toBe(join(home, "hub/models--us--model/snapshots", commit));
    expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true);
    expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors"]);
    expect(lstatSync(join(folder, "config.json")).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(home, "hub/models--us--model/refs/main"), "utf8")).toBe(commit);
    expect(blobs()).toContain(createHash("sha256").update(weights).digest("hex"));
    expect(existsSync(join(root, "escape.json"))).toBe(false);
    hub.requests.length = 0;
    await fetchModel("us/model@main", "all");
    expect(hub.requests).toEqual(["GET /api/models/us/model/revision/main"]);
  });

  it("goes on after cuts at random bytes", async () => {
    const cuts = Array.from({ length: 6 }, () => 1 + Math.floor(Math.random() * 60_000));
    hub.cuts.set("model.safetensors", [...cuts, 0, 0]);
    await fetchModel("us/model", "all");
    expect(readFileSync(join(locateModel("us/model"), "model.safetensors")).equals(weights)).toBe(true);
    const ranges = hub.requests.filter((line) => /^GET \/storage.* bytes=/.test(line));
    expect(ranges.length).toBeGreaterThanOrEqual(6);
  });

  it("goes on with what an earlier process left", async () => {
    hub.cuts.set("model.safetensors", [100_000, 0, 0, 0, 0, 0, 0]);
    await expect(fetchModel("us/model", "all")).rejects.toThrow(/connection broke|sends nothing/);
    hub.cuts.clear();
    hub.requests.length = 0;
    const partial = blobs().find((name) => name.includes("incomplete"))!;
    const { size } = statSync(join(home, "hub/models--us--model/blobs", partial));
    expect(size).toBeGreaterThan(0);
    await fetchModel("us/model", "all");
    expect(hub.requests.some((line) => line.endsWith(`model.safetensors bytes=${size}-`))).toBe(true);
    expect(readFileSync(join(locateModel("us/model"), "model.safetensors")).equals(weights)).toBe(true);
  });

  it.each(["config.json", "model.safetensors"])(
    "refuses a wrong hash of %s and keeps nothing",
    async (path) => {
      const wrong =
        path === "config.json" ? Buffer.from('{"model_type":"llamb"}\n') : randomBytes(weights.length);
      hub.corrupt.set(path, wrong);
      await expect(fetchModel("us/model", "all")).rejects.toThrow(/its sha(1|256) is not the announced/);
      expect(() => locateModel("us/model")).toThrow(/no model of this name/);
      expect(blobs().filter((name) => name.includes("incomplete"))).toEqual([]);
    },
  );

  it("fetches each file once when two processes want it", async () => {
    hub.delayMs = 150;
    const script = `const f = await import(${JSON.stringify(module)}); await f.fetchModel("us/model", "all");`;
    const codes = (await Promise.all([runScript(script), runScript(script)])).map(({ code }) => code);
    expect(codes).toEqual([0, 0]);
    expect(
      hub.requests.filter((line) => line.startsWith("GET /storage/us/model/model.safetensors")),
    ).toHaveLength(1);
    expect(readFileSync(join(locateModel("us/model"), "model.safetensors")).equals(weights)).toBe(true);
    expect(readdirSync(join(home, "hub/.locks/models--us--model"))).toEqual([]);
  });

  it("takes over a lock that a dead process left", async () => {
    const locks = join(home, "hub/.locks/models--us--model");
    mkdirSync(locks, { recursive: true });
    const lock = join(locks, `${createHash("sha256").update(weights).digest("hex")}.lowrank.lock`);
    writeFileSync(lock, "1");
    const { utimesSync } = await import("node:fs");
    utimesSync(lock, new Date(Date.now() - 60_000), new Date(Date.now() - 60_000));
    await fetchModel("us/model", "all");
    expect(existsSync(lock)).toBe(false);
  });

  it("uses the cache offline and when the hub is gone, and says so when it has nothing", async () => {
    process.env.HF_HUB_OFFLINE = "1";
    await expect(fetchModel("us/model", "all")).rejects.toThrow(/HF_HUB_OFFLINE/);
    delete process.env.HF_HUB_OFFLINE;
    await fetchModel("us/model", "all");
    process.env.HF_HUB_OFFLINE = "1";
    hub.requests.length = 0;
    await fetchModel("us/model", "all");
    expect(hub.requests).toEqual([]);
    delete process.env.HF_HUB_OFFLINE;
    process.env.HF_ENDPOINT = "http://127.0.0.1:9";
    const warnings: string[] = [];
    await fetchModel("us/model", "all", { warn: (message) => warnings.push(message) });
    expect(warnings[0]).toMatch(/cannot be reached.*using the copy/);
  });

  it("reads a cache that it may not write, and says so when it must", async () => {
    await fetchModel("us/model", "all");
    const cache = join(home, "hub");
    // Root may write anywhere, so the reader is somebody else.
    for (const folder of [root, home, cache]) chmodSync(folder, 0o755);
    if (process.getuid?.() !== 0) chmodSync(cache, 0o555);
    const reader = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const [model, data] = ["fetchModel('us/model', 'all')", "fetchData('us/rows:train')"].map((call) =>
      runScript(`const f = await import(${JSON.stringify(module)}); await f.${call}`, reader),
    );
    expect(await model).toMatchObject({ code: 0 });
    expect((await data)?.stderr).toMatch(/set HF_HOME/);
    chmodSync(cache, 0o755);
  });

  it("says so when the cache's place is a file", async () => {
    writeFileSync(join(root, "file"), "");
    process.env.HF_HUB_CACHE = join(root, "file", "hub");
    await expect(fetchModel("us/model", "all")).rejects.toThrow(/set HF_HOME/);
  });

  it("sends the token to the hub alone, and explains a refusal", async () => {
    hub.token = "secret";
    await expect(fetchModel("us/model", "all")).rejects.toThrow(/access denied \(401\). Set HF_TOKEN/);
    process.env.HF_TOKEN = "secret";
    await fetchModel("us/model", "all");
    await expect(fetchModel("us/none", "all")).rejects.toThrow(/no such repository/);
  });

  it("fetches the file of a split", async () => {
    await fetchData("us/rows:test");
    expect(readFileSync(locateData("us/rows:test")[0]!, "utf8")).toBe('{"text":"b"}\n');
    await expect(fetchData("us/rows:dev")).rejects.toThrow(
      /no file of split dev; data files there: data\/train.jsonl/,
    );
  });

  it("fetches and reads all files of a split, in order", async () => {
    await fetchData("us/parts:train");
    const rows = await readRows("us/parts:train");
    expect(rows.map(({ value }) => value.text).join("")).toBe("abcde");
    expect(rows.map(({ id }) => rowLabel(id))).toContain("us/parts:train row 3");
    const { hash } = await openDataFile("us/parts:train");
    expect(hash).toMatch(/^[0-9a-f]{64}$/);
    // One of two is missing; two that are no parts of one.
    for (const split of ["dev", "test"])
      await expect(fetchData(`us/parts:${split}`)).rejects.toThrow(
        /is not one file, nor all the numbered parts/,
      );
  });

  it("knows names from paths", () => {
    expect(parseHubName("a/b@v1.0", "model")).toMatchObject({ name: "a/b", revision: "v1.0" });
    for (const name of ["./a/b", "/a/b", "a/b/c", "a/../b", "a", "a/b@../x"])
      expect(parseHubName(name, "model")).toBeUndefined();
  });

  it("refuses a listing that is none", async () => {
    const server = await startHub({});
    const settings = { ...hubSettings(), endpoint: `${server.url}/api` };
    const repo = { type: "model", name: "us/model", revision: "main" } as const;
    await expect(fetchSnapshot(settings, repo, (paths) => paths)).rejects.toThrow(/no such repository/);
    await server.close();
  });
});

describe.skipIf(!python.has("huggingface_hub"))(`huggingface_hub (${python.reason})`, () => {
  it("finds what we fetched, without a network", async () => {
    await fetchModel("us/model", "all");
    const found = python.run(
      `import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
from huggingface_hub import hf_hub_download, snapshot_download, scan_cache_dir
print(hf_hub_download("us/model", "model.safetensors"))
print(snapshot_download("us/model"))
print(len(scan_cache_dir().warnings))`,
    );
    const folder = locateModel("us/model");
    expect(found.trim().split("\n")).toEqual([join(folder, "model.safetensors"), folder, "0"]);
  });
});

describe("push", () => {
  it("commits adapter and card, the weights through large-file storage", async () => {
    process.env.HF_TOKEN = "secret";
    const model = writeTinyModel(join(root, "model"));
    const adapter = await writeRandomAdapter(join(root, "adapter"), model, { baseModel: "us/model" });
    const record = {
      lowrank: "0.1.0",
      options: { method: "lora", learningRate: 1e-3 },
      final: { loss: 1.25 },
    };
    writeFileSync(join(adapter, "run.json"), JSON.stringify(record));
    writeFileSync(join(adapter, "chat_template.jinja"), "{{ messages }}");
    const url = await pushAdapter({ adapter, repo: "us/adapter", private: false, message: "First" });
    expect(url).toBe(`${hub.url}/commit/1`);
    const lines = hub.commits[0] as { key: string; value: Record<string, string> }[];
    expect(lines.map((line) => [line.key, line.value.path ?? line.value.summary])).toEqual([
      ["header", "First"],
      ["file", "README.md"],
      ["file", "adapter_config.json"],
      ["lfsFile", "adapter_model.safetensors"],
      ["file", "chat_template.jinja"],
    ]);
    const card = Buffer.from(lines[1]!.value.content!, "base64").toString();
    expect(card).toContain("base_model: us/model\nlibrary_name: peft");
    expect(card).toContain("| learning rate | 0.001 |");
    expect(card).toContain("| training loss at the end | 1.25 |");
    const bytes = readFileSync(join(adapter, "adapter_model.safetensors"));
    expect(hub.uploads.get(lines[3]!.value.oid!)?.equals(bytes)).toBe(true);
  });

  it("needs a token and a whole adapter", async () => {
    const adapter = join(root, "adapter");
    const options = { adapter, repo: "us/adapter", private: false, message: "x" };
    await expect(pushAdapter(options)).rejects.toThrow(/set HF_TOKEN/);
    rmSync(join(adapter, "adapter_model.safetensors"));
    await expect(pushAdapter(options)).rejects.toThrow(/there is no adapter_model.safetensors/);
  });
});
