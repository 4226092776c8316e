// Failures of the worker's file system with the codes that Node's have, so that what lowrank says of a full disk or a
// missing file is said in a browser too. Which of a browser's exceptions is which code is decided here.

const texts = {
  ENOENT: "no such file or directory",
  EEXIST: "file already exists",
  ENOTDIR: "not a directory",
  EISDIR: "illegal operation on a directory",
  ENOTEMPTY: "directory not empty",
  ENOSPC: "no space left in this browser's storage",
  EROFS: "read-only file system",
  EBADF: "bad file descriptor",
  EBUSY: "in use by another tab or page",
  EACCES: "permission denied",
  ENOTSUP: "not available in a browser",
} as const;

export type SystemCode = keyof typeof texts;

export interface SystemError extends Error {
  readonly code: SystemCode;
}

export function systemError(code: SystemCode, path: string, cause?: unknown): SystemError {
  return Object.assign(new Error(`${code}: ${texts[code]}, '${path}'`, { cause }), { code });
}

const codes: Readonly<Record<string, SystemCode>> = {
  QuotaExceededError: "ENOSPC",
  NoModificationAllowedError: "EBUSY",
  NotFoundError: "ENOENT",
  NotReadableError: "EACCES",
  NotAllowedError: "EACCES",
  SecurityError: "EACCES",
  TypeMismatchError: "ENOTDIR",
  InvalidModificationError: "ENOTEMPTY",
};

/** What a browser threw, as a failure with a code where it has one. */
export function asSystemError(thrown: unknown, path: string): unknown {
  const code = thrown instanceof DOMException ? codes[thrown.name] : undefined;
  return code ? systemError(code, path, thrown) : thrown;
}
