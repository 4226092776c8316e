// Runs a chat template within bounds: a template comes with a model from anywhere, and a loop over range(10**9), a list
// that doubles itself or a macro that calls itself would compute for hours or end the process. Bounds are counted, so
// that the same conversation is refused everywhere; a clock stands behind them for work inside one step. Not here: the
// values and answers of a template (template-values.ts), or what it is given (chat-template.ts).

import { type Environment, Interpreter } from "@huggingface/jinja";
import { TimeLimitError, withinTime } from "../util/time-limit.ts";

type Value = ReturnType<Interpreter["evaluate"]>;
type Statement = Parameters<Interpreter["evaluate"]>[0];

/** What one rendering may take. */
export interface TemplateBounds {
  /** Statements and expressions: a conversation of a thousand messages takes some hundred thousand. */
  readonly steps: number;
  /** Characters of one text. */
  readonly characters: number;
  /** Items of one list. */
  readonly items: number;
  /** Characters and items of all large intermediate results together. */
  readonly total: number;
  readonly milliseconds: number;
}

export const templateBounds: TemplateBounds = {
  steps: 1_000_000,
  characters: 2 ** 26,
  items: 2 ** 21,
  total: 2 ** 29,
  milliseconds: 5000,
};

/** Smaller results are not counted: steps bound their number. */
const LARGE = 2 ** 16;
/** What only names a value that was there before. */
const naming = new Set(["Identifier", "MemberExpression", "StringLiteral", "Evaluated"]);

/** What `render` returns. Throws an Error when it takes too long. */
export function withinBounds<T>(render: () => T, bounds = templateBounds): T {
  try {
    return withinTime(bounds.milliseconds, render);
  } catch (error) {
    if (error instanceof TimeLimitError) throw new Error(`rendering ${error.message}`);
    throw error;
  }
}

/** The engine, counting. Errors say which bound was passed. */
export class BoundedInterpreter extends Interpreter {
  private steps = 0;
  private total = 0;

  constructor(
    environment: Environment,
    private readonly bounds: TemplateBounds,
  ) {
    super(environment);
  }

  override evaluate(statement: Statement, environment: Environment): Value {
    const { steps, items, characters } = this.bounds;
    if (++this.steps > steps)
      throw new Error(`rendering takes more than ${steps} steps; is there a loop without end?`);
    const result = this.step(statement, environment);
    const value: unknown = result.value;
    const isList = Array.isArray(value);
    const size = isList || typeof value === "string" ? value.length : 0;
    const most = isList ? items : characters;
    if (size > most) throw new Error(`rendering makes a ${isList ? "list" : "text"} of more than ${most}`);
    if (size >= LARGE && statement !== undefined && !naming.has(statement.type)) this.count(size);
    return result;
  }

  /** The value of one statement or expression, parts evaluated by evaluate(). */
  protected step(statement: Statement, environment: Environment): Value {
    return super.evaluate(statement, environment);
  }

  private count(size: number): void {
    this.total += size;
    if (this.total > this.bounds.total)
      throw new Error(`rendering makes texts and lists of more than ${this.bounds.total} in all`);
  }
}
