// A hub on loopback for tests: repositories in memory, LFS files behind a redirect, cuts of the connection where asked
// for, and what was asked of it.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const commit = "0123456789abcdef0123456789abcdef01234567";

export interface MockHub {
  readonly url: string;
  /** "GET /path", "HEAD /path" and so on, with the range where one was asked for. */
  readonly requests: string[];
  /** By path: after so many bytes of an answer the connection breaks; each entry once. */
  readonly cuts: Map<string, number[]>;
  /** By path: bytes that take the place of the right ones. */
  readonly corrupt: Map<string, Buffer>;
  /** What was pushed: the lines of commits and the large files by hash. */
  readonly commits: unknown[][];
  readonly uploads: Map<string, Buffer>;
  token: string | undefined;
  delayMs: number;
  close(): Promise<void>;
}

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const gitSha1 = (bytes: Buffer) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

export async function startHub(
  repos: Readonly<Record<string, Readonly<Record<string, Buffer>>>>,
): Promise<MockHub> {
  const state = {
    requests: [] as string[],
    cuts: new Map<string, number[]>(),
    corrupt: new Map<string, Buffer>(),
    commits: [] as unknown[][],
    uploads: new Map<string, Buffer>(),
    token: undefined as string | undefined,
    delayMs: 0,
  };
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = decodeURIComponent(new URL(request.url!, "http://x").pathname);
    const range = request.headers.range;
    state.requests.push(`${request.method} ${path}${range ? ` ${range}` : ""}`);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    if (state.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, state.delayMs));
    const json = (status: number, value: unknown) => {
      response.writeHead(status, { "Content-Type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (
      !path.startsWith("/storage/") &&
      state.token &&
      request.headers.authorization !== `Bearer ${state.token}`
    )
      return json(401, { error: "no token" });

    const info = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path);
    if (info) {
      const files = repos[info[2]!];
      if (!files || (info[3] !== "main" && info[3] !== commit)) return json(404, {});
      return json(200, { sha: commit, siblings: Object.keys(files).map((rfilename) => ({ rfilename })) });
    }
    const resolve = /^\/(?:datasets\/)?([^/]+\/[^/]+)\/resolve\/[^/]+\/(.+)$/.exec(path);
    if (resolve) {
      const bytes = repos[resolve[1]!]?.[resolve[2]!];
      if (!bytes) return json(404, {});
      if (!resolve[2]!.endsWith(".safetensors")) {
        return send(request, response, resolve[2]!, bytes, {
          ETag: `"${gitSha1(bytes)}"`,
          "X-Repo-Commit": commit,
        });
      }
      response.writeHead(302, {
        Location: `${url()}/storage/${resolve[1]}/${resolve[2]}`,
        ETag: '"of-the-redirect"',
        "X-Linked-Etag": `"${sha256(bytes)}"`,
        "X-Linked-Size": String(bytes.length),
        "X-Repo-Commit": commit,
      });
      return void response.end();
    }
    const storage = /^\/storage\/([^/]+\/[^/]+)\/(.+)$/.exec(path);
    if (storage) return send(request, response, storage[2]!, repos[storage[1]!]![storage[2]!]!, {});

    if (path === "/api/repos/create") return json(200, { url: url() });
    if (path.includes("/preupload/")) {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
      return json(200, {
        files: files.map((file) => ({
          path: file.path,
          uploadMode: file.path.endsWith(".safetensors") ? "lfs" : "regular",
        })),
      });
    }
    if (path.endsWith(".git/info/lfs/objects/batch")) {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
      const href = (oid: string) => ({ href: `${url()}/upload/${oid}` });
      return json(200, { objects: objects.map((o) => ({ ...o, actions: { upload: href(o.oid) } })) });
    }
    if (path.startsWith("/upload/")) {
      state.uploads.set(path.slice("/upload/".length), body);
      return json(200, {});
    }
    if (path.includes("/commit/")) {
      const lines = body.toString().trim().split("\n");
      state.commits.push(lines.map((line) => JSON.parse(line) as unknown));
      return json(200, { commitUrl: `${url()}/commit/1` });
    }
    json(404, {});
  }

  function send(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    bytes: Buffer,
    headers: Record<string, string>,
  ): void {
    const content = state.corrupt.get(path) ?? bytes;
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    if (start >= content.length && start > 0) {
      response.writeHead(416).end();
      return;
    }
    const rest = content.subarray(start);
    response.writeHead(start > 0 ? 206 : 200, {
      ...headers,
      "Content-Length": rest.length,
      ...(start > 0 ? { "Content-Range": `bytes ${start}-${content.length - 1}/${content.length}` } : {}),
    });
    if (request.method === "HEAD") return void response.end();
    const cut = state.cuts.get(path)?.shift();
    if (cut === undefined || cut >= rest.length) return void response.end(rest);
    if (cut === 0) return void response.destroy();
    // A client may lose what it had not read when the connection broke: most is sent a while before.
    response.write(rest.subarray(0, cut - 1), () => {
      setTimeout(() => response.write(rest.subarray(cut - 1, cut), () => response.destroy()), 100);
    });
  }

  const url = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(state, {
    url: url(),
    close: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  });
}
