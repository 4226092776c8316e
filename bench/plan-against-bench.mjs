// Predicted against measured memory: ten cases across methods, shapes, lengths and checkpointing, each measured by
// `lowrank bench` in a process of its own, so that resident memory is that case's alone. Prints one line a case, and the
// constant that src/memory/process-memory.ts should hold. Run after `npm run build`: node bench/plan-against-bench.mjs

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { predictMemory } from "../dist/memory/predict-memory.js";
import { predictRss } from "../dist/memory/process-memory.js";
import { readModelConfig } from "../dist/models/index.js";

const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));

const shape = (width, layers, heads, kvHeads, mlp, vocabulary, tied) => ({
  model_type: "llama",
  vocab_size: vocabulary,
  hidden_size: width,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  intermediate_size: mlp,
  max_position_embeddings: 4096,
  tie_word_embeddings: tied,
});
const small = shape(256, 4, 8, 4, 704, 4096, true);
const middle = shape(576, 8, 9, 3, 1536, 16384, true);
const wide = shape(1024, 4, 16, 16, 2816, 8192, false);

const cases = [
  {
    name: "small lora",
    config: small,
    method: "lora",
    batchSize: 4,
    sequenceLength: 256,
    checkpointing: false,
  },
  {
    name: "small full",
    config: small,
    method: "full",
    batchSize: 4,
    sequenceLength: 256,
    checkpointing: false,
  },
  {
    name: "small qlora",
    config: small,
    method: "qlora",
    batchSize: 4,
    sequenceLength: 256,
    checkpointing: false,
  },
  {
    name: "small lora, long",
    config: small,
    method: "lora",
    batchSize: 1,
    sequenceLength: 2048,
    checkpointing: true,
  },
  {
    name: "middle lora",
    config: middle,
    method: "lora",
    batchSize: 2,
    sequenceLength: 256,
    checkpointing: false,
  },
  {
    name: "middle lora, recomputed",
    config: middle,
    method: "lora",
    batchSize: 4,
    sequenceLength: 256,
    checkpointing: true,
  },
  {
    name: "middle qlora",
    config: middle,
    method: "qlora",
    batchSize: 1,
    sequenceLength: 512,
    checkpointing: false,
  },
  {
    name: "middle full",
    config: middle,
    method: "full",
    batchSize: 1,
    sequenceLength: 256,
    checkpointing: true,
  },
  {
    name: "wide lora, fp32",
    config: wide,
    method: "lora",
    batchSize: 1,
    sequenceLength: 512,
    checkpointing: false,
    precision: "fp32",
  },
  {
    name: "wide qlora",
    config: wide,
    method: "qlora",
    batchSize: 2,
    sequenceLength: 256,
    checkpointing: true,
  },
];

const folder = mkdtempSync(join(tmpdir(), "lowrank-plan-"));
const megabytes = (bytes) => (bytes / 1e6).toFixed(1).padStart(8);
const besides = [];
let worst = { counted: 0, rss: 0 };
try {
  console.log("case                       counted, predicted        resident, predicted   (MB)");
  for (const one of cases) {
    const path = join(folder, "config.json");
    writeFileSync(path, JSON.stringify(one.config));
    const { precision = "bf16", optimizer = "adamw" } = one;
    const flags = {
      "--model": path,
      "--method": one.method,
      "--batch-size": one.batchSize,
      "--sequence-length": one.sequenceLength,
      "--gradient-checkpointing": one.checkpointing ? "on" : "off",
      "--precision": precision,
      "--steps": 2,
      "--warmup": 1,
    };
    const words = ["bench", ...Object.entries(flags).flat().map(String), "--json"];
    const output = execFileSync(process.execPath, [main, ...words], { stdio: ["ignore", "pipe", "ignore"] });
    const measured = JSON.parse(output.toString());
    const { ledger, packedBytes } = await predictMemory(readModelConfig(one.config), {
      method: one.method,
      rank: 8,
      targets: "all-linear",
      optimizer,
      precision,
      batchSize: one.batchSize,
      sequenceLength: one.sequenceLength,
      checkpointing: one.checkpointing,
    });
    const rss = predictRss(ledger.peakBytes, packedBytes);
    besides.push(measured.peakRssBytes - measured.peakBytes - packedBytes);
    worst = {
      counted: Math.max(worst.counted, Math.abs(ledger.peakBytes / measured.peakBytes - 1)),
      rss: Math.max(worst.rss, Math.abs(rss / measured.peakRssBytes - 1)),
    };
    console.log(
      `${one.name.padEnd(24)} ${megabytes(measured.peakBytes)} ${megabytes(ledger.peakBytes)}   ${megabytes(measured.peakRssBytes)} ${megabytes(rss)}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true });
}
const sorted = besides.toSorted((a, b) => a - b);
console.log(
  `largest difference: ${(100 * worst.counted).toFixed(2)}% of counted bytes, ${(100 * worst.rss).toFixed(1)}% of resident ones`,
);
console.log(
  `resident memory beside the ledger and packed operands: ${sorted.map((bytes) => (bytes / 1e6).toFixed(0)).join(", ")} MB`,
);
