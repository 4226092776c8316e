// Fields and what is derived from them: kinds, merging, complaints, JSON Schema.

import { describe, expect, it } from "vitest";
import { benchDefinition } from "../../src/config/bench-options.ts";
import {
  choices,
  defineOptions,
  jsonSchemaOf,
  list,
  type OptionsDefinition,
  real,
  size,
  toggle,
  whole,
  wholes,
} from "../../src/config/define.ts";
import { evalDefinition } from "../../src/config/eval-options.ts";
import { generateDefinition } from "../../src/config/generate-options.ts";
import { flagName, resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { parseConfig } from "../../src/config/yaml.ts";
import { UsageError, UserError } from "../../src/util/errors.ts";

const definition = defineOptions({
  command: "probe",
  summary: "Probe.",
  groups: {
    A: {
      count: whole("a count", { min: 1, max: 9, default: 3 }),
      part: real("a part", { min: 0, max: 1, open: true }),
      memory: size("memory"),
    },
    B: {
      names: list("names"),
      kinds: choices(["x", "y"], "kinds", { default: ["x"] }),
      ranks: wholes("ranks"),
      double: toggle("double", true),
    },
  },
  alternatives: [["part", "memory"]],
});

describe("values", () => {
  it("come as text from flags and typed from YAML, with the same result", () => {
    const flags = { count: "5", names: ["a,b", "c"], kinds: ["y,x"], ranks: "4,8", double: false };
    const yaml = "count: 5\nnames: [a, b, c]\nkinds: [y, x]\nranks: [4, 8]\ndouble: false\n";
    const fromFlags = resolveOptions(definition, flags);
    expect(resolveOptions(definition, {}, parseConfig("c.yaml", yaml))).toEqual(fromFlags);
    expect(fromFlags).toMatchObject({ count: 5, names: ["a", "b", "c"], kinds: ["y", "x"], ranks: [4, 8] });
  });

  it.each([
    ["24GB", 24e9],
    ["1.5 GiB", 1.5 * 2 ** 30],
    ["512mb", 512e6],
    ["800000000", 8e8],
  ])("size %s", (given, bytes) => {
    expect(resolveOptions(definition, { memory: given }).memory).toBe(bytes);
  });

  it.each([
    [{ count: "0" }, /--count: expected a whole number from 1 to 9; got 0/],
    [{ count: "2.5" }, /whole number/],
    [{ count: "" }, /got ""/],
    [{ count: "Infinity" }, /got Infinity/],
    [{ part: "1" }, /a number above 0 and below 1/],
    [{ memory: "24 parsecs" }, /such as 24GB/],
    [{ kinds: ["x,x"] }, /none twice/],
    [{ kinds: ["z"] }, /a list of x, y/],
    [{ ranks: "4,none" }, /whole numbers/],
    [{ names: ["a,,b"] }, /list of texts/],
  ])("refuses %o", (flags, message) => {
    expect(() => resolveOptions(definition, flags)).toThrow(UsageError);
    expect(() => resolveOptions(definition, flags)).toThrow(message);
  });

  it("are frozen", () => {
    expect(Object.isFrozen(resolveOptions(definition, {}))).toBe(true);
  });
});

describe("merging", () => {
  const file = parseConfig("c.yaml", "# note\ncount: 7\npart: 0.5\n");

  it("lets flags win over YAML and YAML over defaults", () => {
    expect(resolveOptions(definition, {}, file)).toMatchObject({ count: 7, double: true, kinds: ["x"] });
    expect(resolveOptions(definition, { count: "2" }, file)).toMatchObject({ count: 2, part: 0.5 });
  });

  it("lets a flag displace its alternative in YAML, and refuses both from one source", () => {
    const displaced = resolveOptions(definition, { memory: "1GB" }, file);
    expect(displaced.part).toBeUndefined();
    expect(displaced.memory).toBe(1e9);
    expect(() => resolveOptions(definition, { memory: "1GB", part: "0.5" })).toThrow(
      "--part and --memory exclude each other",
    );
  });
});

describe("YAML", () => {
  it.each([
    ["colour: red\ncuont: 3", 'c.yaml line 1: unknown key "colour"'],
    ["count: 3\ncuont: 3", 'c.yaml line 2: unknown key "cuont" for lowrank probe. Did you mean "count"?'],
    ["count: 3\n\npart: half", 'c.yaml line 3: part: expected a number above 0 and below 1; got "half".'],
    ["count:", "c.yaml line 1: count: expected a whole number from 1 to 9; got nothing."],
    ["__proto__: 1", "unknown key"],
  ])("points at the line of %j", (yaml, message) => {
    expect(() => resolveOptions(definition, {}, parseConfig("c.yaml", yaml))).toThrow(message);
  });

  it.each([
    ["count: [1", /c\.yaml line 1: not valid YAML/],
    ["count: 1\ncount: 2", /c\.yaml line 2: not valid YAML/],
    ["- a\n- b", /option: value/],
    ["x".repeat(2 ** 20 + 1), /at most 1048576 bytes/],
    [
      `a: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefgh".replace(/./g, (c) => `${c}: &${c} [${`*${String.fromCharCode(c.charCodeAt(0) - 1)},`.repeat(9)}]\n`)}`,
      /not valid YAML: .*alias/i,
    ],
  ])("refuses hostile or broken text %#", (yaml, message) => {
    expect(() => parseConfig("c.yaml", yaml)).toThrow(UserError);
    expect(() => parseConfig("c.yaml", yaml)).toThrow(message);
  });

  it("takes an empty file as no options", () => {
    expect(resolveOptions(definition, {}, parseConfig("c.yaml", "# nothing yet\n")).count).toBe(3);
  });
});

const definitions: readonly OptionsDefinition<unknown>[] = [
  trainDefinition,
  evalDefinition,
  generateDefinition,
  benchDefinition,
];

describe.each(definitions.map((each) => [each.command, each] as const))("%s's definition", (_, each) => {
  it("has an object's JSON Schema that names every field and forbids others", () => {
    const schema = jsonSchemaOf(each) as { properties: Record<string, { description: string }> };
    expect(Object.keys(schema.properties)).toEqual(Object.keys(each.fields));
    expect(schema).toMatchObject({ type: "object", additionalProperties: false });
    for (const property of Object.values(schema.properties)) expect(property.description).not.toBe("");
  });

  it("names each key once over all groups, with a distinct flag", () => {
    const keys = Object.values(each.groups).flatMap((fields) => Object.keys(fields));
    expect(new Set(keys.map(flagName)).size).toBe(keys.length);
  });
});
