// Which device a page computes on, and what is too large for it. WebGPU where there is an adapter, even one in software,
// else the reference backend: plain loops, exact and slow. Not here: the devices (backend/).

import { type AdapterDescription, describeAdapter, findAdapter } from "../../backend/webgpu.ts";
import type { ModelFolder } from "../../formats/model-folder.ts";
import { UserError } from "../../util/errors.ts";
import type { DeviceInfo, OpenRequest } from "../protocol.ts";

export interface ChosenDevice extends DeviceInfo {
  readonly adapter?: AdapterDescription;
}

/** UserError where WebGPU is asked for and there is none. */
export async function chooseDevice(asked: OpenRequest["backend"]): Promise<ChosenDevice> {
  const adapter = asked === "reference" || !(await findAdapter()) ? undefined : await describeAdapter();
  if (adapter) {
    const { name, software } = adapter;
    const word = software
      ? `${name} is a program on the CPU that poses as a GPU: exact, and tens to hundreds of times slower than one`
      : "";
    return { backend: "webgpu", name, software, word, adapter };
  }
  const reason = asked === "reference" ? "that was asked for" : whyNoAdapter();
  if (asked === "webgpu")
    throw new UserError(
      `this browser has no GPU for WebGPU: ${reason}. Try a current Chrome, Edge, Safari or Firefox over https or localhost, or backend "reference", which is slow`,
    );
  return {
    backend: "reference",
    name: "plain loops on one core",
    software: true,
    word: `no GPU is used (${reason}): plain loops on one core do about 100 tokens a second of a model of two million parameters, and proportionally fewer of larger ones`,
  };
}

function whyNoAdapter(): string {
  if (navigator.gpu) return "WebGPU finds no graphics adapter here";
  return isSecureContext
    ? "this browser has no WebGPU"
    : "browsers give WebGPU to pages from https or localhost alone";
}

/** Refuses, with numbers and before a byte goes to the device, a weight that no buffer of this GPU can hold. */
export function requireBuffers(folder: ModelFolder, { adapter }: ChosenDevice): void {
  const limit = adapter?.limits.maxBufferSize;
  if (!adapter || limit === undefined) return;
  const elementBytes = adapter.tier === "f32" ? 4 : 2;
  for (const [name, { shape }] of folder.tensors) {
    const bytes = elementBytes * shape.reduce((product, size) => product * size, 1);
    if (bytes > limit)
      throw new UserError(
        `${folder.path}: tensor "${name}" takes ${bytes} bytes on the GPU, and ${adapter.name} allows buffers of ${limit} bytes through WebGPU; use a smaller model, or lowrank under Node`,
      );
  }
}
