// The type of each tensor of a mixed GGUF file, against what llama.cpp's own quantize chose for files of the same
// tensors (test/golden/gguf-mix.json, made by tools/golden/gguf_mix.py): six architectures, mixtures among them.

import { describe, expect, it } from "vitest";
import { type GgufFileType, mixedTypes } from "../../src/publish/gguf-mix.ts";
import { readGolden } from "../golden/load-golden.ts";

interface MixGolden {
  readonly models: readonly {
    readonly architecture: string;
    readonly layers: number;
    readonly experts: number;
    readonly tensors: Readonly<Record<string, readonly number[]>>;
    readonly types: Readonly<Record<string, readonly string[]>>;
  }[];
}

const cases = readGolden<MixGolden>("gguf-mix.json").models.flatMap((model) =>
  Object.entries(model.types).map(([file, types]) => ({
    ...model,
    file: file as GgufFileType,
    chosen: types,
  })),
);

describe("types of a mixed file", () => {
  it.each(cases)("$file of $architecture with $layers layers, $experts experts", (model) => {
    const { layers, experts, tensors, types, chosen, file } = model;
    const described = Object.entries(tensors).map(([name, shape], i) => ({
      name,
      shape,
      // Norms, routers and kernels of convolutions are f32 in every file.
      quantizable: types.q8_0![i] !== "f32",
    }));
    const found = mixedTypes(file, described, {
      ...{ layers, experts },
      sharesValues: false,
      hasImportance: false,
    });
    expect(found).toEqual(chosen);
  });

  it("gives values of eight heads more bits, and early down projections a minimum where importance weighs", () => {
    const tensors = Array.from({ length: 80 }, (_, i) =>
      ["attn_v", "ffn_down"].map((part) => ({
        ...{ name: `blk.${i}.${part}.weight`, shape: [256, 256], quantizable: true },
      })),
    ).flat();
    const about = { layers: 80, experts: 1, sharesValues: true, hasImportance: true };
    expect(mixedTypes("q4_k_m", tensors, about)[2 * 10]).toBe("q5_k");
    const [, down] = mixedTypes("q4_0", tensors, about);
    expect(down).toBe("q4_1");
    expect(mixedTypes("q4_0", tensors, { ...about, hasImportance: false })[1]).toBe("q4_0");
  });
});
