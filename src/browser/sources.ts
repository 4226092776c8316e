// What a user can give as a model folder, as named files: an <input webkitdirectory>, something dropped, a folder picked
// through the File System Access API, or bytes that a page has.

import { UserError } from "../util/errors.ts";
import type { RowsFile } from "./protocol.ts";

/** A model's files by name: bytes, or Blobs that are read where they lie. */
export type NamedFiles = Readonly<Record<string, Blob | BufferSource>>;

const mostFiles = 10_000;

/** A FileList, Files of a folder, a folder's handle, or bytes by name. */
export async function namedFiles(
  given: NamedFiles | Iterable<File> | FileSystemDirectoryHandle,
): Promise<RowsFile[]> {
  if (isFolderHandle(given)) return filesBelow(given);
  if (Symbol.iterator in given) {
    const files: RowsFile[] = [];
    for (const file of given as Iterable<File>) {
      if (files.length >= mostFiles) throw new UserError(`more than ${mostFiles} files are no model folder`);
      // "folder/config.json" as an <input webkitdirectory> has it.
      const path = file.webkitRelativePath || file.name;
      files.push({
        name: path
          .split("/")
          .slice(file.webkitRelativePath ? 1 : 0)
          .join("/"),
        content: file,
      });
    }
    return files;
  }
  return Object.entries(given as NamedFiles).map(([name, content]) => ({
    name,
    content: content instanceof Blob ? content : new Blob([content as BlobPart]),
  }));
}

/** The files of what was dropped on a page, folders opened. To be called at once in the drop's handler. */
export async function filesOfDrop(dropped: DataTransfer): Promise<File[]> {
  const entries = [...dropped.items].map((item) => ({
    entry: item.webkitGetAsEntry?.(),
    file: item.getAsFile(),
  }));
  const files: File[] = [];
  for (const { entry, file } of entries) {
    if (entry?.isDirectory) await addFolder(entry as FileSystemDirectoryEntry, files);
    else if (file) files.push(file);
  }
  return files;
}

async function addFolder(folder: FileSystemDirectoryEntry, files: File[]): Promise<void> {
  const reader = folder.createReader();
  for (;;) {
    // A reader gives some of them at a time.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (some.length === 0) return;
    for (const entry of some) {
      if (!entry.isFile) continue;
      if (files.length >= mostFiles) throw new UserError(`more than ${mostFiles} files are no model folder`);
      files.push(
        await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)),
      );
    }
  }
}

async function filesBelow(folder: FileSystemDirectoryHandle, prefix = ""): Promise<RowsFile[]> {
  const files: RowsFile[] = [];
  for await (const [name, entry] of folder.entries()) {
    if (files.length >= mostFiles) throw new UserError(`more than ${mostFiles} files are no model folder`);
    if (entry.kind === "file")
      files.push({ name: `${prefix}${name}`, content: await (entry as FileSystemFileHandle).getFile() });
    else if (prefix === "" && name === "additional_chat_templates")
      files.push(...(await filesBelow(entry as FileSystemDirectoryHandle, `${name}/`)));
  }
  return files;
}

function isFolderHandle(given: object): given is FileSystemDirectoryHandle {
  return (given as { kind?: unknown }).kind === "directory" && "entries" in given;
}
