// `lowrank export`: writes a GGUF file and says how to use it. The export itself is publish/export-gguf.ts.

import { exportDefinition } from "../config/export-options.ts";
import { exportWith } from "../library/publish.ts";
import { defineCommand } from "./command.ts";
import { receiptLines } from "./gguf-receipt-lines.ts";
import { exitOnStop } from "./signals.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(exportDefinition, async (options, terminal) => {
  exitOnStop();
  const report = await exportWith(options, { onNote: terminal.note, onWarning: terminal.warn });
  if (terminal.json) {
    terminal.document(report);
    return exitCodes.done;
  }
  terminal.print(`${report.out}: ${report.kind}, ${report.tensors} tensors, ${report.type}`);
  if (report.receipt) for (const line of receiptLines(report.receipt)) terminal.print(line);
  const use =
    report.kind === "adapter" ? `llama-cli -m BASE.gguf --lora ${report.out}` : `llama-cli -m ${report.out}`;
  terminal.note(`use it with: ${use}`);
  if (report.modelfile !== undefined)
    terminal.note(`or with Ollama: ollama create NAME -f ${report.modelfile}`);
  return exitCodes.done;
});
