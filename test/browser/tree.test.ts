// The worker's file system: the same calls over memory and over OPFS (a fake of it), what Node's calls answer, and folders
// whose renaming a closed tab cut off.

import { beforeEach, describe, expect, it } from "vitest";
import { existsSync, openSync, readFileSync, readSync, statSync } from "../../src/browser/platform/fs.ts";
import * as files from "../../src/browser/platform/fs-promises.ts";
import { BlobBody } from "../../src/browser/storage/body.ts";
import { folderNode, readDiskFolder, Tree, tree } from "../../src/browser/storage/tree.ts";
import { fakeDisk } from "./fake-opfs.ts";

const text = (bytes: unknown) => new TextDecoder().decode(bytes as Uint8Array);
const code = (work: Promise<unknown>) =>
  work.then(
    () => "no failure",
    (error: { code?: string }) => error.code,
  );

describe.each(["memory", "OPFS"])("files in %s", (place) => {
  const disk = fakeDisk();
  beforeEach(async () => {
    tree.mount("/w", place === "memory" ? folderNode() : await readDiskFolder(disk.root));
    for (const name of tree.folder("/w").children.keys()) await tree.remove(`/w/${name}`);
  });

  it("write, read, cut and list as Node's do", async () => {
    await files.mkdir("/w/a/b", { recursive: true });
    const made = await files.open("/w/a/b/f", "wx");
    expect((await made.write(new TextEncoder().encode("hello"))).bytesWritten).toBe(5);
    await made.write(new TextEncoder().encode(" you"));
    await made.sync();
    await made.close();
    expect(await files.readFile("/w/a/b/f", "utf8")).toBe("hello you");
    const open = await files.open("/w/a/b/f", "r+");
    await open.truncate(6);
    await open.write(new TextEncoder().encode("J"), 0, 1, 0);
    const into = new Uint8Array(3);
    expect((await open.read(into, 0, 3, 0)).bytesRead).toBe(3);
    expect(text(into)).toBe("Jel");
    await open.close();
    expect(text(await files.readFile("/w/a/b/f"))).toBe("Jello ");
    expect(await files.readdir("/w", { recursive: true })).toEqual(["a", "a/b", "a/b/f"]);
    expect(existsSync("/w/a/b/f") && statSync("/w/a").isDirectory()).toBe(true);
    expect((await files.stat("/w/a/b/f")).size).toBe(6);
  });

  it("fail with Node's codes", async () => {
    await files.writeFile("/w/f", "x");
    expect(await code(files.open("/w/none"))).toBe("ENOENT");
    expect(await code(files.open("/w/f", "wx"))).toBe("EEXIST");
    expect(await code(files.mkdir("/w/f"))).toBe("EEXIST");
    expect(await code(files.mkdir("/w/no/b"))).toBe("ENOENT");
    expect(await code(files.readdir("/w/f"))).toBe("ENOTDIR");
    expect(await code(files.readFile("/w"))).toBe("EISDIR");
    expect(await code(files.rm("/w/none"))).toBe("ENOENT");
    expect(await code(files.rm("/w/none", { force: true }))).toBe("no failure");
    expect(await code(files.rename("/w/none", "/w/g"))).toBe("ENOENT");
  });

  it("take a file's place when renamed, and move whole folders", async () => {
    await files.writeFile("/w/old", "old");
    await files.writeFile("/w/new", "new");
    await files.rename("/w/new", "/w/old");
    expect(await files.readFile("/w/old", "utf8")).toBe("new");
    expect(existsSync("/w/new")).toBe(false);
    await files.mkdir("/w/t/in", { recursive: true });
    await files.writeFile("/w/t/one", "1");
    await files.writeFile("/w/t/in/two", "2");
    await files.rename("/w/t", "/w/step");
    const names = (await files.readdir("/w", { recursive: true })) as string[];
    expect(names.sort()).toEqual(["old", "step", "step/in", "step/in/two", "step/one"]);
    expect(await files.readFile("/w/step/in/two", "utf8")).toBe("2");
    expect(await code(files.rename("/w/step", "/w/old"))).toBe("ENOTDIR");
  });
});

it("finishes a folder's renaming that a closed tab cut off", async () => {
  for (let moves = 0; moves < 4; moves++) {
    const disk = fakeDisk();
    const before = new Tree();
    before.mount("/run", await readDiskFolder(disk.root));
    await before.makeFolder("/run/.tmp");
    for (const name of ["one", "two", "three"])
      await before.writeWhole(`/run/.tmp/${name}`, new TextEncoder().encode(name));
    disk.movesLeft = moves;
    const renamed = before.rename("/run/.tmp", "/run/step-1").then(
      () => true,
      () => false,
    );
    expect(await renamed).toBe(moves === 3);
    // The next visit sees what the disk holds.
    disk.movesLeft = Number.POSITIVE_INFINITY;
    const after = new Tree();
    after.mount("/run", await readDiskFolder(disk.root));
    await after.finishRenames("/run");
    expect([...after.folder("/run").children.keys()]).toEqual(["step-1"]);
    expect([...after.folder("/run/step-1").children.keys()].sort()).toEqual(["one", "three", "two"]);
    const again = await readDiskFolder(disk.root);
    expect([...again.children.keys()]).toEqual(["step-1"]);
  }
});

it("reads what lies in memory at once, and a user's file without writing to it", async () => {
  await tree.writeWhole("/w-file", new TextEncoder().encode("abcdef"));
  expect(readFileSync("/w-file", "utf8")).toBe("abcdef");
  const into = new Uint8Array(2);
  expect(readSync(openSync("/w-file"), into, 0, 2, 3)).toBe(2);
  expect(text(into)).toBe("de");
  tree.mount("/given", { kind: "file", body: new BlobBody(new Blob(["model"]), "given"), changedMs: 0 });
  expect(text(await files.readFile("/given"))).toBe("model");
  expect(await code(files.open("/given", "r+"))).toBe("EROFS");
});

it("opens a file of OPFS for writing as often as this worker likes, and not while another tab writes", async () => {
  const disk = fakeDisk();
  tree.mount("/shared", await readDiskFolder(disk.root));
  const one = await files.open("/shared/log", "w");
  const two = await files.open("/shared/log", "r+");
  await two.close();
  await one.write(new TextEncoder().encode("line"));
  const other = new Tree();
  other.mount("/shared", await readDiskFolder(disk.root));
  expect(await code(other.writeWhole("/shared/log", new Uint8Array(1)))).toBe("EBUSY");
  await one.close();
  expect(await code(other.writeWhole("/shared/log", new Uint8Array(1)))).toBe("no failure");
});
