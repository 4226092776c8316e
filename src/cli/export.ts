// `lowrank export`: writes a GGUF file and says how to use it. The export itself is publish/export-gguf.ts.

import { openBackend } from "../backend/index.ts";
import { exportDefinition } from "../config/export-options.ts";
import { locateModel } from "../formats/locate-model.ts";
import { exportGguf } from "../publish/export-gguf.ts";
import { defineCommand } from "./command.ts";
import { exitOnStop } from "./signals.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(exportDefinition, async (options, terminal) => {
  exitOnStop();
  const model = await locateModel(options.model);
  // The merge is computed in f32 whatever the arithmetic of the model.
  const backend = await openBackend(options.backend, { ...options, precision: "fp32" });
  try {
    const report = await exportGguf(backend, { ...options, model }, terminal.warn, terminal.note);
    if (terminal.json) {
      terminal.document(report);
      return exitCodes.done;
    }
    terminal.print(`${report.out}: ${report.kind}, ${report.tensors} tensors, ${report.type}`);
    const use =
      report.kind === "adapter"
        ? `llama-cli -m BASE.gguf --lora ${report.out}`
        : `llama-cli -m ${report.out}`;
    terminal.note(`use it with: ${use}`);
    if (report.modelfile !== undefined)
      terminal.note(`or with Ollama: ollama create NAME -f ${report.modelfile}`);
    return exitCodes.done;
  } finally {
    backend.close();
  }
});
