// A registry of npm packages on loopback: of those that lowrank's node_modules has, without the large optional one of
// WebGPU, so that an install of the packed tarballs asks no network; every other name is answered with 404, as a
// registry does that has no package for another platform. Nothing here is a test.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

interface Manifest {
  readonly name: string;
  readonly version: string;
}

/** One file of a tarball: ustar, https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html. */
function tarEntry(path: string, data: Buffer): Buffer {
  const head = Buffer.alloc(512);
  const split = path.length < 100 ? -1 : path.lastIndexOf("/", 154);
  head.write(path.slice(split + 1), 0, 100);
  head.write("0000644\0", 100);
  head.write("0000000\0".repeat(2), 108);
  head.write(`${data.length.toString(8).padStart(11, "0")}\0`, 124);
  head.write("00000000000\0", 136);
  head.write("        0", 148);
  head.write("ustar\x0000", 257);
  if (split > 0) head.write(path.slice(0, split), 345, 155);
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return Buffer.concat([head, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}

/** What runs of a package, packed. */
function tarball(folder: string): Buffer {
  const entries: Buffer[] = [];
  const walk = (at: string) => {
    for (const entry of readdirSync(join(folder, at), { withFileTypes: true })) {
      const path = at ? `${at}/${entry.name}` : entry.name;
      if (entry.isDirectory() && entry.name !== "node_modules") walk(path);
      else if (entry.isFile() && !/\.(map|md|d\.[cm]?ts)$/.test(entry.name)) {
        entries.push(tarEntry(`package/${path}`, readFileSync(join(folder, path))));
      }
    }
  };
  walk("");
  return gzipSync(Buffer.concat([...entries, Buffer.alloc(1024)]), { level: 1 });
}

/** Starts it; `asked` grows by each name that it did not have. */
export async function servePackages(modules: string, left: readonly string[]) {
  const packed = new Map<string, Buffer>();
  const asked: string[] = [];
  const pack = (name: string) => {
    const known = packed.get(name) ?? tarball(join(modules, name));
    packed.set(name, known);
    return known;
  };
  const server = createServer((request, response) => {
    const path = decodeURIComponent(request.url!.slice(1));
    const name = path.replace(/\.tgz$/, "");
    if (left.includes(name) || !existsSync(join(modules, name, "package.json"))) {
      asked.push(name);
      response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not found"}');
      return;
    }
    if (path.endsWith(".tgz")) {
      response.writeHead(200).end(pack(name));
      return;
    }
    const manifest = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")) as Manifest;
    const integrity = `sha512-${createHash("sha512").update(pack(name)).digest("base64")}`;
    const dist = { integrity, tarball: `${url}${encodeURIComponent(name)}.tgz` };
    const versions = { [manifest.version]: { ...manifest, dist } };
    response
      .writeHead(200, { "content-type": "application/json" })
      .end(JSON.stringify({ name, versions, "dist-tags": { latest: manifest.version } }));
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return { url, asked, close: () => server.close() };
}
