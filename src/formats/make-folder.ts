// Makes a folder with the folders above it. Node's own recursive mkdir asks again for ever where a system answers "no
// such folder" whatever there is (/proc does), and hides the reason on a read-only file system; this one goes up once.

import { mkdir, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/** Rejects with the system's error. A folder that is there already is fine. */
export async function makeFolder(path: string): Promise<void> {
  const place = resolve(path);
  try {
    await mkdir(place);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const isFolder = async () => (await stat(place).catch(() => undefined))?.isDirectory() ?? false;
    if (await isFolder()) return;
    const parent = dirname(place);
    if (code !== "ENOENT" || parent === place) throw error;
    await makeFolder(parent);
    await mkdir(place).catch(async (again: unknown) => {
      if (!(await isFolder())) throw again;
    });
  }
}
