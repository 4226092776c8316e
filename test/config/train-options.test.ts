// The options of train: the documented flags exist, defaults hold, and rules between fields are kept.

import { describe, expect, it } from "vitest";
import { flagName, resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { parseConfig } from "../../src/config/yaml.ts";

const required = { model: "tiny", data: "rows.jsonl", out: "runs/x" };
const resolve = (flags: Record<string, unknown>) =>
  resolveOptions(trainDefinition, { ...required, ...flags });

describe("train's options", () => {
  it("has every documented flag", () => {
    const documented =
      `--model --data --out --method --rank --alpha --dropout --targets --rslora --init-adapter
      --epochs --max-steps --batch-size --gradient-accumulation --sequence-length --packing --shuffle --learning-rate
      --schedule --warmup-steps --optimizer --paged --paged-budget --beta1 --beta2 --epsilon --weight-decay --max-grad-norm
      --gradient-checkpointing --eval-data --eval-fraction --eval-every --save-every --keep --resume --over-length
      --train-on --chat-template --sample --backend --precision --threads --seed --json --vram --timing --allow
      --eos-token --pad-token --add-tokens --save-minutes --save-end`.split(/\s+/);
    expect(Object.keys(trainDefinition.fields).map(flagName)).toEqual(expect.arrayContaining(documented));
  });

  it("has the documented defaults", () => {
    expect(resolve({})).toMatchObject({
      method: "lora",
      rank: 8,
      alpha: 16,
      dropout: 0,
      targets: "all-linear",
      epochs: 3,
      shuffle: true,
      maxGradNorm: 1,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 0.01,
      overLength: "error",
      backend: "auto",
    });
  });

  it.each([
    ["lora", 2e-4],
    ["qlora", 2e-4],
    ["full", 2e-5],
  ])("%s learns at %f unless told otherwise", (method, learningRate) => {
    expect(resolve({ method }).learningRate).toBe(learningRate);
    expect(resolve({ method, learningRate: "3e-3" }).learningRate).toBe(3e-3);
  });

  it("lets --max-steps stand in place of epochs, and displace epochs in YAML", () => {
    expect(resolve({ maxSteps: "5" })).toMatchObject({ epochs: undefined, maxSteps: 5 });
    const file = parseConfig("t.yaml", "epochs: 2\n");
    const merged = resolveOptions(trainDefinition, { ...required, maxSteps: "5" }, file);
    expect(merged).toMatchObject({ epochs: undefined, maxSteps: 5 });
  });

  it("takes targets as text, as a YAML list and as a regular expression with commas", () => {
    const yaml = "model: m\ndata: d\nout: o\ntargets: [q, v]\n";
    expect(resolveOptions(trainDefinition, {}, parseConfig("t.yaml", yaml)).targets).toBe("q,v");
    expect(resolve({ targets: "/(q|v)_proj{1,2}/" }).targets).toBe("/(q|v)_proj{1,2}/");
  });

  it.each([
    [{ epochs: "1", maxSteps: "1" }, "--epochs and --max-steps exclude each other"],
    [{ evalData: "e", evalFraction: "0.1" }, "--eval-data and --eval-fraction exclude each other"],
    [{ evalEvery: "5" }, "--eval-every has nothing to evaluate"],
    [{ method: "full", initAdapter: "a" }, "--init-adapter needs"],
    [{ method: "qlra" }, 'expected one of lora, qlora, full; got "qlra". Did you mean qlora?'],
    [{ dropout: "1" }, "a number of at least 0 and at most 0.99"],
  ])("refuses %o", (flags, message) => {
    expect(() => resolve(flags)).toThrow(message);
  });

  it("names all that is missing", () => {
    const missing = () => resolveOptions(trainDefinition, {});
    for (const key of ["--model M", "--data F", "--out DIR"]) expect(missing).toThrow(`needs ${key}`);
  });
});
