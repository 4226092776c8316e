// Errors as data, so that they cross a thread and arrive as the class they were.

import { BugError, UserError } from "../util/errors.ts";
import { RequestError } from "./request-error.ts";

export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
  /** What a RequestError says besides. */
  readonly request?: Pick<RequestError, "param" | "status" | "code">;
}

export function sendError(thrown: unknown): SentError {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  const { name, message, stack } = error;
  if (!(error instanceof RequestError)) return { name, message, stack };
  const { param, status, code } = error;
  return { name, message, stack, request: { param, status, code } };
}

export function receiveError({ name, message, stack, request }: SentError): Error {
  if (request) return new RequestError(message, request.param, request.status, request.code);
  const error =
    name === "UserError" || name === "UsageError" ? new UserError(message) : new BugError(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
