// A request that cannot be honoured, and what a refusal may say: short enough to read, and without the paths of the
// machine that serves. Which answers refuse: server.ts; what makes a request wrong: requests.ts.

import { crossesThreads, UserError } from "../util/errors.ts";

/** A request that cannot be honoured; `param` is the key at fault. */
export class RequestError extends UserError {
  override name = "RequestError";

  constructor(
    message: string,
    readonly param: string | null = null,
    readonly status: 400 | 403 | 404 | 408 | 409 | 413 | 415 | 429 | 503 = 400,
    readonly code: string | null = null,
  ) {
    super(message);
  }

  get details(): readonly unknown[] {
    return [this.param, this.status, this.code];
  }
}
crossesThreads("RequestError", RequestError);

const mostMessage = 600;
const mostParam = 100;

export function readableMessage(message: string): string {
  return cut(message, mostMessage);
}

export function readableParam(param: string | null): string | null {
  return param === null ? null : cut(param, mostParam);
}

/** What reading a file of ours said, for a client: absolute paths, of POSIX and of Windows, down to their last name. */
export function withoutFolders(message: string): string {
  return message
    .slice(0, 4 * mostMessage)
    .replace(/(?<![\w.~/\\-])\/(?!v1\/)[^\s/:;,"'()]+(?:\/[^\s/:;,"'()]+)+/g, lastName)
    .replace(/(?<!\w)[A-Za-z]:\\(?:[^\s\\:;,"'()]+\\)*[^\s\\:;,"'()]+/g, lastName);
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function lastName(path: string): string {
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
}
