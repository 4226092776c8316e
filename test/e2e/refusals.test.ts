// Bad models, data, options and places: each refused by the real command with one clear sentence on stderr, no stack,
// and its exit code: 1 for what files hold, 2 for what the command line says.

import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  lowrank,
  makeRows,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(12));
let cases = 0;

interface Given {
  readonly model?: string;
  readonly data?: string;
  readonly out?: string;
  readonly flags?: readonly string[];
}

function train(given: Given = {}): string[] {
  const out = given.out ?? join(folder, `out-${++cases}`);
  return [
    ...["train", "--model", given.model ?? model, "--data", given.data ?? data, "--out", out],
    ...["--backend", backendName, "--max-steps", "2", "--rank", "2", ...(given.flags ?? [])],
  ];
}

/** A copy of the model, changed. */
function changed(change: (path: string) => void): string {
  const copy = join(folder, `model-${++cases}`);
  cpSync(model, copy, { recursive: true });
  change(copy);
  return copy;
}

function changeJson(path: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, "utf8"));
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

/** Changes the header of model.safetensors and leaves the data where it is, or changes the data. */
function changeWeights(path: string, change: (header: Record<string, Entry>, body: Buffer) => void): void {
  const file = join(path, "model.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, Entry>;
  const body = Buffer.from(bytes.subarray(8 + length));
  change(header, body);
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([size, text, body]));
}

const query = "model.layers.1.self_attn.q_proj.weight";

describe("models", () => {
  const models: Record<string, [change: (path: string) => void, ...parts: (string | RegExp)[]]> = {
    "without weights": [(path) => rmSync(join(path, "model.safetensors")), "model.safetensors"],
    "whose weights are another file": [
      (path) => cpSync(join(path, "config.json"), join(path, "model.safetensors")),
      "model.safetensors",
      /header/,
    ],
    truncated: [
      (path) => truncateSync(join(path, "model.safetensors"), 30_000),
      "model.safetensors",
      "it is cut off",
    ],
    empty: [(path) => truncateSync(join(path, "model.safetensors"), 0), "model.safetensors"],
    "with a header length beyond the file": [
      (path) => {
        const file = join(path, "model.safetensors");
        const bytes = readFileSync(file);
        bytes.writeBigUInt64LE(2n ** 40n, 0);
        writeFileSync(file, bytes);
      },
      "model.safetensors",
      /header/,
    ],
    "with a header length too short": [
      (path) => {
        const file = join(path, "model.safetensors");
        const bytes = readFileSync(file);
        bytes.writeBigUInt64LE(100n, 0);
        writeFileSync(file, bytes);
      },
      "model.safetensors",
      /header/,
    ],
    "of whole numbers": [
      (path) =>
        changeWeights(path, (header) => {
          header[query]!.dtype = "I32";
        }),
      query,
      "I32",
      "F32",
    ],
    "without a tensor": [
      (path) =>
        changeWeights(path, (header) => {
          header.unrelated = header[query]!;
          delete header[query];
        }),
      query,
      "missing",
    ],
    "with a tensor of another shape": [
      (path) =>
        changeWeights(path, (header) => {
          header[query]!.shape = [24, 96];
        }),
      query,
      /24, ?96/,
      /48, ?48/,
    ],
    "with NaN": [
      (path) =>
        changeWeights(path, (header, body) => {
          body.writeFloatLE(Number.NaN, header[query]!.data_offsets[0] + 40);
        }),
      query,
      "NaN",
    ],
    "of an unknown type": [
      (path) =>
        changeJson(join(path, "config.json"), (json) => {
          json.model_type = "gpt9";
        }),
      '"gpt9"',
      "llama, mistral, qwen2, qwen3",
    ],
    "with a config.json that is cut off": [
      (path) => truncateSync(join(path, "config.json"), 40),
      "config.json",
      "JSON",
    ],
    "with an absurd size": [
      (path) =>
        changeJson(join(path, "config.json"), (json) => {
          json.hidden_size = 2 ** 40;
        }),
      "hidden_size",
    ],
    "whose tokenizer has no EOS": [
      (path) => {
        writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ bos_token: "<s>" }));
        changeJson(join(path, "config.json"), (json) => {
          json.eos_token_id = null;
        });
      },
      "EOS",
      "tokenizer_config.json",
    ],
    "whose embedding is shorter than the tokenizer": [
      (path) => {
        changeJson(join(path, "config.json"), (json) => {
          json.vocab_size = 128;
        });
      },
      "tokenizer",
      "259",
      "128",
    ],
  };
  it.each(Object.entries(models))("%s", (_, [change, ...parts]) => {
    expectRefusal(lowrank(...train({ model: changed(change) })), 1, parts);
  });

  it("absent, and without a tokenizer", () => {
    expectRefusal(lowrank(...train({ model: join(folder, "nowhere") })), 1, ["nowhere"]);
    const bare = join(folder, "bare");
    mkdirSync(bare);
    for (const name of ["config.json", "model.safetensors"]) cpSync(join(model, name), join(bare, name));
    expectRefusal(lowrank(...train({ model: bare })), 1, ["tokenizer.json is missing"]);
    expectRefusal(lowrank("generate", "--model", bare, "--prompt", "a"), 1, ["tokenizer.json is missing"]);
    expectRefusal(lowrank("eval", "--model", join(folder, "nowhere"), "--data", data), 1, ["nowhere"]);
  });
});

describe("data", () => {
  const text: Record<string, [content: string, ...parts: (string | RegExp)[]]> = {
    "a malformed line": ['{"text":"a"}\n\n{"text":"b"}\n{"text": b}\n', "line 4", "JSON"],
    "a line that is no object": ['{"text":"a"}\n[1]\n', "line 2"],
    nothing: ["", "no rows"],
    "blank lines only": ["\n\n", "no rows"],
    "an unknown format": ['{"question":"a","reply":"b"}\n', "line 1", '"question"', '"prompt"'],
    "two formats": ['{"text":"a"}\n{"prompt":"a","completion":"b"}\n', "line 2"],
    "a value of the wrong type": [
      '{"prompt":"a","completion":"b"}\n{"prompt":"a","completion":7}\n',
      "line 2",
    ],
    "no target": ['{"messages":[{"role":"user","content":"hello"}]}\n', "nothing to train on"],
    "half a character": [`{"text":"a"}\n{"text":"${String.fromCharCode(0xe9)}"}\n`, "line 2", "UTF-8"],
  };
  it.each(Object.entries(text))("%s", (_, [content, ...parts]) => {
    const path = join(folder, `data-${++cases}.jsonl`);
    writeFileSync(path, Buffer.from(content, "latin1"));
    expectRefusal(lowrank(...train({ data: path, flags: ["--chat-template", "alpaca"] })), 1, parts);
  });

  it("absent, a folder, or of an unknown kind", () => {
    expectRefusal(lowrank(...train({ data: join(folder, "none.jsonl") })), 1, ["none.jsonl"]);
    // A folder is all data files in it; a model's has a config.json, and no rows in it.
    expectRefusal(lowrank(...train({ data: model })), 1, ["config.json"]);
    const empty = join(folder, "empty");
    mkdirSync(empty, { recursive: true });
    expectRefusal(lowrank(...train({ data: empty })), 1, ["empty"]);
    expectRefusal(lowrank(...train({ data: join(model, "model.safetensors") })), 1, ["model.safetensors"]);
  });

  it("a row over the length", () => {
    const rows = [...makeRows(3), { prompt: "long", completion: "x".repeat(90) }];
    const path = writeRows(join(folder, "long.jsonl"), rows);
    expectRefusal(lowrank(...train({ data: path, flags: ["--sequence-length", "40"] })), 1, [
      ...["long.jsonl line 4", "96 tokens", "--over-length drop"],
    ]);
    const dropped = succeed(
      ...train({ data: path, flags: "--sequence-length 40 --over-length drop".split(" ") }),
    );
    expect(dropped.stderr).toMatch(/warning: .*1 of 4 rows are longer than 40 tokens and were dropped/);
  });

  it("text metrics on rows without prompts", () => {
    const path = writeRows(join(folder, "text.jsonl"), [{ text: "abc" }]);
    const flags = ["--model", model, "--data", path, "--backend", backendName, "--json"];
    expectRefusal(lowrank("eval", ...flags, "--metrics", "rouge"), 1, ["no row has a prompt to answer"]);
  });
});

describe("options", () => {
  it.each<[readonly string[], number, ...(string | RegExp)[]]>([
    [["--rnak", "4"], 2, "--rnak", "--rank"],
    [["--rank", "0"], 2, "--rank"],
    [["--epochs", "1"], 2, "--epochs", "--max-steps"],
    [["--learning-rate", "-1"], 2, "--learning-rate"],
    [["--rank", "64"], 1, "rank 64", "at most 48"],
    [["--targets", "query_key_value"], 1, "query_key_value", "q_proj"],
    [["--targets", "q,vv_proj"], 1, "vv_proj", "v_proj"],
    [["--targets", "/.*attn.(x|y)_proj/"], 1, "q_proj"],
    [["--targets", "/(unclosed/"], 1, "regular expression"],
    [["--eval-data", "nowhere.jsonl"], 1, "nowhere.jsonl"],
    [["--init-adapter", "nowhere"], 1, "nowhere"],
    [["--chat-template", "chatmll"], 1, "chatml"],
  ])("%j", (flags, code, ...parts) => {
    expectRefusal(lowrank(...train({ flags })), code, parts);
  });

  it("of eval and generate", () => {
    const base = ["--model", model, "--backend", backendName];
    expectRefusal(lowrank("eval", ...base, "--data", data, "--metrics", "rogue"), 2, ["rouge"]);
    expectRefusal(lowrank("eval", ...base, "--data", data, "--predictions", join(folder, "no/p")), 1, [
      "no/p",
    ]);
    expectRefusal(lowrank("generate", ...base, "--prompt", "a", "--top-p", "2"), 2, ["--top-p"]);
    expectRefusal(lowrank("generate", ...base, "--prompt", "a", "--chat"), 1, ["chat template"]);
    expectRefusal(lowrank("generate", ...base, "--prompt", "a", "--chat-template", "chatml"), 2, ["--chat"]);
    expectRefusal(lowrank("generate", ...base, "--prompt", "a", "--adapter", model), 1, [
      "adapter_config.json",
    ]);
  });
});

it("a run that is refused before it wrote anything leaves no folder, but one that was there", () => {
  const [made, given] = [join(folder, "made", "run"), join(folder, "given")];
  mkdirSync(given);
  const broken = changed((path) => writeFileSync(join(path, "config.json"), '{"model_type":"bert"}'));
  for (const out of [made, given]) expect(lowrank(...train({ model: broken, out })).status).toBe(1);
  expect(existsSync(made)).toBe(false);
  expect(existsSync(given)).toBe(true);
});

it("a learning rate that destroys the model: the step, the rows, and the last good state", () => {
  const out = join(folder, "diverged");
  const flags = ["--learning-rate", "1e20", "--no-shuffle", "--max-steps", "9", "--max-grad-norm", "0"];
  const result = lowrank(...train({ out, flags }));
  expectRefusal(result, 1, [
    /step 2: .* not a finite number/,
    "rows.jsonl line 5",
    /step-1\b/,
    "--learning-rate",
  ]);
  const state = JSON.parse(readFileSync(join(out, "checkpoints/step-1/state.json"), "utf8"));
  expect(state.step).toBe(1);
  // Whoever looks at the run's folder later reads the same there.
  const record = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
  expect(record).toMatchObject({
    status: "failed",
    error: expect.stringMatching(/^step 2: .* not a finite/),
  });
  expect(result.stderr).toContain(record.error);
  const verified = lowrank("verify", out, "--steps", "none");
  expect(verified.stdout).toMatch(/the run is not done \(failed\)/);
});
