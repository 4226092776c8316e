// WebGPU under Node: npm `webgpu` (Dawn), loaded only there; a browser brings its own navigator.gpu. Two of Dawn's ways
// need care: collected, its GPU object takes the process down; and while a promise waits it polls through setImmediate
// without pause, at the cost of a core.

/** Options of Dawn's create(), as "key=value". */
export type DawnOptions = readonly string[];

interface DawnModule {
  create(options: string[]): GPU;
  globals: Record<string, unknown>;
}

/** Unsafe APIs: subgroup matrices. f16 on NVIDIA: Dawn withholds shader-f16 there otherwise. */
const needed = "allow_unsafe_apis,vulkan_enable_f16_on_nvidia";
/**
 * What Dawn checks of every call and every access to memory. Kernels and launches are held to it in the tests
 * (LOWRANK_WEBGPU_CHECKS=1); at work it would only cost time.
 */
export const withoutChecks = "skip_validation,disable_robustness";

/** Dawn's options unless somebody gives others. */
export function defaultOptions(): DawnOptions {
  const checks = globalThis.process?.env?.LOWRANK_WEBGPU_CHECKS === "1";
  return [`enable-dawn-features=${checks ? needed : `${needed},${withoutChecks}`}`];
}

const pinned = Symbol.for("lowrank.webgpu");
const instances = new Map<string, GPU>();

/** The browser's GPU or Dawn's; undefined with a reason when there is neither. */
export async function findGpu(
  options: DawnOptions = defaultOptions(),
): Promise<{ gpu: GPU; reason?: undefined } | { gpu?: undefined; reason: string }> {
  const isNode = typeof process !== "undefined" && process.versions?.node !== undefined;
  if (!isNode) {
    const gpu = globalThis.navigator?.gpu;
    return gpu ? { gpu } : { reason: "this browser has no WebGPU" };
  }
  const key = options.join();
  const known = instances.get(key);
  if (known) return { gpu: known };
  let dawn: DawnModule;
  try {
    // A name in a variable keeps bundlers for browsers from following it.
    const packageName = "webgpu";
    dawn = (await import(/* webpackIgnore: true */ /* @vite-ignore */ packageName)) as DawnModule;
  } catch (error) {
    const why = error instanceof Error ? error.message.split("\n")[0] : String(error);
    return {
      reason: `the optional package "webgpu" could not be loaded (${why}); run npm install webgpu, or use --backend cpu`,
    };
  }
  throttlePolling();
  const gpu = dawn.create([...options]);
  instances.set(key, gpu);
  (globalThis as Record<symbol, unknown>)[pinned] = instances;
  return { gpu };
}

/** Device files of graphics drivers under Linux (and of Windows' GPU inside WSL). */
const linuxDevices = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"];

/** False where there is surely no GPU: Dawn takes a moment to find that out, and complains on stderr as it does. */
export async function mayHaveGpu(): Promise<boolean> {
  if (typeof process === "undefined" || process.platform !== "linux") return true;
  const filesName = "node:fs";
  const { existsSync } = (await import(/* webpackIgnore: true */ /* @vite-ignore */ filesName)) as {
    existsSync(path: string): boolean;
  };
  return linuxDevices.some(existsSync);
}

let lastActivityMs = 0;
let throttled = false;

/** Tells the poller that work was just sent: for the next moments every answer is wanted at once. */
export function noteActivity(): void {
  lastActivityMs = performance.now();
}

/** How long Dawn may poll without pause after activity, and the pause after that. */
const eagerMs = 2;
const pauseMs = 1;

/**
 * Dawn's polls are nameless native functions given to setImmediate; after `eagerMs` without activity they come from a
 * timer instead. Everyone else's callbacks pass through.
 */
function throttlePolling(): void {
  if (throttled) return;
  throttled = true;
  const original = globalThis.setImmediate;
  const isPoll = (callback: (...args: unknown[]) => void) =>
    callback.name === "" && Function.prototype.toString.call(callback).includes("[native code]");
  const replacement = (callback: (...args: unknown[]) => void, ...args: unknown[]) => {
    if (typeof callback === "function" && performance.now() - lastActivityMs > eagerMs && isPoll(callback)) {
      return setTimeout(callback, pauseMs, ...args);
    }
    return original(callback, ...args);
  };
  globalThis.setImmediate = Object.assign(replacement, original) as unknown as typeof setImmediate;
}
