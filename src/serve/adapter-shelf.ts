// Which models a client may name: the base, and adapters by name, some of them loaded or dropped while the server runs.
// A client gives names only; the folder of a new adapter is looked up inside the operator's own. Files are read by a
// preparing thread, numbers taken by the engine's.

import { readdir, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import { UserError } from "../util/errors.ts";
import type { EngineThread } from "./engine-thread.ts";
import type { Preparers } from "./preparers.ts";
import { RequestError, withoutFolders } from "./request-error.ts";
import { unknownModel } from "./unknown-model.ts";

const plainName = /^[A-Za-z0-9][\w.-]{0,127}$/;

export interface Shelf {
  readonly engine: EngineThread;
  readonly preparers: Preparers;
  /** What the base is called. */
  readonly base: string;
  /** Folder whose subfolders clients may load. */
  readonly folder?: string;
  /** For the operator: what an adapter brought along. */
  readonly onNote: (note: string) => void;
}

export class AdapterShelf {
  private readonly loaded = new Set<string>();
  private readonly created = Math.floor(Date.now() / 1000);
  /** Loads and drops of a name happen in the order in which they were asked for. */
  private readonly changing = new Map<string, Promise<unknown>>();

  constructor(private readonly shelf: Shelf) {}

  get names(): readonly string[] {
    return [...this.loaded];
  }

  models() {
    const entry = (id: string, parent?: string) => ({
      id,
      object: "model",
      created: this.created,
      owned_by: "lowrank",
      ...(parent === undefined ? {} : { parent }),
    });
    return [entry(this.shelf.base), ...this.names.map((name) => entry(name, this.shelf.base))];
  }

  unknown(model: string): RequestError {
    return unknownModel(model, [this.shelf.base, ...this.names]);
  }

  /** Loads an adapter of the operator's. UserError says what is wrong with it. */
  async add(name: string, path: string): Promise<void> {
    const { engine, preparers, onNote } = this.shelf;
    await this.inTurn(name, async () => {
      const read = await preparers.readAdapter(path, engine.facts.base);
      await engine.loadAdapter(name, read);
      preparers.learn(name, path);
      this.loaded.add(name);
      for (const note of read.notes) onNote(`${name}: ${note}`);
    });
  }

  /** {"lora_name", "lora_path"?}: the path is the name of a folder in the operator's folder, the adapter's name by default. */
  async load(json: unknown): Promise<string> {
    const name = nameIn(json, "lora_name");
    const { folder, base } = this.shelf;
    if (folder === undefined)
      throw new RequestError("this server was started without --adapter-folder, so it loads none", null, 403);
    if (name === base) throw new RequestError(`"${name}" is the base model's name`, "lora_name", 409);
    const folderName = hasKey(json, "lora_path") ? nameIn(json, "lora_path") : name;
    const names = await readdir(folder);
    if (!names.includes(folderName))
      throw new RequestError(`there is no adapter folder "${folderName}"`, "lora_path", 404);
    const [inside, path] = [await realpath(folder), await realpath(join(folder, folderName))];
    if (!path.startsWith(inside + sep))
      throw new RequestError(`"${folderName}" leads out of the adapter folder`, "lora_path", 403);
    try {
      await this.add(name, path);
    } catch (error) {
      if (!(error instanceof UserError) || error instanceof RequestError) throw error;
      throw new RequestError(withoutFolders(error.message.replaceAll(inside + sep, "")), "lora_path");
    }
    return `${name} is loaded`;
  }

  async drop(json: unknown): Promise<string> {
    const name = nameIn(json, "lora_name");
    await this.inTurn(name, async () => {
      if (!this.loaded.delete(name))
        throw new RequestError(`there is no adapter "${name}"`, "lora_name", 404);
      this.shelf.preparers.forget(name);
      await this.shelf.engine.dropAdapter(name);
    });
    return `${name} is dropped`;
  }

  private inTurn(name: string, act: () => Promise<void>): Promise<void> {
    const before = this.changing.get(name) ?? Promise.resolve();
    const acting = before.then(act, act);
    const settled = acting
      .catch(() => {})
      .then(() => {
        if (this.changing.get(name) === settled) this.changing.delete(name);
      });
    this.changing.set(name, settled);
    return acting;
  }
}

function hasKey(json: unknown, key: string): boolean {
  return typeof json === "object" && json !== null && Object.hasOwn(json, key);
}

function nameIn(json: unknown, key: string): string {
  const value = hasKey(json, key) ? (json as Record<string, unknown>)[key] : undefined;
  if (typeof value === "string" && plainName.test(value)) return value;
  throw new RequestError(
    `${key}: expected a plain name of letters, digits, dots, dashes and underscores`,
    key,
  );
}
