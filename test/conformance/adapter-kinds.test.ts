// Kinds of adapters, LoRA+ and PiSSA against PEFT: loss and gradients of one batch, ten AdamW steps through a session, on
// two architectures and over 4-bit weights. Goldens: tools/golden/adapter_kinds.py.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { assemble } from "../../src/data/assemble.ts";
import type { DecoderAdapter } from "../../src/models/adapter.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { type LoadedDecoder, loadDecoder } from "../../src/models/load-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { adapterKind, adapterKindNames } from "../../src/nn/adapter-kinds/index.ts";
import type { FlatParameters } from "../../src/nn/parameters.ts";
import { Session } from "../../src/session/session.ts";
import { makeTrainable, type SessionRecipe } from "../../src/session/trainable.ts";
import {
  goldenAdapter,
  loadModelGolden,
  type NamedShape,
  readGolden,
  type SampledGradient,
  type Trajectory,
} from "../golden/load-golden.ts";
import { loadQloraGolden } from "../golden/typed-goldens.ts";
import { exactBackends } from "./backends.ts";
import { goldenSource, lossAndGradients, relativeDifference, sampleOf } from "./model-case.ts";

interface Case {
  readonly base: string;
  readonly quantized: boolean;
  readonly targets: string | readonly string[];
  readonly kind: "lora" | "dora";
  readonly init: "default" | "pissa";
  readonly ratio: number | null;
  readonly learningRate: number;
  readonly rank: number;
  readonly alpha: number;
  readonly adapter: readonly NamedShape[];
  readonly loss: number;
  readonly gradients: Readonly<Record<string, SampledGradient & { readonly norms?: readonly number[] }>>;
  readonly training: Trajectory;
  readonly converted?: Readonly<Record<string, SampledGradient & { readonly rank: number }>>;
}

const golden = readGolden<{ cases: Readonly<Record<string, Case>> }>("adapter-kinds.json");
const qlora = loadQloraGolden();
const lossTolerance = 1e-4;
const gradientTolerance = 1e-3;

const suffixes = [
  [".lora_A.weight", ".lora_a"],
  [".lora_B.weight", ".lora_b"],
  ...adapterKindNames.flatMap((name) =>
    adapterKind(name).tensors.map(({ name: own, peftName }) => [`.${peftName}`, `.${own}`]),
  ),
] as const;

/** The flat parameter that PEFT saves under `name`. */
function parameterOf(flat: FlatParameters, name: string) {
  const module = name.replace("base_model.model.", "");
  const [theirs, ours] = suffixes.find(([suffix]) => module.endsWith(suffix!))!;
  return flat.get(module.slice(0, -theirs!.length) + ours)!;
}

function baseOf(each: Case) {
  const model = each.quantized ? { name: each.base, ...qlora.cases[each.base]! } : loadModelGolden(each.base);
  // The same batches everywhere: they follow from the model's seed and vocabulary.
  const { seed, config, packed, training } = model;
  return { seed, config: readModelConfig(config), packed, training, source: goldenSource(model) };
}

function recipeOf({ kind, rank, alpha, targets, ratio, init }: Case, seed: number): SessionRecipe {
  return {
    ...{ method: "lora", adapter: kind, rank, alpha, optimizer: "adamw", seed },
    targets: typeof targets === "string" ? targets : targets.join(","),
    loraPlusRatio: ratio ?? undefined,
    init,
  };
}

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`adapters on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => backend?.close());

    const load = ({ quantized, ...each }: Case): Promise<LoadedDecoder> => {
      const { config, source } = baseOf({ quantized, ...each });
      return loadDecoder(backend, config, source, {
        quantize: quantized ? quantizeOnArrival(backend) : undefined,
      });
    };

    it.each(Object.entries(golden.cases))("%s: as PEFT", async (_, each) => {
      const before = backend.liveBytes;
      const { seed, packed, training } = baseOf(each);
      const recipe = recipeOf(each, seed);
      for (const checkpointing of [false, true]) {
        const loaded = await load(each);
        const bare = await lossAndGradients(backend, loaded, packed.sequences);
        const trainable = makeTrainable(loaded, recipe);
        const { parameters } = trainable;
        await trainable.adapter!.initialize();
        // A fresh adapter changes nothing.
        const fresh = await lossAndGradients(backend, loaded, packed.sequences, checkpointing);
        expect(Math.abs(fresh - bare)).toBeLessThan(2e-5);
        parameters.zeroGrad();
        if (each.init === "default") {
          for (const [name, values] of goldenAdapter(seed, each.adapter))
            parameters.set(parameterOf(parameters, name), values);
        }
        const loss = await lossAndGradients(backend, loaded, packed.sequences, checkpointing);
        expect(Math.abs(loss - each.loss)).toBeLessThan(lossTolerance);
        for (const [name, expected] of Object.entries(each.gradients)) {
          const parameter = parameterOf(parameters, name);
          const grad = await parameters.read(parameter, "grad");
          if (expected.norms) {
            const norms = normsOf(grad, parameter.tensor.shape, name.includes("lora_A"));
            expect(relativeDifference(norms, expected.norms), name).toBeLessThan(gradientTolerance);
            continue;
          }
          const worst = expected.entries.map((value, i) => Math.abs(grad[i * expected.stride]! - value));
          expect(Math.max(...worst) / expected.max, name).toBeLessThan(gradientTolerance);
          const norm = Math.hypot(...grad);
          expect(Math.abs(norm / expected.norm - 1), name).toBeLessThan(gradientTolerance);
        }
        const { learningRate: _, maxGradNorm, batches, ...constants } = training;
        const { learningRate } = each;
        const options = { checkpointing, logitsChunkBytes: 4 * 128 * 7 };
        const session = new Session(loaded, { ...recipe, ...constants }, options, trainable);
        const losses: number[] = [];
        const gradNorms: number[] = [];
        for (const sequences of batches) {
          const step = await session.trainStep([assemble(sequences.map(sampleOf))], {
            learningRate,
            maxGradNorm,
          });
          losses.push(step.loss);
          gradNorms.push(step.gradNorm);
        }
        expect(relativeDifference(losses, each.training.losses)).toBeLessThan(lossTolerance);
        expect(relativeDifference(gradNorms, each.training.gradNorms)).toBeLessThan(gradientTolerance);
        await expectConverted(each, trainable.adapter!);
        session[Symbol.dispose]();
        trainable.adapter!.free();
        loaded.free();
      }
      expect(backend.liveBytes).toBe(before);
    });
  });
}

/** What is saved is PEFT's plain adapter on the unchanged base, of twice the rank: its product, by entries. */
async function expectConverted({ converted, rank }: Case, adapter: DecoderAdapter): Promise<void> {
  const { modules } = await adapter.read();
  for (const [module, expected] of Object.entries(converted ?? {})) {
    const { a, b } = modules.get(module)!;
    expect(adapter.config.rank).toBe(expected.rank);
    expect(a.shape[0]).toBe(2 * rank);
    const inputs = a.shape[1]!;
    const entries = expected.entries.map((_, n) => {
      const at = n * expected.stride;
      let sum = 0;
      for (let r = 0; r < 2 * rank; r++) {
        const row = Math.floor(at / inputs);
        sum += b.values[row * 2 * rank + r]! * a.values[r * inputs + (at % inputs)]!;
      }
      return sum;
    });
    expect(relativeDifference(entries, expected.entries), module).toBeLessThan(gradientTolerance);
  }
}

/** Norms of the rows, or of the columns, of a matrix. */
function normsOf(values: Float32Array, shape: readonly number[], byRow: boolean): number[] {
  const [rows, columns] = shape as [number, number];
  const sums = new Array<number>(byRow ? rows : columns).fill(0);
  for (let i = 0; i < values.length; i++)
    sums[byRow ? Math.floor(i / columns) : i % columns]! += values[i]! ** 2;
  return sums.map(Math.sqrt);
}
