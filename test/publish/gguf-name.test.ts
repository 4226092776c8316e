// A model's name in GGUF speaks of Phi-3 where its tokenizer does as Phi-3's, and nowhere else: llama.cpp goes by it. With
// node-llama-cpp (LOWRANK_LLAMA) a file of a folder with such a name is loaded by llama.cpp.

import { renameSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { ggufModelName } from "../../src/publish/gguf-name.ts";
import { openInLlama } from "../../src/publish/llama-cpp.ts";
import { llama } from "./llama.ts";
import { scratchFolder, writeTinyModel } from "./tiny-model.ts";

const token = (content: string, rstrip: boolean) => ({ content, special: true, rstrip });
const ofPhi3 = [
  ...["<unk>", "<s>", "<|endoftext|>"].map((each) => token(each, false)),
  ...["</s>", "<|user|>", "<|end|>"].map((each) => token(each, true)),
];

describe("a model's name in GGUF", () => {
  it("speaks of Phi-3 for a tokenizer whose special tokens swallow spaces as Phi-3's", () => {
    expect(ggufModelName("mine", { added_tokens: ofPhi3 })).toBe("mine (phi-3)");
    expect(ggufModelName("Phi-3-mini", { added_tokens: ofPhi3 })).toBe("Phi-3-mini");
  });

  it("does not for any other", () => {
    const none = ofPhi3.map(({ content }) => token(content, false));
    for (const added_tokens of [none, ofPhi3.slice(1), []]) {
      expect(ggufModelName("my-phi3 of PHI-3", { added_tokens })).toBe("my-phi 3 of phi 3");
      expect(ggufModelName("phi-4", { added_tokens })).toBe("phi-4");
    }
    expect(ggufModelName("phi3", {})).toBe("phi 3");
  });

  it("lets llama.cpp load a file of a folder that speaks of Phi-3", async () => {
    const root = scratchFolder();
    const backend = await openBackend("reference");
    writeTinyModel(join(root, "plain"));
    const model = join(root, "not-phi3");
    renameSync(join(root, "plain"), model);
    const out = join(root, "model.gguf");
    const options = { adapterOnly: false, modelfile: false, preTokenizer: "gpt-2" };
    await exportGguf(backend, { ...options, model, out, type: "f32" });
    backend.close();
    const file = await openGguf(await openFile(out));
    expect(file.metadata.get("general.name")?.value).toBe("not-phi 3");
    await file.close();
    if (!llama.present) return;
    const reader = await openInLlama(out, 8);
    expect(reader).toBeDefined();
    await reader!.close();
  });
});
