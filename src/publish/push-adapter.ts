// An adapter folder to the hub: its two files, the tokenizer and templates it brings, and a model card. Not here: HTTP (formats/hub-push.ts), the card's text
// (model-card.ts).

import { openFile } from "../formats/disk.ts";
import { hubSettings, parseHubName } from "../formats/hub-cache.ts";
import { type FileToPush, pushFiles } from "../formats/hub-push.ts";
import { isJsonObject, type JsonObject, parseJson } from "../formats/json.ts";
import { readAdapter } from "../formats/peft.ts";
import { sideFilesIn } from "../formats/side-files.ts";
import { UserError } from "../util/errors.ts";
import { modelCard } from "./model-card.ts";

/** A single request carries a file; a longer one would need the hub's multipart uploads. */
const fileCapBytes = 2 ** 31 - 1;

export interface PushOptions {
  readonly adapter: string;
  /** owner/name */
  readonly repo: string;
  readonly private: boolean;
  readonly message: string;
}

/** Returns the address of the commit. UserError when the folder is no whole adapter, or the hub refuses. */
export async function pushAdapter(options: PushOptions): Promise<string> {
  const { adapter: folder, repo } = options;
  if (!parseHubName(repo, "model") || repo.includes("@"))
    throw new UserError(`--repo ${repo}: expected owner/name, as the hub calls a repository`);
  const { config } = await readAdapter(folder);
  const run = await readIfThere(`${folder}/run.json`);
  const record: unknown = run && parseJson(run, `${folder}/run.json`);
  const card = modelCard(
    repo.split("/")[1]!,
    config,
    isJsonObject(record) ? (record as JsonObject) : undefined,
  );
  const files: FileToPush[] = [{ path: "README.md", bytes: new TextEncoder().encode(card) }];
  const text = await sideFilesIn(folder);
  for (const path of ["adapter_config.json", "adapter_model.safetensors", ...text]) {
    const bytes = await readIfThere(`${folder}/${path}`);
    if (bytes) files.push({ path, bytes });
  }
  return pushFiles(hubSettings(), repo, files, options);
}

async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  const source = await openFile(path).catch(() => undefined);
  if (!source) return undefined;
  try {
    if (source.size > fileCapBytes) throw new UserError(`${path}: ${source.size} bytes is too large to push`);
    return await source.read(0, source.size);
  } finally {
    await source.close();
  }
}
