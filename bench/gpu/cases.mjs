// What of the tests goes to a machine without them: the case list of the backends' conformance suite and the stage it plays
// on. pack.mjs bundles this file into one; conform.mjs runs it.

export { kernelCases } from "../../test/conformance/cases/index.ts";
export { Stage } from "../../test/conformance/stage.ts";
export { toleranceOf, worstDifference } from "../../test/conformance/tolerance.ts";
