// LOWRANK_TRACE=1: a backend that times each of its kernel calls and prints a table when it closes, a line for each kernel
// and sizes, on stderr. Calls that would wait run one by one, so a traced program is slower than its table's sum tells.
// Not here: who opens a traced backend (index.ts). A device without settle() runs its kernels later: its times are those of
// recording them, and the table says so.

import type { Tensor } from "../tensor/tensor.ts";
import type {
  Backend,
  GroupedGradPart,
  GroupedPart,
  Kernels,
  LinearGradPart,
  LinearPart,
  Matrix,
  MatrixStack,
} from "./backend.ts";
import { forEachKernel, type KernelName } from "./contract.ts";
import { OperandCheck } from "./operand-check.ts";

export interface TraceRow {
  readonly kernel: string;
  /** "t=512 heads=9 headDim=64". */
  readonly sizes: string;
  calls: number;
  milliseconds: number;
}

/** Lines of the table at most; what is left out is summed up in the last. */
const mostLines = 60;

/** The backend, with every kernel call timed; `print` is given the table when it closes. */
export function traced(backend: Backend, print: (text: string) => void): Backend {
  const rows = new Map<string, TraceRow>();
  const settle = () => backend.settle?.();
  const timed = (kernel: string, sizes: string, call: () => void) => {
    settle();
    const start = performance.now();
    call();
    settle();
    const key = `${kernel} ${sizes}`;
    const row = rows.get(key) ?? { kernel, sizes, calls: 0, milliseconds: 0 };
    row.calls++;
    row.milliseconds += performance.now() - start;
    rows.set(key, row);
  };
  const kernels = forEachKernel((name) => {
    const check = new OperandCheck(name, backend.floatType);
    const kernel = backend[name] as (operands: object) => void;
    return (operands: object) => {
      check.run(operands);
      const sizes = check.sizeNames.map((size) => `${size}=${check.slots[check.slotOf(size)!]}`);
      timed(name, sizes.join(" "), () => kernel(operands));
    };
  });
  const products: Omit<Kernels, KernelName> = {
    groupedLinear: (x, grouped, part) =>
      timed("groupedLinear", groupedSizes(part.y.shape[0]!, part), () =>
        backend.groupedLinear(x, grouped, part),
      ),
    groupedLinearBackward: (x, grouped, part, dx) =>
      timed("groupedLinearBackward", `${groupedSizes(part.dy.shape[0]!, part)}${dx ? " dx" : ""}`, () =>
        backend.groupedLinearBackward(x, grouped, part, dx),
      ),
    linear: (x, parts) => timed("linear", productSizes(x.shape[0]!, parts), () => backend.linear(x, parts)),
    linearBackward: (x, parts, dx, accumulate) => {
      const sizes = `${productSizes(parts[0]?.dy.shape[0] ?? 0, parts)}${dx ? " dx" : ""}`;
      timed("linearBackward", sizes, () => backend.linearBackward(x, parts, dx, accumulate));
    },
  };
  // What is not overridden is the backend's own, getters included.
  return Object.assign(Object.create(backend) as Backend, kernels, products, {
    // Calls that are made again would not be timed.
    record: undefined,
    close() {
      if (rows.size > 0) print(traceTable([...rows.values()], backend));
      backend.close();
    },
  });
}

/** "t=512 in=576 out=576+192 bf16 r=8". */
function productSizes(t: number, parts: readonly (LinearPart | LinearGradPart)[]): string {
  const first = parts[0];
  if (!first) return `t=${t}`;
  const ranks = new Set(parts.map(({ adapter }) => adapter?.a.shape[0] ?? 0));
  const weights = [...new Set(parts.map(({ weight }) => typeOf(weight)))].join("+");
  const trained = parts.some((part) => "dWeight" in part && part.dWeight) ? " dWeight" : "";
  const out = parts.map(({ weight }) => weight.shape[0]).join("+");
  return `t=${t} in=${first.weight.shape[1]} out=${out} ${weights} r=${[...ranks].join("+")}${trained}`;
}

/** "m=4096 experts=16 in=2048 out=1536 4-bit r=8". */
function groupedSizes(m: number, { weight, adapter }: GroupedPart | GroupedGradPart): string {
  const [experts, out, width] = weight.shape;
  const sizes = `m=${m} experts=${experts} in=${width} out=${out}`;
  return `${sizes} ${typeOf(weight)} r=${adapter?.b.shape[2] ?? 0}`;
}

function typeOf(weight: Matrix | MatrixStack): string {
  return "kind" in weight ? "4-bit" : (weight as Tensor).dtype;
}

/** The rows by time, the longest first, with each row's share of all of them. */
export function traceTable(rows: readonly TraceRow[], backend: Pick<Backend, "name" | "settle">): string {
  const sorted = [...rows].sort((a, b) => b.milliseconds - a.milliseconds);
  const total = sorted.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const [shown, rest] = [sorted.slice(0, mostLines), sorted.slice(mostLines)];
  if (rest.length > 0) {
    const [calls, milliseconds] = [rest.map((r) => r.calls), rest.map((r) => r.milliseconds)].map((list) =>
      list.reduce((a, b) => a + b, 0),
    ) as [number, number];
    shown.push({ kernel: `${rest.length} more`, sizes: "", calls, milliseconds });
  }
  const lines = shown.map(({ kernel, sizes, calls, milliseconds }) => [
    kernel,
    sizes,
    String(calls),
    milliseconds.toFixed(2),
    ((1000 * milliseconds) / calls).toFixed(1),
    `${((100 * milliseconds) / Math.max(total, 1e-9)).toFixed(1)}%`,
  ]);
  const head = ["kernel", "sizes", "calls", "ms", "us a call", "share"];
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i]!.length)));
  const show = (line: readonly string[]) =>
    line.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ");
  const what = backend.settle ? "kernels" : "recording of kernels, which run later";
  const calls = sorted.reduce((sum, row) => sum + row.calls, 0);
  return [
    `LOWRANK_TRACE: ${calls} calls, ${total.toFixed(1)} ms of ${what} on ${backend.name}`,
    show(head),
    ...lines.map(show),
    "",
  ].join("\n");
}
