// A model of random weights from a config.json, as a folder and as a GGUF file of the same weights: what benchmarks beside
// llama.cpp run on. Tokens are numbers there; the file's tokenizer only counts them.

import { execFileSync } from "node:child_process";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const built = (path) => import(pathToFileURL(join(root, "dist", path)).href);

/** The folder of random weights for a config.json, made where it is not there yet. */
export function randomFolder(config, folder) {
  if (!existsSync(join(folder, "config.json")))
    execFileSync(process.execPath, [join(root, "tools/make-random-model.mjs"), config, folder], {
      stdio: "inherit",
    });
  return folder;
}

/** The folder's weights in a GGUF file of this type, made where it is not there yet. */
export async function randomGguf(folder, out, type) {
  if (existsSync(out)) return out;
  const { openModelFolder } = await built("formats/model-folder.js");
  const { writeGguf } = await built("formats/gguf-writer.js");
  const { readModelConfig } = await built("models/index.js");
  const { denseSource } = await built("models/dense-source.js");
  const { modelMetadata, modelTensors } = await built("publish/gguf-model.js");
  const opened = await openModelFolder(folder);
  const config = readModelConfig(opened.config);
  const metadata = modelMetadata(config, { name: "random", type });
  const tokens = Array.from({ length: config.vocabularySize }, (_, i) =>
    i < 256 ? `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>` : `t${i}`,
  );
  metadata.set("tokenizer.ggml.model", { type: "string", value: "llama" });
  metadata.set("tokenizer.ggml.pre", { type: "string", value: "default" });
  metadata.set("tokenizer.ggml.tokens", { type: "array", of: "string", value: tokens });
  metadata.set("tokenizer.ggml.scores", { type: "array", of: "f32", value: tokens.map(() => 0) });
  metadata.set("tokenizer.ggml.token_type", {
    type: "array",
    of: "i32",
    value: tokens.map((_, i) => (i < 256 ? 6 : 1)),
  });
  await writeGguf(`${out}.part`, metadata, modelTensors(config, denseSource(opened, config), type));
  await opened.close();
  renameSync(`${out}.part`, out);
  return out;
}
