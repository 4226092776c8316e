// Values of rows and requests as the template engine has them, numbers and orders of keys intact, and the engine's answers
// to {{ x }}, tojson, arithmetic and comparison made Python's: the engine itself knows only JavaScript's numbers. How
// Python writes a value is in python-text.ts, what rows hold in exact-json.ts; who renders is chat-template.ts.

import { Environment, type Interpreter, type parse } from "@huggingface/jinja";
import { BoundedInterpreter, templateBounds, withinBounds } from "./bounded-template.ts";
import { KeyedDict } from "./keyed-dict.ts";
import { arithmetic, equal, isNumeric, toFloat, toInteger } from "./python-arithmetic.ts";
import { type JsonLayout, kindOf, pythonJson, pythonStr, type TemplateValue } from "./python-text.ts";

export type Program = ReturnType<typeof parse>;
type Statement = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
type ValueClass = new (value: unknown) => TemplateValue;

/** The engine exports none of its classes; its own conversion shows them. */
const classOf = (sample: unknown) => new Environment().set("sample", sample).constructor as ValueClass;
const Integer = classOf(1);
const Float = classOf(0.5);
const Text = classOf("");
const Truth = classOf(true);
const Null = classOf(null);
const List = classOf([]);
const Dict = classOf({});

/** One value of a row or request. Functions and undefined are left to the engine. */
export function templateValue(value: unknown): TemplateValue {
  switch (typeof value) {
    case "string":
      return new Text(value);
    case "number":
      return Number.isInteger(value) ? new Integer(value + 0) : new Float(value); // + 0: integers have no -0
    case "bigint":
      return new Integer(BigInt.asIntN(54, value) === value ? Number(value) : value);
    case "boolean":
      return new Truth(value);
    case "object":
      break;
    default:
      return new Environment().set("value", value);
  }
  if (value === null) return new Null(null);
  if (value instanceof Number) return new Float(value.valueOf());
  if (Array.isArray(value)) return new List(value.map(templateValue));
  const pairs = value instanceof Map ? [...value] : Object.entries(value as object);
  return new Dict(new Map(pairs.map(([key, item]) => [String(key), templateValue(item)])));
}

/** json.dumps() of a value as exact-json.ts reads it. */
export function exactJsonText(value: unknown): string {
  return pythonJson(templateValue(value));
}

/** Text of a template. Whatever the template raises is thrown as it is; an Error says which bound it passed. */
export function renderProgram(
  program: Program,
  variables: Readonly<Record<string, unknown>>,
  bounds = templateBounds,
): string {
  const environment = new Environment();
  for (const [name, value] of Object.entries(variables)) {
    environment.setVariable(name, templateValue(value));
  }
  return withinBounds(() => String(new PythonInterpreter(environment, bounds).run(program).value), bounds);
}

interface Evaluated {
  readonly type: "Evaluated";
  readonly value: TemplateValue;
}

const BODIES = ["body", "alternate", "defaultBlock"] as const;
const STATEMENTS = new Set([
  ..."Program If For Break Continue Set Macro Comment FilterStatement CallStatement".split(" "),
  "StringLiteral", // the text between tags
]);

/** The parsed template with every {{ expression }} marked as one, since only those print. Changes `program`. */
export function markOutputs<T extends Statement | Program>(program: T): T {
  for (const name of BODIES) {
    const body = (program as unknown as Record<string, Statement[] | undefined>)[name];
    if (!Array.isArray(body)) continue;
    for (const [i, statement] of body.entries()) {
      if (STATEMENTS.has(statement.type)) markOutputs(statement);
      else body[i] = output(statement);
    }
  }
  return program;
}

/** Of the expression's own class, because the engine looks for the variables of macros in statements only. */
function output(expression: Statement): Statement {
  const node = Object.create(Object.getPrototypeOf(expression)) as Statement;
  return Object.assign(node, { type: "Output", expression });
}

type Node = Statement & Readonly<Record<string, unknown>>;

/** The engine with Python's answers where they differ. Whatever is not met here it evaluates itself. */
class PythonInterpreter extends BoundedInterpreter {
  protected override step(statement: Statement | undefined, environment: Environment): TemplateValue {
    const node = statement as Node | undefined;
    switch (node?.type) {
      case "Output":
        return new Text(pythonStr(this.evaluate(node.expression as Statement, environment)));
      case "Evaluated":
        return node.value as TemplateValue;
      case "BinaryExpression":
        return this.binary(node, environment);
      case "UnaryExpression":
        return this.unary(node, environment);
      case "FilterExpression":
        return this.filter(node, environment);
      case "TestExpression":
        return this.test(node, environment);
      case "ObjectLiteral":
        return this.dict(node, environment);
      case "MemberExpression":
        return this.member(node, environment);
      case "For":
        return this.loop(node, environment);
      default:
        return super.step(statement, environment);
    }
  }

  private binary(node: Node, environment: Environment): TemplateValue {
    const operator = (node.operator as { value: string }).value;
    if (operator === "and" || operator === "or") return super.step(node, environment);
    const left = this.evaluate(node.left as Statement, environment);
    const right = this.evaluate(node.right as Statement, environment);
    if (operator === "==" || operator === "!=") return new Truth(equal(left, right) === (operator === "=="));
    if (operator === "~") return new Text(pythonStr(left) + pythonStr(right));
    if ((operator === "in" || operator === "not in") && right instanceof KeyedDict)
      return new Truth((right.at(left) !== undefined) === (operator === "in"));
    if ((operator === "in" || operator === "not in") && Array.isArray(right.value)) {
      const found = (right.value as TemplateValue[]).some((item) => equal(item, left));
      return new Truth(found === (operator === "in"));
    }
    if (isNumeric(left) && isNumeric(right)) {
      const result = arithmetic(operator, left, right);
      if (typeof result === "boolean") return new Truth(result);
      if (result !== undefined) return result.float ? new Float(result.value) : new Integer(result.value);
    }
    if (operator === "+" && left.type === "StringValue" && right.type === "StringValue") {
      return new Text((left.value as string) + (right.value as string));
    }
    if (operator === "+" && left.type === "StringValue") {
      throw new Error(`can only concatenate str (not ${JSON.stringify(kindOf(right))}) to str`);
    }
    if (operator === "+" && right.type === "StringValue") {
      throw new Error(`unsupported operands for +: ${kindOf(left)} and str`);
    }
    const evaluated = { ...node, left: evaluatedNode(left), right: evaluatedNode(right) };
    return super.step(evaluated, environment);
  }

  /** The engine's own where every key is text. */
  private dict(node: Node, environment: Environment): TemplateValue {
    const given = node.value as ReadonlyMap<Statement, Statement>;
    const pairs: [TemplateValue, Statement][] = [];
    for (const [key, item] of given) pairs.push([this.evaluate(key, environment), item]);
    if (pairs.some(([{ type }]) => type === "IntegerValue"))
      return new KeyedDict(pairs.map(([key, item]) => [key, this.evaluate(item, environment)]));
    const value = new Map(pairs.map(([key, item]) => [evaluatedNode(key), item]));
    return super.step({ ...node, value } as unknown as Statement, environment);
  }

  private member(node: Node, environment: Environment): TemplateValue {
    const property = node.property as Node;
    if (!node.computed || property.type === "SliceExpression") return super.step(node, environment);
    const object = this.evaluate(node.object as Statement, environment);
    const key = this.evaluate(property, environment);
    if (object instanceof KeyedDict) {
      const value = object.at(key);
      if (value !== undefined) return value;
    }
    // Whatever is no key of a dictionary has no value in Jinja, and is no error.
    if (object.type === "ObjectValue" && key.type !== "StringValue")
      return new Environment().set("none", undefined);
    const evaluated = { ...node, object: evaluatedNode(object), property: evaluatedNode(key) };
    return super.step(evaluated as unknown as Statement, environment);
  }

  /** An undefined value has no items, and is no error to walk along. */
  private loop(node: Node, environment: Environment): TemplateValue {
    if ((node.iterable as Node).type === "SelectExpression") return super.step(node, environment);
    const items = this.evaluate(node.iterable as Statement, environment);
    const iterable = evaluatedNode(items.type === "UndefinedValue" ? new List([]) : items);
    return super.step({ ...node, iterable } as unknown as Statement, environment);
  }

  private unary(node: Node, environment: Environment): TemplateValue {
    if ((node.operator as { value: string }).value === "not") return super.step(node, environment);
    const argument = this.evaluate(node.argument as Statement, environment);
    const value: unknown = argument.value;
    if (typeof value === "bigint") {
      const minus = (node.operator as { value: string }).value === "-";
      return new Integer(minus ? -value : value);
    }
    return super.step({ ...node, argument: evaluatedNode(argument) } as Statement, environment);
  }

  private test(node: Node, environment: Environment): TemplateValue {
    const name = (node.test as { value: string }).value;
    if (name !== "float" && name !== "iterable" && name !== "sequence") return super.step(node, environment);
    const operand = this.evaluate(node.operand as Statement, environment);
    if (name === "float") return new Truth((operand.type === "FloatValue") !== node.negate);
    // An undefined value is an empty list to who asks.
    if (operand.type === "UndefinedValue") return new Truth(!node.negate);
    return super.step({ ...node, operand: evaluatedNode(operand) } as Statement, environment);
  }

  private filter(node: Node, environment: Environment): TemplateValue {
    const filter = node.filter as Node;
    const called = filter.type === "CallExpression";
    const name = ((called ? filter.callee : filter) as { value?: unknown }).value;
    const operand = this.evaluate(node.operand as Statement, environment);
    // An undefined value is empty to Python's filters, and None is to those that pick items.
    const empty = operand.type === "UndefinedValue";
    if (empty && OF_TEXT.has(String(name)))
      return super.step({ ...node, operand: evaluatedNode(new Text("")) } as Statement, environment);
    if (empty && name === "length") return new Integer(0);
    if (
      (empty && name === "list") ||
      (EMPTYABLE.has(String(name)) && (empty || operand.type === "NullValue"))
    ) {
      return new List([]);
    }
    const own = () => this.arguments(called ? (filter.args as Node[]) : [], environment);
    switch (name) {
      case "tojson":
        return new Text(pythonJson(operand, jsonLayout(own())));
      case "string":
        return new Text(pythonStr(operand));
      case "join": {
        const { positional, keywords } = own();
        if (keywords.has("attribute")) break;
        const parts = Array.isArray(operand.value)
          ? (operand.value as TemplateValue[]).map(pythonStr)
          : typeof operand.value === "string"
            ? [...operand.value]
            : undefined;
        if (parts === undefined) break;
        const separator = positional[0] ?? keywords.get("d") ?? keywords.get("separator");
        return new Text(parts.join(separator === undefined ? "" : pythonStr(separator)));
      }
      case "int": {
        const whole = toInteger(operand);
        if (whole !== undefined) return new Integer(whole);
        break;
      }
      case "float": {
        const float = toFloat(operand);
        if (float !== undefined) return new Float(float);
        break;
      }
      case "abs": {
        const value: unknown = operand.value;
        if (typeof value === "bigint") return new Integer(value < 0n ? -value : value);
        break;
      }
    }
    return super.step({ ...node, operand: evaluatedNode(operand) } as Statement, environment);
  }

  private arguments(nodes: readonly Node[], environment: Environment): Arguments {
    const positional: TemplateValue[] = [];
    const keywords = new Map<string, TemplateValue>();
    for (const node of nodes) {
      if (node.type === "KeywordArgumentExpression") {
        const key = (node.key as { value: string }).value;
        keywords.set(key, this.evaluate(node.value as Statement, environment));
      } else positional.push(this.evaluate(node, environment));
    }
    return { positional, keywords };
  }
}

/** Filters that begin with str() in Jinja, and give no items. */
const OF_TEXT = new Set(["trim", "upper", "lower", "capitalize", "title", "replace", "indent", "escape"]);
const EMPTYABLE = new Set(["selectattr", "rejectattr", "map"]);

interface Arguments {
  readonly positional: readonly TemplateValue[];
  readonly keywords: ReadonlyMap<string, TemplateValue>;
}

const evaluatedNode = (value: TemplateValue): Evaluated => ({ type: "Evaluated", value });

/** The arguments of transformers' tojson: ensure_ascii, indent, separators, sort_keys, in this order. */
function jsonLayout({ positional, keywords }: Arguments): JsonLayout {
  const given = ["ensure_ascii", "indent", "separators", "sort_keys"].map(
    (name, i) => keywords.get(name) ?? positional[i],
  );
  const [ascii, indent, separators, sorted] = given;
  return {
    ensureAscii: ascii?.__bool__().value ?? false,
    indent: indentOf(indent),
    separators: separatorsOf(separators),
    sortKeys: sorted?.__bool__().value ?? false,
  };
}

function indentOf(given: TemplateValue | undefined): string | undefined {
  if (given === undefined || given.type === "NullValue") return undefined;
  if (given.type === "StringValue") return given.value as string;
  if (typeof given.value !== "number" || given.value > 64) {
    throw new Error("tojson: indent must be a whole number of at most 64, or a string");
  }
  return " ".repeat(Math.max(0, given.value));
}

function separatorsOf(given: TemplateValue | undefined): readonly [string, string] | undefined {
  if (given === undefined || given.type === "NullValue") return undefined;
  const parts = Array.isArray(given.value) ? (given.value as TemplateValue[]) : [];
  if (parts.length !== 2 || parts.some((part) => part.type !== "StringValue")) {
    throw new Error("tojson: separators must be two strings");
  }
  return [parts[0]!.value as string, parts[1]!.value as string];
}
