// Memory of the CPU backend at its ends: what does not exist is refused with figures, and paged memory keeps its bytes.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { conformanceBackends } from "../conformance/backends.ts";

const cpu = conformanceBackends.find(({ name, skip }) => name.startsWith("cpu") && !skip);

describe.skipIf(!cpu)("memory of the CPU backend", () => {
  let backend: Backend;
  let folder: string;
  beforeAll(async () => {
    backend = await cpu!.open();
    folder = mkdtempSync(join(tmpdir(), "lowrank-memory-"));
  });
  afterAll(() => {
    backend.close();
    rmSync(folder, { recursive: true });
  });

  it("refuses what the system has promised nobody, and goes on", () => {
    const before = backend.liveBytes;
    const tooMuch = Math.ceil(backend.paging!.availableBytes() / 2 ** 20) * 2 ** 20;
    const asked = tooMuch >= 1e9 ? `${(tooMuch / 1e9).toFixed(2)} GB` : `${(tooMuch / 1e6).toFixed(1)} MB`;
    expect(() => backend.allocate(tooMuch, "activations")).toThrow(
      new RegExp(
        `out of memory: ${asked} for activations were asked for, beside .* in use, and .* are available`,
      ),
    );
    expect(() => backend.allocate(2 ** 50, "optimizer")).toThrow(/--paged/);
    expect(backend.liveBytes).toBe(before);
    backend.free(backend.allocate(2 ** 20, "weights"));
  });

  it("keeps paged bytes through eviction, at any alignment", async () => {
    const { paging } = backend;
    const size = 3 * 2 ** 20 + 123;
    const buffer = paging!.allocate(size, "optimizer", folder, 5000);
    expect((await backend.read(buffer)).every((byte) => byte === 0)).toBe(true);
    const bytes = Uint8Array.from({ length: size }, (_, i) => i % 251);
    backend.write(buffer, bytes);
    const whole = { buffer, byteOffset: 0, shape: [size], dtype: "u8" } as const;
    paging!.writeBack(whole);
    paging!.evict(whole);
    paging!.evict({ ...whole, byteOffset: 4097, shape: [10_000] });
    paging!.prefetch(whole);
    expect(Buffer.compare(await backend.read(buffer), bytes)).toBe(0);
    expect(() => paging!.evict({ ...whole, byteOffset: 1 })).toThrow(/beyond its buffer/);
    backend.free(buffer);
    expect(() => backend.write(buffer, bytes)).toThrow(/was freed/);
    paging!.evict(whole); // advice about memory that is gone is no crash
  });
});
