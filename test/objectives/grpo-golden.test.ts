// GRPO against TRL's own trainer (tools/golden/grpo.py) on completions and rewards that are given: advantages, every step's
// loss, metrics and gradient norm, and the gradients of each round's last iteration, whose ratios are no longer 1. The
// completions of a group share their prompt's tokens.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import type { Sample } from "../../src/data/render.ts";
import { readAdapter } from "../../src/formats/peft.ts";
import { deviation, judge, mean, type RewardScale } from "../../src/objectives/advantages.ts";
import type { ObjectiveOptions } from "../../src/objectives/objective.ts";
import { Session } from "../../src/session/session.ts";
import type { SessionRecipe } from "../../src/session/trainable.ts";
import { exactBackends } from "../conformance/backends.ts";
import { openGolden, parameterFor, relativeDifference } from "../conformance/model-case.ts";
import { loadModelGolden, type NamedShape, readGolden, writeAdapterFolder } from "../golden/load-golden.ts";

interface GrpoCase {
  readonly model: string;
  readonly seed: number;
  readonly options: ObjectiveOptions & {
    readonly method?: "full";
    readonly scaleRewards?: RewardScale;
    readonly rewardWeights?: readonly number[];
  };
  readonly adapter: readonly NamedShape[];
  readonly rounds: readonly {
    readonly groups: readonly { readonly prompt: number[]; readonly completions: number[][] }[];
    readonly rewards: readonly (readonly (number | null)[])[];
    readonly advantages: readonly number[];
    readonly reward: number;
    readonly rewardStd: number;
    readonly steps: readonly {
      readonly loss: number;
      readonly gradNorm: number;
      readonly metrics: Readonly<Record<string, number>>;
    }[];
    readonly gradients: Readonly<
      Record<string, { readonly norm: number; readonly stride: number; readonly entries: readonly number[] }>
    >;
  }[];
}

const golden = readGolden<{
  readonly rank: number;
  readonly alpha: number;
  readonly groupSize: number;
  readonly training: Readonly<
    Record<"learningRate" | "beta1" | "beta2" | "epsilon" | "weightDecay" | "maxGradNorm", number>
  >;
  readonly cases: Readonly<Record<string, GrpoCase>>;
}>("grpo.json");

// The project's bounds: losses 1e-4, rewards and gradients 1e-3.
const lossTolerance = 1e-4;
const tolerance = 1e-3;

function sampleOf(
  { prompt, completions }: GrpoCase["rounds"][number]["groups"][number],
  row: number,
): Sample {
  const ids = Int32Array.from([...prompt, ...completions.flat()]);
  return {
    ids,
    targetMask: Uint8Array.from(ids, (_, i) => (i < prompt.length ? 0 : 1)),
    rowId: { file: "golden", line: row + 1, unit: "row" },
    fork: { prompt: prompt.length, completions: completions.map(({ length }) => length) },
  };
}

function judged({ options, rounds }: GrpoCase, round: GrpoCase["rounds"][number]) {
  const weights = options.rewardWeights ?? rounds[0]!.rewards[0]!.map(() => 1);
  return judge(round.rewards, weights, golden.groupSize, options.scaleRewards ?? "group");
}

describe("advantages", () => {
  it.each(Object.entries(golden.cases))("%s are TRL's", (_, each) => {
    for (const round of each.rounds) {
      const { advantages, rewards } = judged(each, round);
      for (const [i, advantage] of advantages.entries())
        expect(Math.abs(advantage - round.advantages[i]!)).toBeLessThan(1e-5);
      expect(mean(rewards)).toBeCloseTo(round.reward, 5);
      expect(deviation(rewards)).toBeCloseTo(round.rewardStd, 5);
    }
  });

  it("of groups that teach nothing are counted", () => {
    const table = [[1], [1], [0], [1], [null], [null], [null], [5]];
    const { advantages, sameGroups } = judge(table, [1], 2, "group");
    expect(advantages.map((value) => Math.round(value * 100))).toEqual([0, 0, -71, 71, 0, 0, 0, 0]);
    expect(sameGroups).toBe(3);
  });
});

for (const { name: backendName, open, skip } of exactBackends) {
  describe.skipIf(skip)(`GRPO on ${backendName}${skip ? ` (skipped: ${skip})` : ""}`, () => {
    let backend: Backend;
    const folder = mkdtempSync(path.join(tmpdir(), "lowrank-grpo-"));
    beforeAll(async () => {
      backend = await open();
    });
    afterAll(() => {
      backend?.close();
      rmSync(folder, { recursive: true });
    });

    it.each(Object.entries(golden.cases))("%s", async (name, each) => {
      const { model, seed, options, adapter, rounds } = each;
      const { learningRate, maxGradNorm, ...constants } = golden.training;
      const { method = "lora", scaleRewards: _, rewardWeights: __, ...objective } = options;
      const full = method === "full";
      const config = { peft_type: "LORA", task_type: "CAUSAL_LM", r: golden.rank, lora_alpha: golden.alpha };
      const written = full
        ? undefined
        : writeAdapterFolder(
            path.join(folder, name),
            { ...config, target_modules: "all-linear" },
            seed,
            adapter,
          );
      const before = backend.liveBytes;
      const loaded = await openGolden(backend, loadModelGolden(model), full);
      const recipe: SessionRecipe = {
        ...{ method, rank: golden.rank, alpha: golden.alpha, targets: "all-linear", objective: "grpo" },
        ...{ optimizer: "adamw", seed: 0, ...constants, ...objective },
      };
      const initial = written === undefined ? undefined : await readAdapter(written);
      // Chunks that no batch's targets fit into at once.
      const session = new Session(loaded, recipe, { initial, logitsChunkBytes: 4 * 160 * 5 });
      for (const round of rounds) {
        const samples = round.groups.map(sampleOf);
        const { advantages } = judged(each, round);
        for (const [i, sample] of samples.entries()) {
          const own = advantages.slice(i * golden.groupSize, (i + 1) * golden.groupSize);
          session.objective.rollouts!.set(sample, { advantages: own });
        }
        await session.refer(samples, 64, true);
        for (const [iteration, expected] of round.steps.entries()) {
          // Two micro-batches are one, but where the loss is of a micro-batch.
          const lists = objective.lossType === "bnpo" ? [samples] : samples.map((sample) => [sample]);
          const batches = lists.map((list) => session.assemble(list));
          expect(batches.every(({ sharing }) => sharing !== undefined)).toBe(true);
          const { loss, metrics } = await session.forwardBackward(batches);
          const where = `${name}, iteration ${iteration + 1}`;
          expect(Math.abs(loss - expected.loss), where).toBeLessThan(
            lossTolerance * Math.max(1, Math.abs(expected.loss)),
          );
          for (const [metric, value] of Object.entries(expected.metrics)) {
            const off = Math.abs(metrics![metric]! - value);
            expect(off, `${where}: ${metric}`).toBeLessThan(tolerance * Math.max(1, Math.abs(value)));
          }
          if (iteration === round.steps.length - 1) {
            for (const [parameter, { norm, stride, entries }] of Object.entries(round.gradients)) {
              const target = full
                ? session.parameters.get(parameter)!
                : parameterFor(session.parameters, parameter);
              const grad = await session.parameters.read(target, "grad");
              const scale = Math.max(...entries.map(Math.abs), norm / Math.sqrt(grad.length));
              for (const [i, entry] of entries.entries())
                expect(
                  Math.abs(grad[i * stride]! - entry) / scale,
                  `${where}: ${parameter} ${i}`,
                ).toBeLessThan(tolerance);
              expect(relativeDifference([Math.hypot(...grad)], [norm]), parameter).toBeLessThan(tolerance);
            }
          }
          const { gradNorm } = await session.step({ learningRate, maxGradNorm });
          expect(relativeDifference([gradNorm], [expected.gradNorm]), where).toBeLessThan(tolerance);
        }
      }
      session[Symbol.dispose]();
      loaded.free();
      expect(backend.liveBytes).toBe(before);
    });
  });
}
