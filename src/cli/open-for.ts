// Opens the model that a command's options name, tells what was taken of its text, and closes all of it afterwards.

import type { Backend } from "../backend/backend.ts";
import { openBackend } from "../backend/index.ts";
import { locateModel } from "../formats/locate-model.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import type { Terminal } from "./terminal.ts";

interface ModelOptions {
  readonly model: string;
  readonly adapter?: string;
  readonly chatTemplate?: string;
  readonly backend: string;
  readonly precision: "auto" | "fp32" | "bf16" | "fp16";
  readonly threads?: number;
  readonly isa?: string;
}

export async function withModel<T>(
  options: ModelOptions,
  terminal: Terminal,
  use: (model: OpenedModel, backend: Backend) => Promise<T>,
): Promise<T> {
  const { adapter, chatTemplate, precision, threads, isa } = options;
  using backend = await openBackend(options.backend, { precision, threads, isa });
  await using model = await openModel(backend, locateModel(options.model), {
    adapter,
    text: { chatTemplate },
    tell: terminal.warn,
  });
  for (const message of model.text.notes) terminal.note(message);
  return await use(model, backend);
}
