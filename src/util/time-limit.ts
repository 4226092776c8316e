// Ends a computation that does not come to its end: a pattern that backtracks, a template that loops. It runs on the
// caller's thread and is stopped in the midst of whatever it does, so what it was changing must be thrown away. In a
// browser, which cannot do this, it simply runs. Not here: work in a thread of its own (data/read-parquet.node.ts, serve/bounded-thread.ts).

/** Thrown into the caller when the time is over. */
export class TimeLimitError extends Error {
  override name = "TimeLimitError";
}

interface Context {
  run?: (() => unknown) | undefined;
}
interface Script {
  runInContext(context: Context, options: { timeout: number }): unknown;
}
/** Node's vm, asked for at run time, as a browser has none. */
interface Vm {
  createContext(context: Context): Context;
  readonly Script: new (source: string) => Script;
}

let stage: { readonly context: Context; readonly script: Script } | undefined;

/** What `work` returns or throws; TimeLimitError once it has run for `limitMs` (some 70 us a call are the guard's). */
export function withinTime<T>(limitMs: number, work: () => T): T {
  const node = (globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } }).process;
  const vm = node?.getBuiltinModule?.("node:vm") as Vm | undefined;
  if (!vm) return work();
  stage ??= { context: vm.createContext({}), script: new vm.Script("run()") };
  const { context, script } = stage;
  const outer = context.run;
  context.run = work;
  try {
    return script.runInContext(context, { timeout: limitMs }) as T;
  } catch (error) {
    if ((error as { code?: unknown } | undefined)?.code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw error;
    throw new TimeLimitError(`took longer than ${Number((limitMs / 1000).toPrecision(2))} s`);
  } finally {
    context.run = outer;
  }
}
