// Paths and file status as node:fs has them.

import { resolve } from "pathe";
import type { TreeNode } from "../storage/tree.ts";

export type Place = string | URL;

export function placeName(path: Place): string {
  return resolve("/", typeof path === "string" ? path : decodeURIComponent(path.pathname));
}

export class Status {
  readonly size: number;
  readonly mtimeMs: number;
  constructor(private readonly node: TreeNode) {
    this.size = node.kind === "file" ? node.body.sizeBytes : 0;
    this.mtimeMs = node.kind === "file" ? node.changedMs : 0;
  }
  isFile(): boolean {
    return this.node.kind === "file";
  }
  isDirectory(): boolean {
    return this.node.kind === "folder";
  }
  isSymbolicLink(): boolean {
    return false;
  }
}
