// A request that cannot be honoured, and what a refusal may say: short enough to read, and without the paths of the
// machine that serves. Which answers refuse: server.ts; what makes a request wrong: requests.ts.

import { UserError } from "../util/errors.ts";

/** A request that cannot be honoured; `param` is the key at fault. */
export class RequestError extends UserError {
  constructor(
    message: string,
    readonly param: string | null = null,
    readonly status: 400 | 403 | 404 | 408 | 409 | 413 | 415 | 429 | 503 = 400,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

const mostMessage = 600;
const mostParam = 100;

/** A message for a client: cut to a readable length, folders left out of the names of files. */
export function readableMessage(message: string): string {
  // A message may quote what was sent: no pattern runs over megabytes.
  return cut(withoutFolders(message.slice(0, 8 * mostMessage)), mostMessage);
}

export function readableParam(param: string | null): string | null {
  return param === null ? null : cut(param, mostParam);
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Absolute paths of two names or more, of POSIX and of Windows, down to the last name. Routes of ours stay. */
function withoutFolders(text: string): string {
  return text
    .replace(/(?<![\w.~/\\-])\/(?!v1\/)[^\s/:;,"'()]+(?:\/[^\s/:;,"'()]+)+/g, lastName)
    .replace(/(?<!\w)[A-Za-z]:\\(?:[^\s\\:;,"'()]+\\)*[^\s\\:;,"'()]+/g, lastName);
}

function lastName(path: string): string {
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
}
