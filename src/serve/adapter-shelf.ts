// Which models a client may name: the base, and adapters by name, some of them loaded or dropped while the server runs.
// A client gives names only; the folder of a new adapter is looked up inside the operator's own.

import { readdir, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import type { EngineThread } from "./engine-thread.ts";
import { RequestError } from "./requests.ts";

const plainName = /^[A-Za-z0-9][\w.-]{0,127}$/;

export class AdapterShelf {
  private readonly loaded: Set<string>;
  private readonly created = Math.floor(Date.now() / 1000);

  constructor(
    private readonly engine: EngineThread,
    private readonly base: string,
    adapters: readonly string[],
    private readonly folder: string | undefined,
  ) {
    this.loaded = new Set(adapters);
  }

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
    return [entry(this.base), ...this.names.map((name) => entry(name, this.base))];
  }

  /** The adapter that a model's name stands for; undefined for the base. */
  find(model: string): string | undefined {
    if (model === this.base) return undefined;
    if (this.loaded.has(model)) return model;
    throw this.unknown(model);
  }

  unknown(model: string): RequestError {
    const shown = JSON.stringify(model.slice(0, 100));
    return new RequestError(
      `there is no model ${shown}; there are ${[this.base, ...this.names].join(", ")}`,
      "model",
      404,
      "model_not_found",
    );
  }

  /** {"lora_name", "lora_path"?}: the path is the name of a folder in the operator's folder, the adapter's name by default. */
  async load(json: unknown): Promise<string> {
    const name = nameIn(json, "lora_name");
    if (this.folder === undefined)
      throw new RequestError("this server was started without --adapter-folder, so it loads none", null, 403);
    if (name === this.base) throw new RequestError(`"${name}" is the base model's name`, "lora_name", 409);
    const folderName = hasKey(json, "lora_path") ? nameIn(json, "lora_path") : name;
    const names = await readdir(this.folder);
    if (!names.includes(folderName))
      throw new RequestError(`there is no adapter folder "${folderName}"`, "lora_path", 404);
    const [inside, path] = [await realpath(this.folder), await realpath(join(this.folder, folderName))];
    if (!path.startsWith(inside + sep))
      throw new RequestError(`"${folderName}" leads out of the adapter folder`, "lora_path", 403);
    await this.engine.loadAdapter(name, path);
    this.loaded.add(name);
    return `${name} is loaded`;
  }

  async drop(json: unknown): Promise<string> {
    const name = nameIn(json, "lora_name");
    if (!this.loaded.delete(name)) throw new RequestError(`there is no adapter "${name}"`, "lora_name", 404);
    await this.engine.dropAdapter(name);
    return `${name} is dropped`;
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
