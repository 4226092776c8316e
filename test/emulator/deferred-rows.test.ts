// Rows that products make themselves in the matrix tier (src/backend/webgpu/deferred-rows.ts), on the emulated device: that it
// happens, and that it changes no number. What is packed to 16 bits is what the product would have rounded to 16 bits anyway,
// and of the rows that norms and activations make the f32 numbers are written besides.

import { describe, expect, it } from "vitest";
import type { Backend, Tensor } from "../../src/backend/backend.ts";
import type { Gpu } from "../../src/backend/webgpu/gpu.ts";
import { backendOf, partsOn } from "../../src/backend/webgpu.ts";
import type { Outputs } from "../conformance/cases/case.ts";
import { chains } from "../conformance/cases/chains.ts";
import { Stage } from "../conformance/stage.ts";
import { openEmulated } from "./emulated-device.ts";

const matrix = { m: 16, n: 16, k: 16, subgroupSize: 32 };

function open(): { gpu: Gpu; backend: Backend; labels: string[] } {
  const opened = openEmulated("matrix", matrix);
  const gpu = partsOn(opened);
  const labels: string[] = [];
  gpu.commands.onLaunch = ({ label }) => labels.push(label);
  return { gpu, backend: backendOf(opened, gpu), labels };
}

/** A backend whose products find rows that lie in memory. */
function undeferred(backend: Backend, gpu: Gpu): Backend {
  const settle = ({ buffer }: Tensor) => gpu.deferred.touch(gpu.memory.of(buffer).block, false);
  return {
    ...backend,
    linear(x, parts) {
      settle(x);
      backend.linear(x, parts);
    },
    linearBackward(x, parts, dx, accumulate) {
      for (const { dy } of parts) settle(dy);
      backend.linearBackward(x, parts, dx, accumulate);
    },
  };
}

function differing(actual: Outputs, expected: Outputs): string[] {
  return Object.entries(expected).flatMap(([name, values]) =>
    values.every((value, i) => Object.is(value, actual[name]![i])) ? [] : [name],
  );
}

const made: readonly (readonly [string, RegExp])[] = [
  ["rows-norm ", /^rmsNorm, then.*one buffer; between them nothing/],
  ["rows-gated ", /^gatedActivation, then.*one buffer; between them nothing/],
  ["rows-norm-backward ", /^rmsNormBackward.*all adapted/],
  ["rows-gated-backward ", /^gatedActivationBackward in place.*all adapted/],
  ["rows-rope ", /^rope back.*all adapted/],
];

describe("rows that a product makes itself", () => {
  it.each(made)("are made by %s", async (file, name) => {
    const [chain] = chains.filter((each) => name.test(each.name));
    const { backend, labels } = open();
    await chain!.run(new Stage(backend));
    expect(labels.filter((label) => label.includes(file)).length).toBeGreaterThan(0);
  });

  // A norm's own sum is another, by its lanes; so its cases are below.
  const exact = chains.filter(({ name }) => /^(gated|rope)/.test(name));
  it.each(exact)("change no bit of anything: $name", async (chain) => {
    const [own, other] = [open(), open()];
    const actual = await chain.run(new Stage(own.backend));
    const expected = await chain.run(new Stage(undeferred(other.backend, other.gpu)));
    expect(other.labels.filter((label) => /rows-(gated|rope)/.test(label))).toEqual([]);
    expect(differing(actual, expected)).toEqual([]);
  });

  it("of a norm give its product the bits that the written rows give", async () => {
    const { backend, labels } = open();
    const s = new Stage(backend);
    const [tokens, width, outputs] = [70, 96, 80];
    const [x, w, y, rstd] = [
      s.random([tokens, width], 1, 3),
      s.random([width], 2),
      s.zeros([tokens, width]),
      s.zeros([tokens]),
    ];
    const weight = s.random([outputs, width], 3);
    const [made, again] = [s.zeros([tokens, outputs]), s.zeros([tokens, outputs])];
    backend.rmsNorm({ x, w, shift: 0, epsilon: 1e-5, y, rstd });
    backend.linear(y, [{ weight, y: made }]);
    expect(labels.filter((label) => label.includes("rows-norm"))).toHaveLength(1);
    backend.linear(s.values([tokens, width], await s.read(y)), [{ weight, y: again }]);
    expect(differing({ made: await s.read(made) }, { made: await s.read(again) })).toEqual([]);
  });

  it("of a norm's gradient give its product the bits that the written rows give", async () => {
    const { backend, labels } = open();
    const s = new Stage(backend);
    const [tokens, width, inputs] = [70, 96, 80];
    const [x, w, dy] = [
      s.random([tokens, width], 1, 3),
      s.random([width], 2),
      s.random([tokens, width], 4, 1e-6),
    ];
    const [dx, rstd] = [s.zeros([tokens, width]), s.random([tokens], 5)];
    const weight = s.random([width, inputs], 3);
    const [made, again] = [s.zeros([tokens, inputs]), s.zeros([tokens, inputs])];
    backend.rmsNormBackward({ x, w, shift: 0, rstd, dy, dx, accumulate: false, dw: undefined });
    backend.linearBackward(undefined, [{ weight, dy: dx }], made, false);
    expect(labels.filter((label) => label.includes("rows-norm-backward"))).toHaveLength(1);
    const rows = s.values([tokens, width], await s.read(dx));
    backend.linearBackward(undefined, [{ weight, dy: rows }], again, false);
    expect(differing({ made: await s.read(made) }, { made: await s.read(again) })).toEqual([]);
  });

  it("are made only in the matrix tier: fp32 stays fp32", async () => {
    const opened = openEmulated("f32", matrix);
    const gpu = partsOn(opened);
    const labels: string[] = [];
    gpu.commands.onLaunch = ({ label }) => labels.push(label);
    await chains
      .find(({ name }) => name.startsWith("gatedActivationBackward in place"))!
      .run(new Stage(backendOf(opened, gpu)));
    expect(labels.filter((label) => label.includes("rows-gated"))).toEqual([]);
    expect(labels).toContain("gated-activation-backward geluTanh");
  });
});
