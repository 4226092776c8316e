import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { memoryFolder } from "../../src/formats/byte-source.ts";
import { openFile } from "../../src/formats/disk.ts";
import type { JsonObject } from "../../src/formats/json.ts";
import {
  type AdapterConfig,
  type AdapterPair,
  matchTargets,
  newAdapterConfig,
  parseAdapterConfig,
  readAdapter,
  type TensorValues,
  toPeftConfig,
  unmatchedTargets,
  writeAdapter,
} from "../../src/formats/peft.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { headerOf } from "../../src/formats/safetensors-writer.ts";
import { UserError } from "../../src/util/errors.ts";
import { readGolden } from "../golden/load-golden.ts";
import { python } from "./python.ts";

interface TargetCase {
  readonly name: string;
  readonly given: string | readonly string[];
  readonly config: JsonObject;
  /** Module path to [rank, scale]. */
  readonly adapted: Readonly<Record<string, readonly [number, number]>>;
  readonly tensors?: Readonly<Record<string, readonly number[]>>;
}

const golden = readGolden<{ linear: string[]; cases: TargetCase[] }>("peft-targets.json");

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "lowrank-peft-"));
});
afterAll(() => rm(root, { recursive: true }));

const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

function ramp(...shape: number[]): TensorValues {
  const count = shape.reduce((product, size) => product * size, 1);
  return {
    shape,
    values: Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i + shape[0]!))),
  };
}

/** A safetensors file of zeros. */
function zeros(
  tensors: Readonly<Record<string, readonly number[]>>,
  dtype: "F32" | "I32" = "F32",
): Uint8Array {
  const specs = Object.entries(tensors).map(([name, shape]) => ({ name, dtype, shape }));
  const header = headerOf(specs, {});
  const count = specs.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  const bytes = new Uint8Array(header.length + 4 * count);
  bytes.set(header);
  return bytes;
}

describe("PEFT's choice of modules", () => {
  it.each(golden.cases)("$name", ({ given, config: json, adapted }) => {
    const { config: saved, unknownKeys } = parseAdapterConfig(json);
    expect(unknownKeys).toEqual([]);
    for (const config of [saved, { ...saved, targets: given }]) {
      const found = matchTargets(config, golden.linear);
      expect([...found.keys()].sort()).toEqual(Object.keys(adapted).sort());
      for (const [module, { rank, scale }] of found) {
        expect(rank).toBe(adapted[module]![0]);
        expect(scale).toBeCloseTo(adapted[module]![1], 12);
      }
    }
  });

  it("writes back each config as PEFT saved it, key for key", () => {
    for (const { config: json } of golden.cases) {
      const written = toPeftConfig(parseAdapterConfig(json).config);
      for (const [key, value] of Object.entries(written)) {
        const theirs = json[key];
        const single = (key === "layers_pattern" || key === "layers_to_transform") && theirs !== null;
        expect([key, value]).toEqual([key, single && !Array.isArray(theirs) ? [theirs] : theirs]);
      }
    }
  });

  it("says which names exist when targets match nothing, and which items of a list match nothing", () => {
    const config = newAdapterConfig({ rank: 4, alpha: 8, targets: ["query", "proj"] });
    expect(() => matchTargets(config, golden.linear)).toThrow(UserError);
    expect(() => matchTargets(config, golden.linear)).toThrow(
      /targets query, proj match no linear layer.*down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj/,
    );
    const mixed = { ...config, targets: ["q_proj", "query"] };
    expect(unmatchedTargets(mixed, golden.linear)).toEqual(["query"]);
  });

  it("leaves out another model's head when told its name", () => {
    const config = newAdapterConfig({ rank: 4, alpha: 8, targets: "all-linear" });
    const found = matchTargets(config, ["layers.0.q", "embed_out"], { outputHead: "embed_out" });
    expect([...found.keys()]).toEqual(["layers.0.q"]);
  });

  it.each([
    ["(", /not a regular expression/],
    ["(?i:q)_proj", /switches flags/],
    ["x".repeat(20_000), /20000 characters/],
  ])("refuses the pattern %s", (targets, message) => {
    expect(() => matchTargets(newAdapterConfig({ rank: 4, alpha: 8, targets }), ["q_proj"])).toThrow(message);
  });
});

describe("adapter_config.json", () => {
  const minimal = { peft_type: "LORA", target_modules: ["q_proj"] };

  it("takes PEFT's defaults", () => {
    expect(parseAdapterConfig(minimal).config).toMatchObject({
      rank: 8,
      alpha: 8,
      dropout: 0,
      rslora: false,
    });
  });

  it("names keys that it does not know and that hold something", () => {
    const json = { ...minimal, new_trick: { a: 1 }, other: null, third: false, auto_mapping: { x: 1 } };
    expect(parseAdapterConfig(json).unknownKeys).toEqual(["new_trick"]);
  });

  const refused: [JsonObject, RegExp][] = [
    [{ peft_type: "IA3" }, /peft_type is "IA3"/],
    [{ peft_type: undefined }, /peft_type is missing/],
    [{ fan_in_fan_out: true }, /stored transposed/],
    [{ trainable_token_indices: [1] }, /single rows of the embedding/],
    [{ layer_replication: [[0, 2]] }, /repeated/],
    [{ megatron_config: { a: 1 } }, /Megatron/],
    [{ lora_bias: true }, /B factor has a bias/],
    [{ bias: "some" }, /bias is "some"; expected "none", "all" or "lora_only"/],
    [{ peft_type: undefined, fine_tune_type: "lora" }, /MLX's format.*mlx_lm.fuse/],
    [{ init_lora_weights: "pissa_niter_4" }, /path_initial_model_for_weight_conversion/],
    [{ init_lora_weights: "corda" }, /changed base weights/],
    [{ target_modules: null }, /target_modules is missing/],
    [{ target_modules: [3] }, /expected a list of names/],
    [{ r: 0 }, /r is 0; expected a whole number/],
    [{ r: 2.5 }, /r is 2.5/],
    [{ r: 1e9 }, /r is 1000000000/],
    [{ lora_alpha: "16" }, /lora_alpha is "16"/],
    [{ lora_dropout: 1 }, /lora_dropout is 1/],
    [{ rank_pattern: { q: -1 } }, /rank_pattern/],
    [{ rank_pattern: [] }, /rank_pattern/],
    [{ use_rslora: "yes" }, /use_rslora is "yes"/],
    [{ layers_to_transform: [1.5] }, /list of layer numbers/],
    [{ target_modules: "q.*", layers_to_transform: [1] }, /does not go with/],
  ];
  it.each(refused)("refuses %j", (change, message) => {
    const parsing = () => parseAdapterConfig({ ...minimal, ...change }, "a.json");
    expect(parsing).toThrow(UserError);
    expect(parsing).toThrow(message);
  });

  it("accepts what changes only the beginning of training", () => {
    for (const init of ["gaussian", "orthogonal", "eva", false]) {
      parseAdapterConfig({ ...minimal, init_lora_weights: init, eva_config: { rho: 2 } });
    }
  });
});

describe("adapter folder", () => {
  const modules = new Map<string, AdapterPair>([
    ["model.layers.0.self_attn.q_proj", { a: ramp(4, 8), b: ramp(8, 4) }],
    ["model.layers.10.mlp.down_proj", { a: ramp(2, 12), b: ramp(8, 2) }],
  ]);
  const config: AdapterConfig = newAdapterConfig({
    rank: 4,
    alpha: 8,
    rslora: true,
    targets: "all-linear",
    rankPattern: { down_proj: 2 },
    modulesToSave: ["lm_head"],
    baseModel: "owner/name",
  });
  const replacements = new Map([["lm_head.weight", ramp(3, 8)]]);

  it("reads back what it writes, bit for bit", async () => {
    const path = join(root, "round");
    await writeAdapter(path, config, { modules, replacements });
    expect((await readdir(path)).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    const adapter = await readAdapter(path);
    expect(adapter.modules).toEqual(modules);
    expect(adapter.replacements).toEqual(replacements);
    expect(adapter.config).toEqual({ ...config, targets: ["down_proj", "q_proj"] });
    expect(adapter.settings.get("model.layers.0.self_attn.q_proj")).toEqual({ rank: 4, alpha: 8, scale: 4 });
    expect(adapter.settings.get("model.layers.10.mlp.down_proj")?.scale).toBeCloseTo(8 / Math.SQRT2, 12);
  });

  it("can write 16-bit factors", async () => {
    const path = join(root, "bf16");
    await writeAdapter(path, config, { modules }, { dtype: "bf16" });
    const file = await openSafetensors(await openFile(join(path, "adapter_model.safetensors")));
    expect(file.tensors.get("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")?.dtype).toBe(
      "BF16",
    );
    await file.close();
    const adapter = await readAdapter(path);
    expect(adapter.modules.get("model.layers.0.self_attn.q_proj")!.a.values[1]).toBeCloseTo(Math.sin(5), 2);
  });

  it("reads the names that PEFT saves", async () => {
    for (const { name, config: json, adapted, tensors } of golden.cases) {
      if (!tensors) continue;
      const files = { "adapter_config.json": text(json), "adapter_model.safetensors": zeros(tensors) };
      const adapter = await readAdapter(memoryFolder(files, name));
      expect([...adapter.modules.keys()].sort()).toEqual(Object.keys(adapted).sort());
      const whole = Object.keys(tensors).filter((key) => !key.includes("lora_"));
      expect([...adapter.replacements.keys(), ...(adapter.baseTensors ?? new Map()).keys()].sort()).toEqual(
        whole.map((key) => key.replace("base_model.model.", "").replace(".base_layer", "")).sort(),
      );
    }
  });

  it("reads a raw state dict, with the adapter's name inside and the originals beside", async () => {
    const tensors = {
      "base_model.model.q_proj.lora_A.default.weight": [4, 2],
      "base_model.model.q_proj.lora_B.default.weight": [2, 4],
      "base_model.model.lm_head.original_module.weight": [3, 2],
      "base_model.model.lm_head.modules_to_save.default.weight": [3, 2],
    };
    const files = {
      "adapter_config.json": text({
        peft_type: "LORA",
        r: 4,
        target_modules: ["q_proj"],
        modules_to_save: ["lm_head"],
      }),
      "adapter_model.safetensors": zeros(tensors),
    };
    const adapter = await readAdapter(memoryFolder(files));
    expect([...adapter.modules.keys()]).toEqual(["q_proj"]);
    expect([...adapter.replacements.keys()]).toEqual(["lm_head.weight"]);
  });

  const good = { peft_type: "LORA", r: 4, target_modules: ["q_proj"] };
  const pair = {
    "base_model.model.q_proj.lora_A.weight": [4, 2],
    "base_model.model.q_proj.lora_B.weight": [2, 4],
  };
  const named = (name: string, shape: number[]) => ({ ...pair, [`base_model.model.${name}`]: shape });
  const broken: [string, Record<string, Uint8Array>, RegExp][] = [
    ["an empty folder", {}, /there is no adapter_config\.json/],
    ["a model folder", { "config.json": text({}) }, /a model folder, not an adapter/],
    ["no weights", { "adapter_config.json": text(good) }, /there is no adapter_model\.safetensors/],
    [
      "only a pickle",
      { "adapter_config.json": text(good), "adapter_model.bin": text(0) },
      /Only adapter_model\.bin/,
    ],
    [
      "another rank",
      { "adapter_config.json": text({ ...good, r: 8 }), "adapter_model.safetensors": zeros(pair) },
      /gives rank 8; expected A \[8, in\].*found \[4, 2\] and \[2, 4\]/,
    ],
    [
      "a lone A",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros({ "base_model.model.q_proj.lora_A.weight": [4, 2] }),
      },
      /q_proj has only lora_A/,
    ],
    [
      "an untargeted module",
      {
        "adapter_config.json": text({ ...good, target_modules: ["v_proj"] }),
        "adapter_model.safetensors": zeros(pair),
      },
      /holds factors for q_proj/,
    ],
    [
      "magnitudes that the config does not speak of",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros(named("q_proj.lora_magnitude_vector", [2])),
      },
      /lora_magnitude_vector: this kind of adapter tensor is not supported/,
    ],
    [
      "DoRA without magnitudes",
      {
        "adapter_config.json": text({ ...good, use_dora: true }),
        "adapter_model.safetensors": zeros(pair),
      },
      /q_proj has no lora_magnitude_vector/,
    ],
    [
      "half of an embedding's adapter",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros(named("embed_tokens.lora_embedding_A", [4, 2])),
      },
      /embed_tokens has only lora_A/,
    ],
    [
      "trained tokens",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros(named("embed_tokens.token_adapter.trainable_tokens_delta", [2])),
      },
      /single trained rows/,
    ],
    [
      "a bias of B",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros(named("q_proj.lora_B.bias", [2])),
      },
      /not supported/,
    ],
    [
      "integers",
      { "adapter_config.json": text(good), "adapter_model.safetensors": zeros(pair, "I32") },
      /dtype I32/,
    ],
    [
      "both names of one factor",
      {
        "adapter_config.json": text(good),
        "adapter_model.safetensors": zeros(named("q_proj.lora_A.default.weight", [4, 2])),
      },
      /two A factors/,
    ],
  ];
  it.each(broken)("refuses %s", async (_, files, message) => {
    const reading = readAdapter(memoryFolder(files, "a"));
    await expect(reading).rejects.toThrow(UserError);
    await expect(reading).rejects.toThrow(message);
  });

  it.skipIf(!python.has("peft", "transformers", "torch", "safetensors"))(
    `goes to PEFT and back with identical weights (${python.reason})`,
    async () => {
      const names = ["q_proj", "down_proj"];
      const live = new Map<string, AdapterPair>();
      for (const layer of [0, 1]) {
        live.set(`model.layers.${layer}.self_attn.q_proj`, { a: ramp(4, 8), b: ramp(8, 4) });
        live.set(`model.layers.${layer}.mlp.down_proj`, { a: ramp(2, 12), b: ramp(8, 2) });
      }
      const saved = new Map([
        ["lm_head.weight", ramp(6, 8)],
        ["model.embed_tokens.weight", ramp(6, 8)],
      ]);
      const liveConfig = {
        ...config,
        targets: names,
        modulesToSave: ["lm_head", "embed_tokens"],
        baseModel: undefined,
      };
      const ours = join(root, "to-peft");
      const theirs = join(root, "from-peft");
      await mkdir(theirs);
      await writeAdapter(ours, liveConfig, { modules: live, replacements: saved });
      const scales = python.run(
        `import sys, json, torch, warnings
from transformers import LlamaConfig, LlamaForCausalLM
from peft import PeftModel
from peft.tuners.lora import LoraLayer
warnings.simplefilter("error", UserWarning)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=6, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
model = PeftModel.from_pretrained(LlamaForCausalLM(config), sys.argv[1])
warnings.simplefilter("ignore")
model.save_pretrained(sys.argv[2])
print(json.dumps({n: m.scaling["default"] for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}))`,
        ours,
        theirs,
      );
      const back = await readAdapter(theirs);
      expect(back.modules).toEqual(live);
      expect(back.replacements).toEqual(saved);
      const ourScales = [...back.settings].map(([name, { scale }]) => [name, scale]);
      expect(Object.fromEntries(ourScales)).toEqual(JSON.parse(scales));
      const bytes = [ours, theirs].map((path) => readFile(join(path, "adapter_model.safetensors")));
      const [a, b] = await Promise.all(bytes);
      expect(Buffer.compare(a!, b!)).toBe(0);
    },
    120_000,
  );
});
