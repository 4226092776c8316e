// What of a model gets an adapter, of which rank, and what trains whole beside it: the options of train as PEFT has them,
// written and read back.

import { join } from "node:path";
import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { readAdapter, writeAdapter } from "../../src/formats/peft.ts";
import { makeTrainable, type SessionRecipe } from "../../src/session/trainable.ts";
import { lossAndGradients, openGolden } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { scratchFolder } from "../publish/tiny-model.ts";

const root = scratchFolder();
const golden = loadModelGolden("qwen2-tied");
const untied = loadModelGolden("llama-bias");

function optionsOf(flags: Record<string, unknown>) {
  return resolveOptions(trainDefinition, { model: "m", data: "d", out: "o", ...flags });
}

async function attach(flags: Record<string, unknown>, model = golden) {
  const backend = openReference();
  const loaded = await openGolden(backend, model);
  const bare = await lossAndGradients(backend, loaded, model.packed.sequences);
  const recipe: SessionRecipe = optionsOf({ rank: "4", ...flags });
  const trainable = makeTrainable(loaded, recipe);
  const loss = await lossAndGradients(backend, loaded, model.packed.sequences);
  expect(Math.abs(loss - bare)).toBeLessThan(1e-5);
  return { backend, loaded, ...trainable, adapter: trainable.adapter! };
}

const layer = (name: string) => `model.layers.${name}`;

it("takes what spectrum prints", async () => {
  const pattern = { [layer("0.self_attn.q_proj")]: 7, "mlp.up_proj": 2 };
  const { adapter } = await attach({ rankPattern: [JSON.stringify(pattern)], alphaPattern: ["q_proj=3"] });
  const { modules } = await adapter.read();
  expect(modules.get(layer("0.self_attn.q_proj"))!.a.shape[0]).toBe(7);
  expect(modules.get(layer("1.self_attn.q_proj"))!.a.shape[0]).toBe(4);
  expect(modules.get(layer("1.mlp.up_proj"))!.a.shape[0]).toBe(2);
  const out = join(root, "pattern");
  await writeAdapter(out, adapter.config, await adapter.read());
  const read = await readAdapter(out);
  expect(read.config.rankPattern).toEqual(pattern);
  expect(read.settings.get(layer("0.self_attn.q_proj"))).toEqual({ rank: 7, alpha: 3, scale: 3 / 7 });
});

it("adapts some layers, and of these not all", async () => {
  const { adapter } = await attach({ layers: ["1"], exclude: "q,mlp.down_proj" });
  const names = [...(await adapter.read()).modules.keys()];
  expect(names).toEqual(
    ["self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"].map((name) =>
      layer(`1.${name}`),
    ),
  );
  const out = join(root, "layers");
  await writeAdapter(out, adapter.config, await adapter.read());
  const { config } = await readAdapter(out);
  expect(config.layersToTransform).toEqual([1]);
  expect(config.excludeModules).toEqual(["q_proj", "mlp.down_proj"]);
});

it.each([
  ["tied", golden],
  ["untied", untied],
] as const)("trains modules whole, %s", async (_, model) => {
  const modulesToSave = ["lm_head", "embed_tokens", "norm"];
  const { adapter, parameters, loaded } = await attach({ modulesToSave, targets: "q,v" }, model);
  const weights = await adapter.read();
  const norms = [0, 1].flatMap((i) =>
    ["input_layernorm", "post_attention_layernorm"].map((name) => layer(`${i}.${name}.weight`)),
  );
  expect([...weights.replacements.keys()].sort()).toEqual(
    ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", ...norms].sort(),
  );
  for (const name of weights.replacements.keys()) {
    const gradient = await parameters.read(parameters.get(name)!, "grad");
    expect(
      gradient.some((value) => value !== 0),
      name,
    ).toBe(true);
  }
  const out = join(root, `whole ${_}`);
  await writeAdapter(out, adapter.config, weights);
  const read = await readAdapter(out);
  expect(read.replacements).toEqual(weights.replacements);
  adapter.free();
  expect(loaded.decoder.weight("model.norm.weight")).toBeDefined();
});

it.each([
  [{ modulesToSave: ["nrm"] }, /nrm is to train whole, and no module/],
  [{ layers: ["9"] }, /--layers names layer 9, and this model has 2: 0 to 1/],
  [{ rankPattern: ["q_prj=4"] }, /"q_prj" matches the end of no adapted layer/],
  [{ layers: ["0"], targets: "/.*q_proj/" }, /--layers does not go with --targets/],
  [
    { loraPlusRatio: "4", targets: "embed_tokens,q" },
    /--lora-plus-ratio does not go with an adapted embedding/,
  ],
  [{ adapter: "dora", targets: "embed_tokens,q" }, /not adapted in the way of dora/],
])("refuses %j", async (flags, message) => {
  await expect(attach(flags)).rejects.toThrow(message);
  await expect(attach(flags)).rejects.toMatchObject({ name: "UserError" });
});

it.each([
  [{ rankPattern: ["q_proj"] }, /--rank-pattern: expected PATTERN=NUMBER/],
  [{ rankPattern: ["q=1.5"] }, /--rank-pattern: expected PATTERN=NUMBER/],
  [{ layers: ["3-1"] }, /--layers: expected layers such as 0-3,7/],
  [{ layers: ["0-99999"] }, /--layers: expected layers such as 0-3,7/],
  [{ method: "full", layers: ["0"] }, /--layers needs --method lora or qlora/],
  [{ initAdapter: "x", exclude: "q" }, /--exclude begins a new adapter/],
])("refuses the usage %j", (flags, message) => {
  expect(() => optionsOf(flags)).toThrow(message);
});
