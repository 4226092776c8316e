// `lowrank devices`: which backends this machine can run, what each offers, and which one "auto" takes.

import { openBackend } from "../backend/index.ts";
import { type AdapterDescription, describeAdapter, webgpu } from "../backend/webgpu.ts";
import { devicesDefinition } from "../config/devices-options.ts";
import { UserError } from "../util/errors.ts";
import { defineCommand } from "./command.ts";
import { formatBytes } from "./format.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(devicesDefinition, async (_options, terminal) => {
  const cpu = await describeCpu();
  const adapter = await describeAdapter();
  const automatic = adapter && !adapter.software ? "webgpu" : "cpu";
  if (terminal.json) {
    terminal.document({
      auto: automatic,
      cpu,
      webgpu: adapter ?? { missing: webgpu.reason!() },
    });
    return exitCodes.done;
  }
  terminal.print(
    [
      `cpu     ${cpu.description ?? `not here: ${cpu.missing}`}`,
      ...(adapter ? adapterLines(adapter) : [`webgpu  not here: ${webgpu.reason!()}`]),
      `auto    ${automatic}${adapter?.software ? "; the CPU backend is faster than a GPU in software" : ""}`,
    ].join("\n"),
  );
  return exitCodes.done;
});

interface CpuDescription {
  readonly description?: string;
  readonly precision?: string;
  readonly missing?: string;
}

async function describeCpu(): Promise<CpuDescription> {
  try {
    const backend = await openBackend("cpu");
    const { description, precision } = backend;
    backend.close();
    return { description, precision };
  } catch (error) {
    if (error instanceof UserError) return { missing: error.message };
    throw error;
  }
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
