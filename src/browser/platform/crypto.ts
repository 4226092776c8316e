// What lowrank calls of node:crypto; the bundle puts it in its place. SHA-256 is @noble/hashes', since a browser's own
// takes a message only whole.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { BugError } from "../../util/errors.ts";

export function createHash(name: string) {
  if (name !== "sha256") throw new BugError(`the hash ${name} is not in lowrank's bundle for browsers`);
  const hash = sha256.create();
  const made = {
    update(data: string | Uint8Array) {
      hash.update(typeof data === "string" ? new TextEncoder().encode(data) : data);
      return made;
    },
    digest: (_encoding: "hex") => bytesToHex(hash.digest()),
  };
  return made;
}

export function randomBytes(count: number) {
  const bytes = crypto.getRandomValues(new Uint8Array(count));
  return Object.assign(bytes, { toString: () => bytesToHex(bytes) });
}
