// Shaders that only a large device takes (tiles and attention beyond 16 KB of workgroup memory) are valid to Dawn too: their
// texts come from the backend on a counting device with a card's limits, and Dawn's null device reads them.

import { expect, it } from "vitest";
import { countingDevice, openedCounting } from "../../src/backend/webgpu/counting-device.ts";
import { findGpu } from "../../src/backend/webgpu/dawn.ts";
import { backendOf, partsOn } from "../../src/backend/webgpu.ts";
import { kernelCases } from "../conformance/cases/index.ts";
import { Stage } from "../conformance/stage.ts";

const { gpu, reason } = await findGpu(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);

it.skipIf(!gpu)(
  `shaders of the matrix tier are valid at a card's sizes${reason ? ` (skipped: ${reason})` : ""}`,
  async () => {
    const texts = new Set<string>();
    const { device } = countingDevice();
    const recording = Object.assign(device, {
      createShaderModule({ code }: GPUShaderModuleDescriptor) {
        texts.add(code);
        return {};
      },
    });
    const opened = openedCounting(recording as unknown as GPUDevice, "matrix");
    const backend = backendOf(opened, partsOn(opened));
    for (const kernelCase of kernelCases.filter(({ name }) => /^(linear|attention)/.test(name))) {
      const stage = new Stage(backend, false);
      await kernelCase.run(stage);
      stage.free();
    }
    const s = new Stage(backend, false);
    const [x, y, dx] = [s.zeros([1024, 1024]), s.zeros([1024, 1024]), s.zeros([1024, 1024])];
    const weight = s.zeros([1024, 1024], "f16");
    s.backend.linear(x, [{ weight, y }]);
    s.backend.linearBackward(undefined, [{ weight, dy: y }], dx, false);
    s.free();
    const all = [...texts];
    expect(
      all.some(
        (text) => text.includes("const BM = 128u") && text.includes("subgroupMatrixMultiplyAccumulate"),
      ),
    ).toBe(true);
    expect(all.some((text) => text.includes("const STRIPS"))).toBe(true);

    const adapter = (await gpu!.requestAdapter())!;
    const wanted = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"] as GPUFeatureName[];
    const real = await adapter.requestDevice({ requiredFeatures: wanted });
    const complaints: string[] = [];
    real.addEventListener("uncapturederror", (event) => event.preventDefault());
    for (const code of all) {
      const { messages } = await real.createShaderModule({ code }).getCompilationInfo();
      for (const { type, lineNum, message } of messages)
        if (type === "error") complaints.push(`${code.split("\n")[lineNum - 1]}: ${message}`);
    }
    expect(complaints).toEqual([]);
    real.destroy();
  },
);
