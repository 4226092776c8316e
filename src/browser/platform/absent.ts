// What a browser has nothing for: threads of Node, processes, packed streams, add-ons. The bundle puts this in the place of
// the modules that hold them; whoever calls gets a sentence. setTimeout and paths of URLs are real.

import { UserError } from "../../util/errors.ts";

function absent(what: string): () => never {
  return () => {
    throw new UserError(`${what} is not available in a browser; use lowrank under Node for it.`);
  };
}

export const setTimeout = (ms: number) => new Promise<void>((resolve) => globalThis.setTimeout(resolve, ms));
export const fileURLToPath = (url: string | URL) => decodeURIComponent(new URL(url).pathname);
export const pathToFileURL = (path: string) => new URL(`file://${path}`);
export const glob = absent("a pattern of files");
export const isDynamicPattern = () => false;
export const execFileSync = absent("another program");
export const createRequire = absent("the native engine");
export const pipeline = absent("reading packed data (unpack the file first)");
export const isMainThread = false;
export const parentPort = null;
export const workerData = undefined;
/** Of Parquet and of reward functions. */
export const Worker = class {
  constructor() {
    absent("a thread of Node, which Parquet files and reward functions need,")();
  }
};
export default { createGunzip: pipeline };
