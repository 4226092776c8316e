// The page's own files, made by the build and read once: what a request asks for is looked up by name and never becomes a
// path. Nothing of the page comes from elsewhere, and its policy holds browsers to that.

import { readdirSync, readFileSync } from "node:fs";
import { extname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { UserError } from "../util/errors.ts";

export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Absent where it would be no shorter. */
  readonly gzipped?: Uint8Array<ArrayBuffer>;
  /** Its name changes with its content. */
  readonly hashed: boolean;
}

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
  ".webmanifest": "application/manifest+json",
};

/** As the build names what the page loads: page-DvtfKcEt.js. */
const hashedName = /-[\w-]{8}\.\w+$/;

/** Scripts, styles and data from this server alone; shown in no other page; no form leads elsewhere. */
export const pagePolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** What every answer carries. */
export const guardHeaders: Readonly<Record<string, string>> = {
  "Content-Security-Policy": pagePolicy,
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
};

const builtFolder = fileURLToPath(new URL("./page", import.meta.url));

/** The page by the names that a browser asks for: "/", "/page-DvtfKcEt.js". UserError where the build has not made it. */
export function readPage(folder = builtFolder): ReadonlyMap<string, PageFile> {
  const files = new Map<string, PageFile>();
  for (const entry of listed(folder)) {
    const type = types[extname(entry).toLowerCase()];
    if (!type) continue;
    const bytes = new Uint8Array(readFileSync(join(folder, entry)));
    const short = new Uint8Array(gzipSync(bytes, { level: 9 }));
    const name = `/${entry.split(sep).join("/")}`;
    const file: PageFile = {
      ...{ type, bytes, hashed: hashedName.test(name) },
      ...(short.byteLength < bytes.byteLength && { gzipped: short }),
    };
    files.set(name, file);
    if (name === "/index.html") files.set("/", file);
  }
  if (!files.has("/"))
    throw new UserError(`${folder}: the page is missing; run \`npm run build\`, or install lowrank again`);
  return files;
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)));
  } catch {
    return [];
  }
}
