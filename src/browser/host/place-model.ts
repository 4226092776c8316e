// Makes /models/NAME hold a model: from files that the user gave, by download, or what an earlier visit left. Not here:
// opening it (host.ts).

import { join } from "pathe";
import { UserError } from "../../util/errors.ts";
import type { OpenRequest, ProgressEvent, RowsFile } from "../protocol.ts";
import { BlobBody, MemoryBody } from "../storage/body.ts";
import { folderNode, readWhole, tree } from "../storage/tree.ts";
import { downloadFolder, nameOf, type Place, type StoredSource, sourceFile } from "./download.ts";
import { modelsFolder, type Release, refresh, requireRoom, takeLock } from "./mount.ts";

const wanted = /^(?:additional_chat_templates\/)?[\w][\w.-]{0,200}\.(?:json|safetensors|jinja|txt|model)$/;
const mostFiles = 10_000;

/** The folder, whose lock others share until released. UserError where there is none to be had. */
export async function placeModel(
  { name, source }: OpenRequest,
  tell: (event: ProgressEvent) => void,
): Promise<{ folder: string; release: Release }> {
  const folder = join(modelsFolder, name);
  await refresh(modelsFolder, name);
  if (source.kind !== "stored") {
    const writing = await takeLock(`model:${name}`, "exclusive");
    if (writing) {
      try {
        if (source.kind === "files") await placeFiles(folder, source.files, source.keep, tell);
        else await placeDownload(folder, source, tell);
      } finally {
        await writing();
      }
    } else if (!isWhole(folder)) {
      throw new UserError(`${name}: another tab is fetching this model; wait until it has it`);
    }
  }
  if (tree.find(join(folder, "config.json")) === undefined)
    throw new UserError(
      `${name}: this browser holds no model of this name; open it from files or a URL once (storedModels() lists what is there)`,
    );
  const release = await takeLock(`model:${name}`, "shared");
  if (!release) throw new UserError(`${name}: another tab is changing this model; try again in a moment`);
  return { folder, release };
}

function isWhole(folder: string): boolean {
  const node = tree.find(folder);
  return node?.kind === "folder" && node.children.has("config.json");
}

async function placeDownload(folder: string, place: Place, tell: (event: ProgressEvent) => void) {
  const stored = await readSource(folder);
  if (
    stored?.from === nameOf(place) &&
    stored.files.every((file) => sizeAt(join(folder, file.name)) === file.sizeBytes)
  )
    return;
  // Files of another place under this name would be mixed with these.
  if (stored && tree.find(folder)) await tree.remove(folder);
  if (!tree.find(folder)) await tree.makeFolder(folder);
  await downloadFolder(place, folder, tell);
}

async function readSource(folder: string): Promise<StoredSource | undefined> {
  const node = tree.find(join(folder, sourceFile));
  if (node?.kind !== "file") return undefined;
  try {
    const source = JSON.parse(new TextDecoder().decode(await readWhole(node.body))) as StoredSource;
    return source.version === 1 && Array.isArray(source.files) ? source : undefined;
  } catch {
    return undefined;
  }
}

async function placeFiles(
  folder: string,
  given: readonly RowsFile[],
  keep: boolean,
  tell: (event: ProgressEvent) => void,
): Promise<void> {
  const files = given.filter(({ name }) => wanted.test(name)).slice(0, mostFiles);
  if (!files.some(({ name }) => name === "config.json"))
    throw new UserError(
      `the files given hold no config.json; expected a model folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json), and got ${
        given
          .slice(0, 5)
          .map(({ name }) => name)
          .join(", ") || "nothing"
      }`,
    );
  const blobs = folderNode();
  for (const { name, content } of files) {
    const [inner, last] = name.includes("/") ? name.split("/") : [undefined, name];
    let target = blobs;
    if (inner !== undefined) {
      const sub = blobs.children.get(inner);
      target = sub?.kind === "folder" ? sub : folderNode();
      blobs.children.set(inner, target);
    }
    target.children.set(last!, { kind: "file", body: new BlobBody(content, name), changedMs: Date.now() });
  }
  // Small files are read at once by some; they lie in memory.
  for (const [name, child] of blobs.children)
    if (child.kind === "file" && !name.endsWith(".safetensors"))
      blobs.children.set(name, { ...child, body: new MemoryBody(await readWhole(child.body)) });
  if (!keep || tree.folder(modelsFolder).handle === undefined) {
    tree.mount(folder, blobs);
    return;
  }
  const totalBytes = files.reduce((sum, { content }) => sum + content.size, 0);
  if (isWhole(folder) && files.every(({ name, content }) => sizeAt(join(folder, name)) === content.size))
    return;
  await requireRoom(folder, totalBytes);
  const incoming = `/tmp/incoming-${crypto.randomUUID()}`;
  tree.mount(incoming, blobs);
  if (tree.find(folder)) await tree.remove(folder);
  await tree.makeFolder(folder);
  let doneBytes = 0;
  // config.json last: a folder without one is no model yet.
  const ordered = [...files].sort(
    (a, b) => Number(a.name === "config.json") - Number(b.name === "config.json"),
  );
  for (const { name, content } of ordered) {
    const target = join(folder, name);
    if (name.includes("/") && !tree.find(join(target, ".."))) await tree.makeFolder(join(target, ".."));
    await tree.copyFile(join(incoming, name), target);
    doneBytes += content.size;
    tell({ type: "progress", file: name, doneBytes, totalBytes });
  }
  tree.folder("/tmp").children.delete(incoming.slice("/tmp/".length));
}

function sizeAt(path: string): number | undefined {
  const node = tree.find(path);
  return node?.kind === "file" ? node.body.sizeBytes : undefined;
}
