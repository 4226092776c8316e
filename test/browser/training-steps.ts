// Training steps on the WebGPU of whoever runs this: three of a model of random weights, which every backend makes bit
// for bit alike, and one of the tiny base that comes with lowrank. A browser gets it as a bundle and a Node process as a
// module (backend/webgpu-browser.test.ts), and both must get the same losses. Nothing here may need Node.

import type { Backend } from "../../src/backend/backend.ts";
import { openWebGpu, webgpu } from "../../src/backend/webgpu.ts";
import { assemble } from "../../src/data/assemble.ts";
import { memorySource } from "../../src/formats/byte-source.ts";
import { fromSafetensorsDType, openSafetensors } from "../../src/formats/safetensors.ts";
import { readModelConfig } from "../../src/models/index.ts";
import { type LoadedDecoder, loadDecoder } from "../../src/models/load-model.ts";
import { quantizeOnArrival } from "../../src/models/quantized-weights.ts";
import { randomDecoder } from "../../src/models/random-model.ts";
import { Session } from "../../src/session/session.ts";

const config = readModelConfig({
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 96, hidden_size: 32 },
  ...{ intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: "silu" },
  tie_word_embeddings: false,
});

export type BrowserMethod = "lora" | "qlora";

/** Losses of three steps on two rows, the second and third after updates; live bytes at the end must be 0. */
export async function trainingSteps(backend: Backend, method: BrowserMethod): Promise<number[]> {
  const quantize = method === "qlora" ? quantizeOnArrival(backend) : undefined;
  return stepsOf(backend, await randomDecoder(backend, config, 7, { quantize }), 3);
}

/** A model folder's config.json and model.safetensors. */
export interface BaseFiles {
  readonly config: Parameters<typeof readModelConfig>[0];
  readonly weights: Uint8Array;
}

/** The loss of one LoRA step of a model from files. */
export async function baseStep(backend: Backend, { config, weights }: BaseFiles): Promise<number[]> {
  const file = await openSafetensors(memorySource(weights, "model.safetensors"));
  const loaded = await loadDecoder(backend, readModelConfig(config), {
    path: "the base",
    find(name) {
      const entry = file.tensors.get(name);
      return entry && { dtype: fromSafetensorsDType(entry.dtype)!, shape: entry.shape };
    },
    read: (name, offset, length) => file.readRange(name, offset, length),
  });
  return stepsOf(backend, loaded, 1);
}

async function stepsOf(backend: Backend, loaded: LoadedDecoder, steps: number): Promise<number[]> {
  const session = new Session(loaded, {
    ...{ method: "lora", rank: 4, alpha: 8, dropout: 0.1, targets: "all-linear" },
    ...{ optimizer: "adamw", weightDecay: 0, seed: 0 },
  });
  session.passes = 1;
  const batch = assemble(
    [9, 14].map((length, row) => ({
      ids: Int32Array.from({ length }, (_, i) => (row * 31 + i * 7) % 96),
      targetMask: Uint8Array.from({ length }, (_, i) => Number(i > 2)),
      rowId: { file: "made", line: row + 1, unit: "row" as const },
    })),
  );
  const losses: number[] = [];
  for (let step = 1; step <= steps; step++) {
    session.checkpointing = step === 2;
    const { loss } = await session.trainStep([batch], { learningRate: 2e-2 });
    losses.push(loss);
  }
  session[Symbol.dispose]();
  loaded.free();
  if (backend.liveBytes !== 0) throw new Error(`${backend.liveBytes} bytes are left`);
  return losses;
}

/** On this browser's WebGPU, with the base from these addresses; a reason where there is none. */
export async function trainHere(
  configUrl: string,
  weightsUrl: string,
): Promise<{ reason: string } | { device: string; losses: number[][] }> {
  const backend = await openWebGpu({ precision: "fp32" });
  if (!backend) return { reason: webgpu.reason!() };
  const base: BaseFiles = {
    config: await (await fetch(configUrl)).json(),
    weights: new Uint8Array(await (await fetch(weightsUrl)).arrayBuffer()),
  };
  const losses = [
    await trainingSteps(backend, "lora"),
    await trainingSteps(backend, "qlora"),
    await baseStep(backend, base),
  ];
  const device = backend.description;
  backend.close();
  return { device, losses };
}
