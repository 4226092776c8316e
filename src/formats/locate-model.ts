// From what a user calls a model to a folder on this disk: a path, or "tiny" for the base that comes with lowrank.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { UserError } from "../util/errors.ts";

const tinyBase = new URL("../../models/tiny-base", import.meta.url);

/** The folder of a model. UserError when there is none. */
export function locateModel(name: string): string {
  if (name === "tiny" && !existsSync("tiny")) {
    const folder = fileURLToPath(tinyBase);
    if (existsSync(folder)) return folder;
    throw new UserError(
      "the embedded base models/tiny-base is missing from this installation; reinstall lowrank",
    );
  }
  if (existsSync(name)) return name;
  throw new UserError(
    `model "${name}": no such folder. Give a folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json), or "tiny" for the embedded base`,
  );
}
