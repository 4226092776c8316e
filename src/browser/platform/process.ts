// The global names of Node that lowrank uses, in the worker's own scope: first of the worker's imports. Nothing here claims
// to be Node, which others ask by process.versions.node.

interface HeapSize {
  readonly memory?: { readonly usedJSHeapSize: number };
}

const channel = new MessageChannel();
const waiting: (() => void)[] = [];
channel.port1.onmessage = () => waiting.shift()?.();

const scope = globalThis as unknown as Record<string, unknown>;

scope.process = {
  env: { LOWRANK_CACHE: "/cache" },
  versions: {},
  platform: "browser",
  // A number that no two workers of an origin are likely to share: names of temporary files have it in them.
  pid: 1 + Math.floor(Math.random() * 2 ** 30),
  cwd: () => "/",
  on() {},
  once() {},
  off() {},
  resourceUsage: () => ({
    maxRSS: Math.ceil(((performance as HeapSize).memory?.usedJSHeapSize ?? 0) / 1024),
  }),
};
/** A turn for messages without the 4 ms that browsers let timers wait. */
scope.setImmediate = (callback: () => void) => {
  waiting.push(callback);
  channel.port2.postMessage(0);
};
