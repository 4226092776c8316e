// Files to a repository of the hub: made if need be, large files to the storage that the hub names, then one commit.
// Requests go through hub.ts. API: huggingface_hub, hf_api.py and lfs.py.

import { createHash } from "node:crypto";
import { UserError } from "../util/errors.ts";
import { readJson, request } from "./hub.ts";
import type { HubRepo, HubSettings } from "./hub-cache.ts";
import { isJsonObject } from "./json.ts";

export interface FileToPush {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** Makes the repository if need be and commits files to its main branch; returns the commit's address. */
export async function pushFiles(
  settings: HubSettings,
  name: string,
  files: readonly FileToPush[],
  options: { readonly private: boolean; readonly message: string },
): Promise<string> {
  if (settings.offline) throw new UserError("HF_HUB_OFFLINE is set: nothing can be pushed.");
  if (settings.token === undefined)
    throw new UserError("pushing needs a token that may write: set HF_TOKEN.");
  const repo = { name, revision: "main" };
  const post = async (url: string, body: string, type = "application/json", accepted: number[] = []) => {
    const headers = { "Content-Type": type, Accept: "application/json" };
    return request(settings, url, { method: "POST", body, headers }, repo, accepted);
  };
  const [owner, short] = name.split("/") as [string, string];
  const create = { name: short, organization: owner, type: "model", private: options.private };
  // 409: it is there already.
  const created = await post(
    `${settings.endpoint}/api/repos/create`,
    JSON.stringify(create),
    undefined,
    [409],
  );
  await created.body?.cancel();

  const api = `${settings.endpoint}/api/models/${name}`;
  const asked = files.map(({ path, bytes }) => ({
    path,
    size: bytes.byteLength,
    sample: Buffer.from(bytes.subarray(0, 512)).toString("base64"),
  }));
  const plan = await readJson(await post(`${api}/preupload/main`, JSON.stringify({ files: asked })), api);
  const modes = new Map<unknown, unknown>();
  for (const file of Array.isArray(plan.files) ? plan.files : [])
    if (isJsonObject(file)) modes.set(file.path, file.uploadMode);

  const lines: unknown[] = [{ key: "header", value: { summary: options.message, description: "" } }];
  for (const { path, bytes } of files) {
    if (modes.get(path) === "lfs") {
      const oid = createHash("sha256").update(bytes).digest("hex");
      await pushLarge(settings, repo, bytes, oid, post);
      lines.push({ key: "lfsFile", value: { path, algo: "sha256", oid, size: bytes.byteLength } });
    } else {
      const content = Buffer.from(bytes).toString("base64");
      lines.push({ key: "file", value: { path, content, encoding: "base64" } });
    }
  }
  const body = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  const done = await readJson(await post(`${api}/commit/main`, body, "application/x-ndjson"), api);
  return typeof done.commitUrl === "string" ? done.commitUrl : `${settings.endpoint}/${name}`;
}

/** A large file to the storage that the hub names, unless it has it already. Git LFS's batch API, basic transfer. */
async function pushLarge(
  settings: HubSettings,
  repo: Pick<HubRepo, "name" | "revision">,
  bytes: Uint8Array,
  oid: string,
  post: (url: string, body: string, type?: string) => Promise<Response>,
): Promise<void> {
  const url = `${settings.endpoint}/${repo.name}.git/info/lfs/objects/batch`;
  const objects = [{ oid, size: bytes.byteLength }];
  const ask = { operation: "upload", transfers: ["basic"], objects, hash_algo: "sha256" };
  const batch = await readJson(await post(url, JSON.stringify(ask), "application/vnd.git-lfs+json"), url);
  const object: unknown = Array.isArray(batch.objects) ? batch.objects[0] : undefined;
  if (!isJsonObject(object)) throw new UserError(`${url}: expected the object's upload.`);
  if (isJsonObject(object.error))
    throw new UserError(`${repo.name}: the hub refuses the file: ${String(object.error.message)}`);
  const actions = isJsonObject(object.actions) ? object.actions : {};
  const { upload, verify } = actions;
  if (!isJsonObject(upload) || typeof upload.href !== "string") return;
  const headers = isJsonObject(upload.header) ? (upload.header as Record<string, string>) : {};
  const stored = await request(
    settings,
    upload.href,
    { method: "PUT", body: Buffer.from(bytes), headers },
    repo,
  );
  await stored.body?.cancel();
  if (isJsonObject(verify) && typeof verify.href === "string") {
    const answer = await post(verify.href, JSON.stringify(objects[0]), "application/vnd.git-lfs+json");
    await answer.body?.cancel();
  }
}
