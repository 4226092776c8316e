// `lowrank devices`: which backends this machine can run, what each offers, and which one "auto" takes.

import { describeIsa, type IsaDescription } from "../backend/cpu.ts";
import { type CudaDescription, describeCuda } from "../backend/cuda.ts";
import { automatic, openBackend } from "../backend/index.ts";
import { type AdapterDescription, describeAdapter, webgpu } from "../backend/webgpu.ts";
import { devicesDefinition } from "../config/devices-options.ts";
import { UserError } from "../util/errors.ts";
import { defineCommand } from "./command.ts";
import { formatBytes } from "./format.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(devicesDefinition, async (_options, terminal) => {
  const cpu = await describeCpu();
  const adapter = await describeAdapter();
  const cuda = describeCuda();
  const { name: chosen } = await automatic();
  if (terminal.json) {
    terminal.document({
      auto: chosen,
      cpu,
      cuda: cuda.problem === "" ? cudaDocument(cuda) : { missing: cuda.problem },
      webgpu: adapter ?? { missing: webgpu.reason!() },
    });
    return exitCodes.done;
  }
  terminal.print(
    [
      ...cpuLines(cpu),
      ...cudaLines(cuda),
      ...(adapter ? adapterLines(adapter) : [`webgpu  not here: ${webgpu.reason!()}`]),
      `auto    ${chosen}${chosen === "cpu" ? wordOnCpu(cpu, adapter?.software) : ""}`,
    ].join("\n"),
  );
  return exitCodes.done;
});

interface CpuDescription extends Partial<IsaDescription> {
  readonly description?: string;
  readonly precision?: string;
  readonly missing?: string;
}

async function describeCpu(): Promise<CpuDescription> {
  try {
    const backend = await openBackend("cpu");
    const { description, precision } = backend;
    backend.close();
    return { description, precision, ...describeIsa() };
  } catch (error) {
    if (error instanceof UserError) return { missing: error.message };
    throw error;
  }
}

function wordOnCpu({ missing }: CpuDescription, softwareGpu = false): string {
  if (missing !== undefined) return ", which is not here: see above";
  return softwareGpu ? "; the CPU backend is faster than a GPU in software" : "";
}

function cpuLines({ description, missing, held, isas }: CpuDescription): string[] {
  if (description === undefined) return [`cpu     not here: ${missing}`];
  const lines = [`cpu     ${description}`];
  if (held) lines.push(`        held to that set by LOWRANK_ISA, of ${isas!.join(", ")}`);
  return lines;
}

function cudaDocument({ driverVersion, emulated, cards }: CudaDescription): object {
  return {
    driverVersion,
    software: emulated,
    cards: cards.map(({ name, memoryBytes, computeMajor, computeMinor, processors }) => ({
      ...{ name, memoryBytes, processors },
      compute: `${computeMajor}.${computeMinor}`,
    })),
  };
}

function cudaLines({ problem, driverVersion, emulated, cards }: CudaDescription): string[] {
  if (problem !== "") return [`cuda    not here: ${problem}`];
  const lines = cards.map(
    ({ name, memoryBytes, computeMajor, computeMinor, processors }) =>
      `${name}${emulated ? ", in software" : ""}, ${formatBytes(memoryBytes)}, compute capability ${computeMajor}.${computeMinor}, ${processors} processors`,
  );
  return lines.map((line, i) => `${i === 0 ? "cuda  " : "      "}  ${line}, driver of CUDA ${driverVersion}`);
}

export function adapterLines(adapter: AdapterDescription): string[] {
  const { name, software, tiers, tier, nextTier, matrix, limits } = adapter;
  const shape = matrix ? ` (${matrix.m}x${matrix.n}x${matrix.k}, subgroups of ${matrix.subgroupSize})` : "";
  const bytes = (limit: string) => formatBytes(limits[limit]!);
  return [
    `webgpu  ${name}${software ? ", in software" : ""}`,
    `        tier ${tier}${shape}${tiers.length > 1 ? `, of ${tiers.join(", ")}` : ""}`,
    ...(nextTier ? [`        not ${nextTier.tier}: it lacks ${nextTier.missing}`] : []),
    `        buffers up to ${bytes("maxBufferSize")}, ${bytes("maxStorageBufferBindingSize")} of one bound at a time,`,
    `        ${bytes("maxComputeWorkgroupStorageSize")} of workgroup memory, ${limits.maxComputeInvocationsPerWorkgroup} lanes a workgroup`,
  ];
}
