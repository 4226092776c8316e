// The contract and native/kernels.def agree, and every kind of drift between them is told by name.

import { describe, expect, it } from "vitest";
import { loadNativeAddon } from "../../../src/backend/cpu/addon.node.ts";
import { nativeSignatures } from "../../../src/backend/cpu/signature.ts";

const addon = loadNativeAddon();

/** The addon's lists with one kernel's arguments, or one type's text, changed. */
function changed(name: string, change: (text: string) => string): Parameters<typeof nativeSignatures>[0] {
  const apply = (list: readonly (readonly [string, string?])[]) =>
    list.map(([found, text]) => [found, found === name ? change(text!) : text] as const);
  return { kernels: apply(addon.kernels), types: apply(addon.types) as (readonly [string, string])[] };
}

describe("native/kernels.def and the contract", () => {
  it("agree, whatever the order", () => {
    const found = nativeSignatures(addon);
    expect(found.get("rope")!.list.map(({ name }) => name)).toContain("positions");
    const reversed = changed("rope", (text) => text.split(", ").reverse().join(", "));
    expect(nativeSignatures(reversed).get("rope")!.list[0]!.name).toBe("half");
  });

  it.each([
    ["rope", /positions/g, "places", "rope has the operand positions, which native/kernels.def lacks"],
    ["rope", /, int64_t heads/, "", "" /* a size that nobody asks for is no drift */],
    [
      "rope",
      /$/,
      ", int64_t rows",
      "rope has the argument rows in native/kernels.def, which the contract lacks",
    ],
    [
      "rope",
      /const int32_t\*/,
      "const float*",
      "rope takes positions as const float* in native/kernels.def, not",
    ],
    ["rope", /float\* y/, "const float* y", "rope takes y as const float* in native/kernels.def, not float*"],
    ["rope", /int64_t t\b/, "float t", "rope takes t as float in native/kernels.def, not int64_t"],
    ["cast", /, DType yType/, "", "cast has no yType beside y in native/kernels.def"],
    ["sum", /$/, ", float* out", "sum names an argument twice"],
    ["AdamwArgs", /beta1/, "beta", "adamw has the operand beta1, which native/kernels.def lacks"],
    ["Activation", /Silu, Gelu/, "Gelu, Silu", "Activation is Gelu, Silu, GeluTanh"],
    ["DType", /F32, /, "", "DType is BF16, F16"],
  ])("%s: %s -> %s", (name, from, to, message) => {
    const lists = changed(name, (text) => text.replace(from, to));
    if (message === "") expect(() => nativeSignatures(lists)).not.toThrow();
    else expect(() => nativeSignatures(lists)).toThrow(message);
  });

  it("name a kernel that only one side has", () => {
    const without = { ...addon, kernels: addon.kernels.filter(([name]) => name !== "rope") };
    expect(() => nativeSignatures(without)).toThrow("rope is in the contract and not in native/kernels.def");
    const more = { ...addon, kernels: [...addon.kernels, ["twist", "float* y"] as const] };
    expect(() => nativeSignatures(more)).toThrow("twist is in native/kernels.def and not in the contract");
  });
});
