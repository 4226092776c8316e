// The worker's entry. The bundle of it, with Node's modules replaced (tools/build-browser.mjs), is text inside
// lowrank.js, which starts it.

import "./platform/process.ts";
import { Host } from "./host/host.ts";
import type { Request } from "./protocol.ts";

/** Put in by the bundle. */
declare const LOWRANK_VERSION: string;

const host = new Host(LOWRANK_VERSION, (reply) => postMessage(reply));
addEventListener("message", ({ data }: MessageEvent<Request>) => void host.take(data));
