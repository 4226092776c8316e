// A traced backend computes what the backend computes, and tells kernels, sizes and calls when it closes.

import { expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openReference } from "../../src/backend/reference.ts";
import { traced, traceTable } from "../../src/backend/trace.ts";
import { Stage } from "../conformance/stage.ts";

it.each(["reference", "cpu"])("times the calls of %s, by kernel and sizes", async (name) => {
  const printed: string[] = [];
  const backend = traced(
    name === "cpu" ? await openBackend("cpu", { precision: "fp32" }) : openReference(),
    (text) => printed.push(text),
  );
  const s = new Stage(backend);
  const [x, y] = [s.values([3, 4], new Float32Array(12).fill(1)), s.zeros([3, 2])];
  backend.scaleInPlace({ y: x, factor: 2 });
  backend.scaleInPlace({ y: x, factor: 2 });
  backend.scaleInPlace({ y, factor: 2 });
  backend.linear(x, [{ weight: s.values([2, 4], new Float32Array(8).fill(1)), y }]);
  expect([...(await s.read(y))]).toEqual([16, 16, 16, 16, 16, 16]);
  expect(backend.liveBytes).toBeGreaterThan(0);
  expect(() => backend.rmsNorm({ x, w: y, shift: 0, epsilon: 1, y: x, rstd: y })).toThrow(
    "rmsNorm: w has shape",
  );
  s.free();
  expect(backend.liveBytes).toBe(0);
  expect(printed).toEqual([]);
  backend.close();
  expect(printed).toHaveLength(1);
  const lines = printed[0]!.split("\n");
  expect(lines[0]).toMatch(new RegExp(`^LOWRANK_TRACE: 4 calls, [\\d.]+ ms of kernels on ${name}$`));
  expect(lines.find((line) => /^scaleInPlace\s+n=12\s+2 /.test(line))).toBeDefined();
  expect(lines.find((line) => /^scaleInPlace\s+n=6\s+1 /.test(line))).toBeDefined();
  expect(lines.find((line) => /^linear\s+t=3 in=4 out=2 f32 r=0\s+1 /.test(line))).toBeDefined();
});

it("sums up what a long table leaves out, and says when times are not the kernels'", () => {
  const rows = Array.from({ length: 70 }, (_, i) => ({
    kernel: "rope",
    sizes: `t=${i}`,
    calls: 2,
    milliseconds: i,
  }));
  const lines = traceTable(rows, { name: "webgpu" }).split("\n");
  expect(lines[0]).toBe(
    "LOWRANK_TRACE: 140 calls, 2415.0 ms of recording of kernels, which run later on webgpu",
  );
  expect(lines.filter((line) => line.startsWith("rope"))).toHaveLength(60);
  expect(lines.find((line) => line.startsWith("10 more"))).toMatch(/\s20\s+45\.00/);
});
