// Errors that speak of the folder made of a GGUF file reach the user under the name that was given.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { expect, it } from "vitest";
import { checkGgufDefinition } from "../../src/config/check-gguf-options.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { ggufPlace } from "../../src/formats/gguf-place.ts";
import { inGivenNames } from "../../src/library/fetch-options.ts";
import { BugError, UserError } from "../../src/util/errors.ts";

it("speaks of a GGUF file by the name that options give it", () => {
  const root = mkdtempSync(join(tmpdir(), "lowrank-names-"));
  try {
    const model = join(root, "m.gguf");
    writeFileSync(model, "GGUF");
    const { folder } = ggufPlace(model);
    const options = resolveOptions(checkGgufDefinition, { file: "a.gguf", model });
    const told = (error: Error) => (inGivenNames(checkGgufDefinition, options, error) as Error).message;
    expect(told(new UserError(`${folder}: too much`))).toBe(`${model}: too much`);
    expect(told(new UserError(`${basename(folder)}: too much`))).toBe(`${model}: too much`);
    expect(told(new UserError("other"))).toBe("other");
    expect(told(new BugError(folder))).toContain(folder);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
