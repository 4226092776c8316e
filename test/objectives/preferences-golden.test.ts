// Objectives on preferences against TRL's own trainers (tools/golden/preferences.py): ten AdamW steps of each, with every
// step's loss, rewards and gradient norm, and the first step's gradients. Completions of a pair share their prompt's tokens.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import type { Sample } from "../../src/data/render.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import type { LoadedDecoder } from "../../src/models/load-model.ts";
import type { ObjectiveName } from "../../src/objectives/index.ts";
import type { ObjectiveOptions } from "../../src/objectives/objective.ts";
import { Session } from "../../src/session/session.ts";
import type { SessionRecipe } from "../../src/session/trainable.ts";
import { exactBackends } from "../conformance/backends.ts";
import { openGolden, parameterFor, relativeDifference } from "../conformance/model-case.ts";
import { loadModelGolden, type NamedShape, readGolden, writeAdapterFolder } from "../golden/load-golden.ts";

interface PreferenceRow {
  readonly prompt: readonly number[];
  readonly chosen?: readonly number[];
  readonly rejected?: readonly number[];
  readonly completion?: readonly number[];
  readonly label?: boolean;
}

interface PreferenceCase {
  readonly model: string;
  readonly seed: number;
  readonly options: ObjectiveOptions & {
    readonly objective: ObjectiveName;
    readonly method?: "full";
    readonly reference?: "start";
  };
  readonly adapter: readonly NamedShape[];
  readonly gradients: Readonly<
    Record<string, { norm: number; max: number; stride: number; entries: readonly number[] }>
  >;
  readonly steps: readonly {
    readonly rows: readonly PreferenceRow[];
    readonly loss: number;
    readonly gradNorm: number;
    readonly metrics: Readonly<Record<string, number>>;
  }[];
}

const golden = readGolden<{
  readonly rank: number;
  readonly alpha: number;
  readonly training: Readonly<
    Record<"learningRate" | "beta1" | "beta2" | "epsilon" | "weightDecay" | "maxGradNorm", number>
  >;
  readonly cases: Readonly<Record<string, PreferenceCase>>;
}>("preferences.json");

// The project's bounds: losses 1e-4, rewards and gradients 1e-3.
const lossTolerance = 1e-4;
const tolerance = 1e-3;

function sampleOf(row: PreferenceRow, line: number): Sample {
  const parts = row.completion ? [row.completion] : [row.chosen!, row.rejected!];
  const ids = Int32Array.from([...row.prompt, ...parts.flat()]);
  return {
    ids,
    targetMask: Uint8Array.from(ids, (_, i) => (i < row.prompt.length ? 0 : 1)),
    rowId: { file: "golden", line: line + 1, unit: "row" },
    fork: { prompt: row.prompt.length, completions: parts.map(({ length }) => length) },
    ...(row.label === undefined ? {} : { label: row.label }),
  };
}

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`preferences on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    const folder = mkdtempSync(path.join(tmpdir(), "lowrank-preferences-"));
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => {
      backend?.close();
      rmSync(folder, { recursive: true });
    });

    for (const [name, { model, seed, options, adapter, gradients, steps }] of Object.entries(golden.cases)) {
      it(name, async () => {
        const full = options.method === "full";
        const { learningRate, maxGradNorm, ...constants } = golden.training;
        const written = full
          ? undefined
          : writeAdapterFolder(
              path.join(folder, name),
              {
                ...{ peft_type: "LORA", task_type: "CAUSAL_LM", r: golden.rank, lora_alpha: golden.alpha },
                target_modules: "all-linear",
              },
              seed,
              adapter,
            );
        const before = backend.liveBytes;
        const loaded = await openGolden(backend, loadModelGolden(model), full);
        await train(loaded);
        loaded.free();
        expect(backend.liveBytes).toBe(before);

        async function train(loaded: LoadedDecoder): Promise<void> {
          const { method = "lora", reference, ...objective } = options;
          const recipe: SessionRecipe = {
            ...{ method, rank: golden.rank, alpha: golden.alpha, targets: "all-linear" },
            ...{ optimizer: "adamw", seed: 0, ...constants, ...objective },
          };
          const initial = written === undefined ? undefined : await readAdapter(written);
          // Chunks that no batch's targets fit into at once.
          using session = new Session(loaded, recipe, { initial, logitsChunkBytes: 4 * 160 * 5 });
          const batches = steps.map(({ rows }) => rows.map(sampleOf));
          for (const samples of batches)
            session.objective.prepare?.(samples, { batchSize: samples.length, sequenceLength: 512 });
          await session.refer(batches.flat(), 64, reference !== "start");
          for (const [step, samples] of batches.entries()) {
            const expected = steps[step]!;
            const batch = session.assemble(samples);
            expect(batch.sharing !== undefined).toBe(options.objective !== "kto");
            expect(batch.ids.length).toBe(samples.reduce((sum, { ids }) => sum + ids.length, 0));
            const { loss, metrics } = await session.forwardBackward(batch);
            const where = `${name}, step ${step + 1}`;
            expect(Math.abs(loss - expected.loss), where).toBeLessThan(
              lossTolerance * Math.max(1, Math.abs(expected.loss)),
            );
            for (const [metric, value] of Object.entries(expected.metrics)) {
              // TRL tells a loss that it does not take, and of rewards that are all 0 rounding decides which is the larger.
              if (metric === "chosenLoss" && value === 0) continue;
              if (metric === "rewardAccuracy" && expected.metrics.rewardMargin === 0) continue;
              const off = Math.abs(metrics![metric]! - value);
              expect(off, `${where}: ${metric}`).toBeLessThan(tolerance * Math.max(1, Math.abs(value)));
            }
            if (step === 0) {
              for (const [parameter, { norm, stride, entries }] of Object.entries(gradients)) {
                const target = full
                  ? session.parameters.get(parameter)!
                  : parameterFor(session.parameters, parameter);
                const grad = await session.parameters.read(target, "grad");
                const found = entries.map((_, i) => grad[i * stride]!);
                const scale = Math.max(...entries.map(Math.abs), norm / Math.sqrt(grad.length));
                for (const [i, entry] of entries.entries())
                  expect(Math.abs(found[i]! - entry) / scale, `${parameter} ${i}`).toBeLessThan(tolerance);
                expect(relativeDifference([Math.hypot(...grad)], [norm]), parameter).toBeLessThan(tolerance);
              }
            }
            const { gradNorm } = await session.step({ learningRate, maxGradNorm });
            expect(relativeDifference([gradNorm], [expected.gradNorm]), where).toBeLessThan(tolerance);
          }
        }
      });
    }
  });
}
