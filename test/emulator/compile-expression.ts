// Expressions of WGSL as JavaScript. Types are found on the way, because WGSL's arithmetic goes by them. A value in memory
// (workgroup, storage, uniform) is read from bytes with bounds; matrices of subgroups are held by a subgroup's first lane.

import {
  type Expression,
  type FunctionText,
  type ModuleText,
  parseWgsl,
  type TypeName,
} from "./parse-wgsl.ts";
import { arithmetic, type Coded, convert, converted, joined } from "./wgsl-arithmetic.ts";
import {
  isScalar,
  offsetOf,
  type Scalar,
  same,
  scalar,
  sizeOf,
  strideOf,
  type Type,
  zeroOf,
} from "./wgsl-types.ts";

const suffixes: Record<string, Scalar> = { f: "f32", h: "f16", u: "u32", i: "i32" };

/** Names, types and expressions of a module; statements are in compile-wgsl.ts. */
export class ExpressionCompiler {
  protected readonly module: ModuleText;
  protected readonly constants = new Map<string, { type: Type; value: number }>();
  protected readonly globals = new Map<string, Type>();
  protected readonly functions: Map<string, FunctionText>;
  protected readonly stopping = new Set<string>();
  protected scopes: Map<string, Type>[] = [];
  protected result: Type | undefined;

  constructor(text: string) {
    this.module = parseWgsl(text);
    this.functions = new Map(this.module.functions.map((each) => [each.name, each]));
    for (const { name, value } of this.module.constants) {
      const coded = this.expression(value!);
      const known = [...this.constants].map(([key, one]) => `const _${key} = ${one.value};`).join("");
      const H = {
        div: (a: number, b: number) => Math.trunc(a / b),
        rem: (a: number, b: number) => a % b,
        select: (a: unknown, b: unknown, c: boolean) => (c ? b : a),
        fr: Math.fround,
        map2: (f: (a: number, b: number) => number, a: number, b: number) => f(a, b),
      };
      this.constants.set(name, {
        type: coded.type,
        value: Function("H", `${known} return ${coded.code};`)(H) as number,
      });
    }
    for (const variable of this.module.variables) this.globals.set(variable.name, this.type(variable.type!));
    const holdsBarrier = (text: string) => /"name":"(workgroupBarrier|storageBarrier)"/.test(text);
    let grew = true;
    while (grew) {
      grew = false;
      for (const { name, body } of this.module.functions) {
        const text = JSON.stringify(body);
        const stops =
          holdsBarrier(text) || [...this.stopping].some((other) => text.includes(`"name":"${other}"`));
        if (stops && !this.stopping.has(name)) grew = !!this.stopping.add(name);
      }
    }
  }

  protected number(given: TypeName | Expression): number {
    const expression: Expression = "is" in given ? given : { is: "name", name: given.name, line: 0 };
    const known = [...this.constants].map(([key, one]) => `const _${key} = ${one.value};`).join("");
    const H = { div: (a: number, b: number) => Math.trunc(a / b), rem: (a: number, b: number) => a % b };
    return Function("H", `${known} return ${this.expression(expression).code};`)(H) as number;
  }

  protected type(text: TypeName): Type {
    const { name, given } = text;
    const alias = this.module.aliases.get(name);
    if (alias) return this.type(alias);
    if (["f32", "f16", "u32", "i32", "bool"].includes(name)) return scalar(name as Scalar);
    const vector = /^vec([234])([fuih]?)$/.exec(name);
    if (vector) {
      const of = vector[2] ? scalar(suffixes[vector[2]]!) : this.type(given[0] as TypeName);
      return { is: "vec", of, count: Number(vector[1]) };
    }
    if (name === "array") {
      const of = this.type(given[0] as TypeName);
      return given.length > 1 ? { is: "array", of, count: this.number(given[1]!) } : { is: "array", of };
    }
    if (name === "atomic") return { is: "atomic", of: this.type(given[0] as TypeName) };
    if (name.startsWith("subgroup_matrix_")) {
      const [of, columns, rows] = [
        this.type(given[0] as TypeName),
        this.number(given[1]!),
        this.number(given[2]!),
      ];
      return { is: "matrix", of, columns, rows };
    }
    const members = this.module.structs.get(name);
    if (members)
      return { is: "struct", name, members: members.map((m) => ({ name: m.name, type: this.type(m.type) })) };
    throw new Error(`no type ${name}`);
  }

  private isType(name: string): boolean {
    return (
      this.module.aliases.has(name) ||
      this.module.structs.has(name) ||
      /^(f32|f16|u32|i32|bool|array|vec[234][fuih]?)$/.test(name)
    );
  }

  /** A variable that every invocation has of its own: no bytes, but a property of the state. */
  private isPrivate(name: string): boolean {
    return this.module.variables.some((each) => each.name === name && each.space === "private");
  }

  private local(name: string): Type | undefined {
    for (let i = this.scopes.length - 1; i >= 0; i--) {
      const type = this.scopes[i]!.get(name);
      if (type) return type;
    }
    return undefined;
  }

  /** The value in memory of this type. */
  private inMemory(bytes: string, at: string, type: Type): Coded {
    const letters: Partial<Record<string, string>> = { f32: "f", u32: "u", i32: "i", f16: "h" };
    let code = "undefined";
    if (type.is === "vec") {
      const size = sizeOf(type.of);
      const parts = Array.from(
        { length: type.count },
        (_, i) => `H.l${letters[type.of.is]}(${bytes}, $a + ${i * size})`,
      );
      code = `(($a) => [${parts.join()}])(${at})`;
    } else if (type.is === "struct") {
      const parts = type.members.map(
        (m) => `${m.name}: ${this.inMemory(bytes, `(${at}) + ${offsetOf(type, m.name)}`, m.type).code}`,
      );
      code = `({ ${parts.join()} })`;
    } else if (letters[type.is]) code = `H.l${letters[type.is]}(${bytes}, ${at})`;
    return { code, type, bytes, at, fresh: true };
  }

  protected expression(e: Expression): Coded {
    try {
      return this.coded(e);
    } catch (error) {
      throw new Error(`line ${e.line}: ${error instanceof Error ? error.message : error}`, { cause: error });
    }
  }

  private coded(e: Expression): Coded {
    switch (e.is) {
      case "number": {
        const hex = e.text.startsWith("0x");
        const suffix = /[iu]$/.test(e.text) || (!hex && /[fh]$/.test(e.text)) ? e.text.at(-1)! : "";
        const digits = suffix ? e.text.slice(0, -1) : e.text;
        const type = suffix ? suffixes[suffix]! : !hex && /[.eE]/.test(digits) ? "float" : "int";
        return { code: `${Number(digits)}`, type: scalar(type) };
      }
      case "name":
        return this.named(e.name);
      case "unary":
        return this.unary(e.op, e.of);
      case "binary":
        return this.binary(e.op, this.expression(e.left), this.expression(e.right));
      case "index":
        return this.indexed(this.expression(e.of), this.expression(e.at).code);
      case "member": {
        const of = this.expression(e.of);
        if (of.type.is === "struct") {
          const member = of.type.members.find(({ name }) => name === e.name);
          if (!member) throw new Error(`no member ${e.name}`);
          if (of.bytes)
            return this.inMemory(of.bytes, `(${of.at}) + ${offsetOf(of.type, e.name)}`, member.type);
          return { code: `${of.code}.${e.name}`, type: member.type };
        }
        if (of.type.is !== "vec") throw new Error(`.${e.name} of ${of.type.is}`);
        const places = [...e.name].map((letter) => "xyzwrgba".indexOf(letter) % 4);
        if (places.length === 1) return this.indexed(of, `${places[0]}`);
        const type: Type = { is: "vec", of: of.type.of, count: places.length };
        return { code: `(($v) => [${places.map((i) => `$v[${i}]`).join()}])(${of.code})`, type, fresh: true };
      }
      case "call":
        return this.call(e.to, e.given);
    }
  }

  private named(name: string): Coded {
    const local = this.local(name);
    if (local) return { code: `_${name}`, type: local };
    const constant = this.constants.get(name);
    if (constant) return { code: `_${name}`, type: constant.type };
    if (name === "true" || name === "false") return { code: name, type: scalar("bool") };
    const global = this.globals.get(name);
    if (global && this.isPrivate(name)) return { code: `$.own.${name}`, type: global };
    if (global) return this.inMemory(`_${name}`, "0", global);
    throw new Error(`no ${name}`);
  }

  private indexed(of: Coded, at: string): Coded {
    const { type } = of;
    if (type.is === "array") {
      if (of.bytes) return this.inMemory(of.bytes, `(${of.at}) + ${strideOf(type)} * (${at})`, type.of);
      return { code: `${of.code}[${at}]`, type: type.of };
    }
    if (type.is !== "vec") throw new Error(`an index into ${type.is}`);
    if (of.bytes) return this.inMemory(of.bytes, `(${of.at}) + ${sizeOf(type.of)} * (${at})`, type.of);
    return { code: `${of.code}[${at}]`, type: type.of };
  }

  private unary(op: string, of: Expression): Coded {
    const value = this.expression(of);
    if (op === "&") return value;
    if (op === "!") return { code: `!(${value.code})`, type: value.type };
    const element = value.type.is === "vec" ? value.type.of : value.type;
    const text =
      element.is === "u32" ? `((${op}$x) >>> 0)` : element.is === "i32" ? `((${op}$x) | 0)` : `(${op}$x)`;
    if (value.type.is === "vec")
      return { code: `H.map1(($x) => ${text}, ${value.code})`, type: value.type, fresh: true };
    return { code: text.replace("$x", () => `(${value.code})`), type: value.type };
  }

  protected binary(op: string, a: Coded, b: Coded): Coded {
    const [x, y] = [a.type.is === "vec" ? a.type.of : a.type, b.type.is === "vec" ? b.type.of : b.type];
    const shift = op === "<<" || op === ">>";
    const element = shift ? x : joined(x, y);
    const compares = ["==", "!=", "<", ">", "<=", ">=", "&&", "||"].includes(op);
    const code = arithmetic(op, element.is as Scalar);
    const result = compares ? scalar("bool") : element;
    const vector = a.type.is === "vec" ? a.type : b.type.is === "vec" ? b.type : undefined;
    if (!vector)
      return {
        code: code.replace(/\$[xy]/g, (which) => `(${which === "$x" ? a.code : b.code})`),
        type: result,
      };
    return {
      code: `H.map2(($x, $y) => ${code}, ${a.code}, ${b.code})`,
      type: { ...vector, of: result },
      fresh: true,
    };
  }

  private call(to: TypeName, given: readonly Expression[]): Coded {
    const { name } = to;
    if (this.isType(name))
      return this.construct(
        this.typeFor(to, given),
        given.map((each) => this.expression(each)),
      );
    const declared = this.functions.get(name);
    if (declared) {
      const parts = given.map((each, i) =>
        this.kept(this.expression(each), this.type(declared.parameters[i]!.type)),
      );
      const type: Type = declared.result ? this.type(declared.result) : { is: "nothing" };
      return {
        code: `${this.stopping.has(name) ? "yield* " : ""}_${name}(${parts.join()})`,
        type,
        fresh: true,
      };
    }
    if (name === "bitcast")
      return this.bitcast(this.type(to.given[0] as TypeName), this.expression(given[0]!));
    const values = given.map((each) => this.expression(each));
    if (name.startsWith("subgroupMatrix")) return this.matrixCall(to, values);
    if (name.startsWith("atomic")) return this.atomic(name, values);
    return this.builtin(name, values);
  }

  /** vec4(x) takes its element's type from what it is given. */
  private typeFor(to: TypeName, given: readonly Expression[]): Type {
    if (/^vec[234]$/.test(to.name) && to.given.length === 0) {
      const type = this.expression(given[0]!).type;
      return { is: "vec", of: type.is === "vec" ? type.of : type, count: Number(to.name[3]) };
    }
    return this.type(to);
  }

  private construct(type: Type, given: readonly Coded[]): Coded {
    if (given.length === 0) return { code: zeroOf(type), type, fresh: true };
    if (isScalar(type)) return { code: converted(given[0]!, type.is), type };
    if (type.is === "vec") {
      const parts = given.map((each) => {
        if (each.type.is === "vec")
          return `...H.map1(($x) => ${convert("$x", each.type.of, type.of)}, ${each.code})`;
        return convert(each.code, each.type, type.of);
      });
      if (given.length === 1 && given[0]!.type.is !== "vec")
        return { code: `Array(${type.count}).fill(${parts[0]})`, type, fresh: true };
      return { code: `[${parts.join()}]`, type, fresh: true };
    }
    if (type.is === "array")
      return { code: `[${given.map((each) => this.kept(each, type.of)).join()}]`, type, fresh: true };
    if (type.is === "struct") {
      const parts = type.members.map((member, i) => `${member.name}: ${this.kept(given[i]!, member.type)}`);
      return { code: `({ ${parts.join()} })`, type, fresh: true };
    }
    if (type.is === "matrix")
      return { code: `($.leads ? H.filled(${type.rows}, ${type.columns}, ${given[0]!.code}) : null)`, type };
    throw new Error(`no constructor of ${type.is}`);
  }

  private bitcast(type: Type, value: Coded): Coded {
    const from = value.type.is === "vec" ? value.type.of : value.type;
    const to = type.is === "vec" ? type.of : type;
    if (type.is === "vec" && value.type.is === "vec")
      return {
        code: `H.map1(($x) => H.bits($x, "${from.is}", "${to.is}"), ${value.code})`,
        type,
        fresh: true,
      };
    if (type.is === "vec" && to.is === "f16") return { code: `H.unpack(${value.code})`, type, fresh: true };
    return { code: `H.bits(${value.code}, "${from.is}", "${to.is}")`, type };
  }

  private matrixCall(to: TypeName, values: readonly Coded[]): Coded {
    const [first, second, third, last] = values;
    if (to.name === "subgroupMatrixMultiplyAccumulate") {
      return {
        code: `($.leads ? H.multiply(${first!.code}, ${second!.code}, ${third!.code}) : null)`,
        type: third!.type,
      };
    }
    const array = first!.type;
    if (array.is !== "array" || !first!.bytes) throw new Error("a matrix from no array in memory");
    const size = strideOf(array);
    const at = `(${first!.at}) + ${size} * (${second!.code})`;
    if (to.name === "subgroupMatrixStore") {
      return {
        code: `($.leads && H.store(${first!.bytes}, ${at}, ${third!.code}, ${size} * (${last!.code})))`,
        type: { is: "nothing" },
      };
    }
    const type = this.type(to.given[0] as TypeName) as Type & { readonly is: "matrix" };
    const byColumn = (to.given[1] as TypeName).name === "col_major";
    const shape = `${type.of.is === "f16"}, ${type.rows}, ${type.columns}, ${byColumn}`;
    return {
      code: `($.leads ? H.load(${first!.bytes}, ${at}, ${size} * (${third!.code}), ${shape}) : null)`,
      type,
    };
  }

  private atomic(name: string, [target, value]: readonly Coded[]): Coded {
    const { bytes, at, type } = target!;
    if (!bytes || type.is !== "atomic") throw new Error(`${name} of ${type.is}`);
    const letter = type.of.is === "u32" ? "u" : "i";
    if (name === "atomicLoad") return { code: `H.l${letter}(${bytes}, ${at})`, type: type.of };
    const next = {
      atomicStore: "$y",
      atomicMax: "Math.max($x, $y)",
      atomicAdd: `(($x + $y) ${letter === "u" ? ">>> 0" : "| 0"})`,
    }[name];
    if (!next) throw new Error(`no ${name}`);
    return {
      code: `(($a, $y) => { const $x = H.l${letter}(${bytes}, $a); H.s${letter}(${bytes}, $a, ${next}); return $x; })(${at}, ${value!.code})`,
      type: type.of,
    };
  }

  private builtin(name: string, values: readonly Coded[]): Coded {
    const [a, b, c] = values;
    const type = values
      .map((each) => each.type)
      .reduce(
        (one, other) =>
          one.is === "vec"
            ? one
            : other.is === "vec"
              ? other
              : isScalar(one) && isScalar(other) && name !== "select"
                ? joined(one, other)
                : one,
        a?.type ?? { is: "nothing" },
      );
    const element = type.is === "vec" ? type.of : type;
    const round =
      element.is === "f16" ? "H.h16" : element.is === "f32" || element.is === "float" ? "H.fr" : "";
    const one = (text: string): Coded => ({ code: `H.map1(($x) => ${text}, ${a!.code})`, type, fresh: true });
    const two = (text: string): Coded => ({
      code: `H.map2(($x, $y) => ${text}, ${a!.code}, ${b!.code})`,
      type,
      fresh: true,
    });
    switch (name) {
      case "workgroupBarrier":
      case "storageBarrier":
        return { code: "yield", type: { is: "nothing" } };
      case "min":
      case "max":
        return two(`Math.${name}($x, $y)`);
      case "clamp":
        return {
          code: `H.map2(Math.min, H.map2(Math.max, ${a!.code}, ${b!.code}), ${c!.code})`,
          type,
          fresh: true,
        };
      case "select":
        return {
          code: `H.select(${a!.code}, ${b!.code}, ${c!.code})`,
          type: isScalar(a!.type) && isScalar(b!.type) ? joined(a!.type, b!.type) : a!.type,
        };
      case "exp":
      case "log":
      case "sqrt":
      case "tanh":
        return one(`${round}(Math.${name}($x))`);
      case "abs":
      case "sign":
        return one(`Math.${name}($x)`);
      case "dot":
        return { code: `H.dot(${a!.code}, ${b!.code})`, type: element };
      case "pack2x16float":
        return { code: `H.pack(${a!.code})`, type: scalar("u32") };
      case "unpack2x16float":
        return {
          code: `H.unpack(${a!.code})`,
          type: { is: "vec", of: scalar("f32"), count: 2 },
          fresh: true,
        };
      case "countLeadingZeros":
        return one("Math.clz32($x)");
      case "firstLeadingBit":
        return one("H.firstBit($x)");
      default:
        throw new Error(`no function ${name}`);
    }
  }

  /** A value on its way into a variable of a type: its own copy. */
  protected kept(value: Coded, type: Type): string {
    if (isScalar(type)) return convert(value.code, value.type, type);
    if (type.is !== "matrix" && !same(type, value.type))
      throw new Error(`${JSON.stringify(value.type)} as ${JSON.stringify(type)}`);
    return value.fresh || type.is === "matrix" ? value.code : `H.copy(${value.code})`;
  }
}
