// The queue of native calls: order, memory freed while calls wait, and failures. The addon is a record of what it was
// asked; that real kernels give the same results is the conformance suite's.

import { beforeEach, describe, expect, it } from "vitest";
import type { NativeAddon } from "../../../src/backend/cpu/addon.node.ts";
import { CallBuffer } from "../../../src/backend/cpu/call-buffer.ts";
import { CpuQueue } from "../../../src/backend/cpu/queue.ts";

const mostArguments = 100;

let log: string[];
let fails: Error | undefined;
let nextAddress: number;
let bytesInUse: number;
let prepared: CallBuffer;
let queue: CpuQueue;

beforeEach(() => {
  log = [];
  fails = undefined;
  nextAddress = 1000;
  bytesInUse = 2 ** 30;
  const args = new Float64Array(40 * mostArguments);
  const addon = {
    args,
    call(length: number) {
      log.push(`call ${args.slice(0, length)}`);
      if (fails) throw fails;
    },
    allocate: () => nextAddress++,
    free: (address: number, sizeBytes: number) => void log.push(`free ${address} ${sizeBytes}`),
  } as unknown as NativeAddon;
  prepared = new CallBuffer(args, mostArguments);
  queue = new CpuQueue(addon, prepared, () => bytesInUse);
});

function add(kernel: number, ...numbers: number[]): void {
  prepared.start();
  for (const value of numbers) prepared.number(value);
  prepared.finish(kernel);
  queue.add();
}

describe("the queue of native calls", () => {
  it("runs what waits in order, once", () => {
    add(7, 1, 2, 3);
    add(8);
    add(9, 4);
    expect(log).toEqual([]);
    queue.run();
    queue.run();
    expect(log).toEqual(["call 7,3,1,2,3,8,0,9,1,4"]);
    add(5, 6);
    queue.run();
    expect(log[1]).toBe("call 5,1,6");
  });

  it("forgets a call that was begun and not finished", () => {
    prepared.start().number(1).number(2);
    add(3, 4);
    queue.run();
    expect(log).toEqual(["call 3,1,4"]);
  });

  it("runs before there are too many calls or arguments", () => {
    for (let i = 0; i < 256; i++) add(1);
    expect(log).toHaveLength(1);
    for (let i = 0; i < 39; i++) add(1, ...new Array(99).fill(0));
    expect(log).toHaveLength(2);
    expect(() => {
      prepared.start();
      for (let i = 0; i < 5000; i++) prepared.number(i);
    }).toThrow(/too many arguments/);
  });

  it("gives memory back only when no waiting call can use it", () => {
    queue.free(1, 64);
    expect(log).toEqual(["free 1 64"]);
    add(1);
    queue.free(2, 64);
    queue.free(3, 128);
    expect(log).toHaveLength(1);
    queue.run();
    expect(log.slice(1)).toEqual(["call 1,0", "free 2 64", "free 3 128"]);
  });

  it("lets later calls have memory of the same size that earlier ones used", () => {
    add(1);
    queue.free(2, 64);
    expect(queue.allocate(128)).toBe(1000);
    expect(queue.allocate(64)).toBe(2);
    expect(queue.allocate(64)).toBe(1001);
    queue.run();
    expect(log).toEqual(["call 1,0"]);
  });

  it("runs rather than letting much freed memory wait", () => {
    add(1);
    queue.free(2, 33 * 2 ** 20);
    expect(log).toEqual(["call 1,0", `free 2 ${33 * 2 ** 20}`]);
    bytesInUse = 64 * 2 ** 20;
    add(1);
    queue.free(3, 4 * 2 ** 20);
    expect(log).toHaveLength(2);
    queue.free(4, 1);
    expect(log).toHaveLength(5);
    bytesInUse = 0;
    add(1);
    queue.free(5, 2 ** 20);
    expect(log).toHaveLength(5);
  });

  it("runs and tries again when there is no memory left", () => {
    add(1);
    queue.free(2, 64);
    nextAddress = 0;
    expect(queue.allocate(128)).toBe(1);
    expect(log).toEqual(["call 1,0", "free 2 64"]);
  });

  it("tells of a kernel without memory in a sentence, and goes on with nothing waiting", () => {
    fails = Object.assign(new Error("out of memory in linear: none"), { code: "ERR_OUT_OF_MEMORY" });
    add(1);
    queue.free(2, 64);
    expect(() => queue.run()).toThrow("out of memory in linear: none; use smaller batches");
    expect(log).toEqual(["call 1,0", "free 2 64"]);
    fails = undefined;
    add(4);
    queue.run();
    expect(log[2]).toBe("call 4,0");
  });

  it("drops what waits when the backend closes", () => {
    add(1);
    queue.free(2, 64);
    queue.drop();
    queue.run();
    expect(log).toEqual(["free 2 64"]);
  });
});
