// A request's body from its bytes: UTF-8, nested no deeper than our recursion may go, JSON. Reading it from the socket is
// read-body.ts, how its numbers are read request-json.ts, what it may say requests.ts.

import { RequestError } from "./request-error.ts";
import { parseRequestJson } from "./request-json.ts";

/** Schemas of tools nest some 20 deep. */
const mostDepth = 128;

/** RequestError where the bytes are no JSON, or nested too deep. */
export function parseBody(bytes: Uint8Array): unknown {
  holdDepth(bytes);
  try {
    return parseRequestJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new RequestError("the body is not valid JSON");
  }
}

const [quote, backslash] = [0x22, 0x5c];
const [openings, closings] = [new Set([0x5b, 0x7b]), new Set([0x5d, 0x7d])];

function holdDepth(bytes: Uint8Array): void {
  let depth = 0;
  let inText = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    if (inText) {
      if (byte === backslash) i++;
      else if (byte === quote) inText = false;
    } else if (byte === quote) inText = true;
    else if (openings.has(byte)) {
      if (++depth > mostDepth)
        throw new RequestError(`the body is nested deeper than ${mostDepth} arrays and objects`);
    } else if (closings.has(byte)) depth--;
  }
}
