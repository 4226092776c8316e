// WGSL kernels as JavaScript: every invocation is a generator that stops at barriers. Functions that hold a barrier are
// generators too. Expressions and types: compile-expression.ts.

import { ExpressionCompiler } from "./compile-expression.ts";
import type { FunctionText, Statement } from "./parse-wgsl.ts";
import { type Coded, concrete } from "./wgsl-arithmetic.ts";
import { sizeOf, type Type, zeroOf } from "./wgsl-types.ts";

export interface CompiledKernel {
  /** (runtime, bytes by variable) to the functions of one workgroup. */
  readonly source: string;
  readonly workgroupSize: readonly [number, number, number];
  readonly builtins: readonly string[];
  /** An object of an invocation's own variables, as they begin. */
  readonly own: string;
  /** Bytes of each variable of a workgroup. */
  readonly shared: ReadonlyMap<string, number>;
  /** Names of bound variables, by binding. */
  readonly bound: ReadonlyMap<number, string>;
}

class Compiler extends ExpressionCompiler {
  private declare(name: string, type: Type): void {
    this.scopes.at(-1)!.set(name, type);
  }

  private block(statements: readonly Statement[]): string {
    this.scopes.push(new Map());
    const text = statements.map((statement) => this.statement(statement)).join("\n");
    this.scopes.pop();
    return `{\n${text}\n}`;
  }

  private statement(s: Statement): string {
    switch (s.is) {
      case "let":
      case "var": {
        const value = s.value && this.expression(s.value);
        const type = s.type ? this.type(s.type) : concrete(value!.type);
        const text = `let _${s.name} = ${value ? this.kept(value, type) : zeroOf(type)};`;
        this.declare(s.name, type);
        return text;
      }
      case "assign":
        return `${this.assign(s)};`;
      case "call":
        return `${this.expression(s.call).code};`;
      case "if": {
        const when = this.expression(s.when).code;
        return `if (${when}) ${this.block(s.then)}${s.otherwise ? ` else ${this.block(s.otherwise)}` : ""}`;
      }
      case "for": {
        this.scopes.push(new Map());
        const first = s.first ? this.statement(s.first) : ";";
        const when = s.when ? this.expression(s.when).code : "";
        const next = s.next ? this.statement(s.next).replace(/;$/, "") : "";
        const text = `for (${first} ${when}; ${next}) ${this.block(s.body)}`;
        this.scopes.pop();
        return text;
      }
      case "return":
        return s.value ? `return ${this.kept(this.expression(s.value), this.result!)};` : "return;";
      default:
        return `${s.is};`;
    }
  }

  private assign({ op, to, value }: Statement & { readonly is: "assign" }): string {
    const target = this.expression(to);
    const given = this.expression(value);
    const next = op ? this.binary(op, { ...target, fresh: false }, given) : given;
    const text = this.kept(next, target.type);
    if (!target.bytes) return `${target.code} = ${text}`;
    return this.write(target, text);
  }

  private write({ bytes, at, type }: Coded, value: string): string {
    const letters: Partial<Record<string, string>> = { f32: "f", u32: "u", i32: "i", f16: "h" };
    if (type.is === "vec") {
      const size = sizeOf(type.of);
      const parts = Array.from(
        { length: type.count },
        (_, i) => `H.s${letters[type.of.is]}(${bytes}, $a + ${i * size}, $v[${i}])`,
      );
      return `(($a, $v) => { ${parts.join("; ")}; })(${at}, ${value})`;
    }
    if (!letters[type.is]) throw new Error(`writing a ${type.is} whole`);
    return `H.s${letters[type.is]}(${bytes}, ${at}, ${value})`;
  }

  private functionText({ name, parameters, result, body }: FunctionText): string {
    this.scopes = [new Map()];
    this.result = result && this.type(result);
    for (const parameter of parameters) this.declare(parameter.name, this.type(parameter.type));
    const text = this.block(body);
    return `function${this.stopping.has(name) || name === "main" ? "*" : ""} _${name}(${parameters.map((one) => `_${one.name}`).join()}) ${text}`;
  }

  compile(): CompiledKernel {
    const main = this.functions.get("main")!;
    const constants = [...this.constants].map(([name, { value }]) => `const _${name} = ${value};`);
    const functions = this.module.functions.map((each) => this.functionText(each));
    const privates = this.module.variables.filter(({ space }) => space === "private");
    const names = this.module.variables
      .filter((each) => !privates.includes(each))
      .map(({ name }) => `_${name} = V.${name}`);
    const sizes = [0, 1, 2].map((i) => (main.workgroupSize![i] ? this.number(main.workgroupSize![i]!) : 1));
    const shared = this.module.variables.filter(({ space }) => space === "workgroup");
    return {
      source: `${constants.join("\n")}\nconst ${[...names, "$ = S"].join(", ")};\n${functions.join("\n")}\nreturn _main;`,
      workgroupSize: sizes as [number, number, number],
      own: `{ ${privates.map(({ name }) => `${name}: ${zeroOf(this.globals.get(name)!)}`).join(", ")} }`,
      builtins: main.parameters.map(({ builtin }) => builtin!),
      shared: new Map(shared.map(({ name }) => [name, sizeOf(this.globals.get(name)!)])),
      bound: new Map(
        this.module.variables.flatMap(({ name, binding }) =>
          binding === undefined ? [] : [[binding, name] as const],
        ),
      ),
    };
  }
}

export function compileWgsl(text: string): CompiledKernel {
  return new Compiler(text).compile();
}
