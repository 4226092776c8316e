// The worker's program as text. tools/build-browser.mjs puts its bundle here; as compiled alone there is none.

import { UserError } from "../util/errors.ts";

export const workerSource: string = missing();

function missing(): never {
  throw new UserError('import "lowrank/browser", the bundle, in place of single files of it');
}
