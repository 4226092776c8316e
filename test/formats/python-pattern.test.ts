// Python's patterns over module paths: what both engines answer, against answers of Python's re. PEFT's whole use of
// them is held to a golden in peft.test.ts.

import { describe, expect, it } from "vitest";
import { compilePythonPattern } from "../../src/formats/python-pattern.ts";
import { UserError } from "../../src/util/errors.ts";

const name = "model.layers.12.self_attn.q_proj";

describe("a Python pattern", () => {
  it.each<[string, boolean, boolean]>([
    // pattern, re.fullmatch, re.match
    [".*\\.q_proj", true, true],
    [".*q_pro", false, true],
    ["q_proj", false, false],
    ["model\\.layers\\.\\d{,2}\\.self_attn\\.(?:q|k)_proj", true, true],
    ["model\\.layers\\.\\d{,1}\\.self_attn\\.(?:q|k)_proj", false, false],
    ["(?i)MODEL\\..*Q_PROJ", true, true],
    ["\\Amodel.*\\Z", true, true],
    ["(?P<kind>model).*", true, true],
    ["(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\\bmodel\\.norm)", true, true],
    // Only a backtracking engine knows these.
    ["^(?!.*visual).*(?:q_proj|v_proj)", true, true],
    ["^(?!.*self_attn).*(?:q_proj|v_proj)", false, false],
    [".*(?<=_attn)\\.q_proj", true, true],
    ["(?P<letter>m)odel\\.layers\\.12\\.self_attn\\.q_proj(?P=letter)?", true, true],
    // A class of single characters, not RE2's class of letters; a set of ":", "a", "l", "p", "h" and "[" with "]" after it.
    ["model[[:alpha:]].*", false, false],
  ])("%s", (pattern, full, start) => {
    expect(compilePythonPattern(pattern, "targets", "full").test(name)).toBe(full);
    expect(compilePythonPattern(pattern, "targets", "start").test(name)).toBe(start);
  });

  it("tells what a group holds", () => {
    for (const source of ["(?:.*?\\.)(?P<index>\\d+)\\.", "(?=model)(?:.*?\\.)(?P<index>\\d+)\\."])
      expect(compilePythonPattern(source, "layers", "start").group(name, "index")).toBe("12");
    expect(compilePythonPattern("(?P<index>x)", "layers", "start").group(name, "index")).toBeUndefined();
  });

  it.each(["(", "a{2,1}", "(?x)a b", "a(?i)b", "(?#note)a", "a".repeat(10_001)])(
    "refuses %.20s",
    (source) => {
      expect(() => compilePythonPattern(source, "targets", "full")).toThrow(UserError);
    },
  );
});
