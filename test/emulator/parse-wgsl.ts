// Reads the WGSL that the kernels are written in: declarations, statements and expressions as a tree, without types
// (compile-wgsl.ts finds those). A subset: what no kernel uses is an error that names its line.

export type Expression = { readonly line: number } & (
  | { readonly is: "number"; readonly text: string }
  | { readonly is: "name"; readonly name: string }
  | { readonly is: "unary"; readonly op: string; readonly of: Expression }
  | { readonly is: "binary"; readonly op: string; readonly left: Expression; readonly right: Expression }
  | { readonly is: "call"; readonly to: TypeName; readonly given: readonly Expression[] }
  | { readonly is: "index"; readonly of: Expression; readonly at: Expression }
  | { readonly is: "member"; readonly of: Expression; readonly name: string }
);

/** A type or a called function, with what stands between its angle brackets. */
export interface TypeName {
  readonly name: string;
  readonly given: readonly (TypeName | Expression)[];
}

export interface VariableText {
  readonly name: string;
  readonly type?: TypeName;
  readonly value?: Expression;
}

export type Statement = { readonly line: number } & (
  | ({ readonly is: "let" | "var" } & VariableText)
  | { readonly is: "assign"; readonly op: string; readonly to: Expression; readonly value: Expression }
  | { readonly is: "call"; readonly call: Expression }
  | {
      readonly is: "if";
      readonly when: Expression;
      readonly then: Statement[];
      readonly otherwise?: Statement[];
    }
  | {
      readonly is: "for";
      readonly first?: Statement;
      readonly when?: Expression;
      readonly next?: Statement;
      readonly body: Statement[];
    }
  | { readonly is: "return"; readonly value?: Expression }
  | { readonly is: "break" | "continue" }
);

export interface GlobalVariable extends VariableText {
  /** "workgroup", "uniform", "storage"; and whether it may be written. */
  readonly space: string;
  readonly access?: string;
  readonly binding?: number;
}

export interface FunctionText {
  readonly name: string;
  readonly parameters: readonly {
    readonly name: string;
    readonly type: TypeName;
    readonly builtin?: string;
  }[];
  readonly result?: TypeName;
  readonly body: Statement[];
  readonly workgroupSize?: readonly Expression[];
}

export interface ModuleText {
  readonly constants: VariableText[];
  readonly aliases: Map<string, TypeName>;
  readonly structs: Map<string, { readonly name: string; readonly type: TypeName }[]>;
  readonly variables: GlobalVariable[];
  readonly functions: FunctionText[];
}

const tokenPattern =
  /\s+|\/\/[^\n]*|(0x[0-9a-fA-F]+[iu]?|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[iufh]?)|([A-Za-z_]\w*)|(>>=|<<=|->|&&|\|\||==|!=|<=|>=|\+=|-=|\*=|\/=|%=|&=|\|=|\^=|\+\+|--|<<|>>|[-+*/%&|^~!<>=(){}[\],;:.@])/gy;

interface Token {
  readonly text: string;
  readonly kind: "number" | "name" | "mark";
  readonly line: number;
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  let line = 1;
  tokenPattern.lastIndex = 0;
  while (tokenPattern.lastIndex < text.length) {
    const at = tokenPattern.lastIndex;
    const match = tokenPattern.exec(text);
    if (!match) throw new Error(`line ${line}: ${text.slice(at, at + 20)}`);
    const [all, number, name, mark] = match;
    if (number !== undefined) tokens.push({ text: number, kind: "number", line });
    else if (name !== undefined) tokens.push({ text: name, kind: "name", line });
    else if (mark !== undefined) tokens.push({ text: mark, kind: "mark", line });
    line += all.split("\n").length - 1;
  }
  return tokens;
}

/** Names after which "<" opens a list. */
const generic = /^(array|vec[234]|bitcast|atomic|var|subgroup_matrix_\w+|subgroupMatrix(Load|Store))$/;
const binaryLevels = [
  ["||"],
  ["&&"],
  ["|"],
  ["^"],
  ["&"],
  ["==", "!="],
  ["<", ">", "<=", ">="],
  ["<<", ">>"],
  ["+", "-"],
  ["*", "/", "%"],
];

class Parser {
  private at = 0;
  private tokens: Token[];
  constructor(text: string) {
    this.tokens = tokensOf(text);
  }

  get done(): boolean {
    return this.at >= this.tokens.length;
  }
  private get line(): number {
    return this.tokens[Math.min(this.at, this.tokens.length - 1)]!.line;
  }
  private is(text: string): boolean {
    return this.tokens[this.at]?.text === text;
  }
  private take(text: string): boolean {
    if (!this.is(text)) return false;
    this.at++;
    return true;
  }
  private expect(text: string): void {
    if (this.take(text)) return;
    // The end of two lists at once.
    const token = this.tokens[this.at];
    if (text === ">" && token?.text.startsWith(">") && token.text.length > 1) {
      this.tokens[this.at] = { ...token, text: token.text.slice(1) };
      return;
    }
    throw new Error(`line ${this.line}: expected ${text}, found ${token?.text}`);
  }
  private name(): string {
    const token = this.tokens[this.at++];
    if (token?.kind !== "name") throw new Error(`line ${this.line}: expected a name, found ${token?.text}`);
    return token.text;
  }

  private typeName(): TypeName {
    const name = this.name();
    const given: (TypeName | Expression)[] = [];
    if (generic.test(name) && this.take("<")) {
      while (!this.is(">") && !this.is(">>")) {
        const token = this.tokens[this.at]!;
        const isType = token.kind === "name" && /^[,<>]/.test(this.tokens[this.at + 1]?.text ?? "");
        given.push(isType ? this.typeName() : this.expression(8));
        if (!this.take(",")) break;
      }
      this.expect(">");
    }
    return { name, given };
  }

  /** Without comparisons and shifts when `level` is above theirs, as between angle brackets. */
  expression(level = 0): Expression {
    if (level === binaryLevels.length) return this.unary();
    let left = this.expression(level + 1);
    while (
      this.tokens[this.at]?.kind === "mark" &&
      binaryLevels[level]!.includes(this.tokens[this.at]!.text)
    ) {
      const { text: op, line } = this.tokens[this.at++]!;
      left = { is: "binary", op, left, right: this.expression(level + 1), line };
    }
    return left;
  }

  private unary(): Expression {
    const { line, text } = this.tokens[this.at]!;
    if (["-", "!", "~", "&"].includes(text)) {
      this.at++;
      return { is: "unary", op: text, of: this.unary(), line };
    }
    let value = this.primary();
    for (;;) {
      if (this.take("[")) {
        value = { is: "index", of: value, at: this.expression(), line };
        this.expect("]");
      } else if (this.take(".")) value = { is: "member", of: value, name: this.name(), line };
      else return value;
    }
  }

  private primary(): Expression {
    const { kind, text, line } = this.tokens[this.at]!;
    if (kind === "number") {
      this.at++;
      return { is: "number", text, line };
    }
    if (this.take("(")) {
      const value = this.expression();
      this.expect(")");
      return value;
    }
    const to = this.typeName();
    if (!this.take("(")) return { is: "name", name: text, line };
    const given: Expression[] = [];
    while (!this.take(")")) {
      given.push(this.expression());
      if (!this.take(",") && !this.is(")")) this.expect(")");
    }
    return { is: "call", to, given, line };
  }

  private block(): Statement[] {
    this.expect("{");
    const statements: Statement[] = [];
    while (!this.take("}")) {
      const statement = this.statement();
      if (statement) statements.push(statement);
    }
    return statements;
  }

  private statement(): Statement | undefined {
    const { line } = this;
    if (this.take(";")) return undefined;
    if (this.take("if")) {
      const when = this.expression();
      const then = this.block();
      if (!this.take("else")) return { is: "if", when, then, line };
      return { is: "if", when, then, otherwise: this.is("if") ? [this.statement()!] : this.block(), line };
    }
    if (this.take("for")) {
      this.expect("(");
      const first = this.is(";") ? undefined : this.simple();
      this.expect(";");
      const when = this.is(";") ? undefined : this.expression();
      this.expect(";");
      const next = this.is(")") ? undefined : this.simple();
      this.expect(")");
      return { is: "for", first, when, next, body: this.block(), line };
    }
    if (this.take("while")) {
      const when = this.expression();
      return { is: "for", when, body: this.block(), line };
    }
    const statement = this.simple();
    this.expect(";");
    return statement;
  }

  private simple(): Statement {
    const { line } = this;
    if (this.take("return"))
      return { is: "return", value: this.is(";") ? undefined : this.expression(), line };
    for (const is of ["break", "continue"] as const) if (this.take(is)) return { is, line };
    for (const is of ["let", "var"] as const) if (this.take(is)) return { is, ...this.variable(), line };
    const to = this.unary();
    const op = this.tokens[this.at]!.text;
    if (op === "++" || op === "--") {
      this.at++;
      return { is: "assign", op: op[0]!, to, value: { is: "number", text: "1", line }, line };
    }
    if (/^[-+*/%&|^]?=$|^(<<|>>)=$/.test(op)) {
      this.at++;
      return { is: "assign", op: op.slice(0, -1), to, value: this.expression(), line };
    }
    return { is: "call", call: to, line };
  }

  private variable(): VariableText {
    const name = this.name();
    const type = this.take(":") ? this.typeName() : undefined;
    return { name, type, value: this.take("=") ? this.expression() : undefined };
  }

  private attributes(): Map<string, Expression[]> {
    const found = new Map<string, Expression[]>();
    while (this.take("@")) {
      const name = this.name();
      const given: Expression[] = [];
      if (this.take("(")) {
        while (!this.take(")")) {
          given.push(this.expression());
          this.take(",");
        }
      }
      found.set(name, given);
    }
    return found;
  }

  /** One declaration at the top of the module. */
  declaration(module: ModuleText): void {
    if (this.take(";")) return;
    const attributes = this.attributes();
    if (this.take("enable")) {
      this.name();
      this.expect(";");
    } else if (this.take("alias")) {
      const name = this.name();
      this.expect("=");
      module.aliases.set(name, this.typeName());
      this.expect(";");
    } else if (this.take("const")) {
      module.constants.push(this.variable());
      this.expect(";");
    } else if (this.take("struct")) {
      const name = this.name();
      const members: { name: string; type: TypeName }[] = [];
      this.expect("{");
      while (!this.take("}")) {
        const member = this.name();
        this.expect(":");
        members.push({ name: member, type: this.typeName() });
        this.take(",");
      }
      module.structs.set(name, members);
    } else if (this.take("var")) {
      this.expect("<");
      const space = this.name();
      const access = this.take(",") ? this.name() : undefined;
      this.expect(">");
      const [binding] = attributes.get("binding") ?? [];
      const variable = this.variable();
      this.expect(";");
      module.variables.push({
        ...variable,
        space,
        access,
        binding: binding && Number((binding as { text: string }).text),
      });
    } else if (this.take("fn")) module.functions.push(this.functionText(attributes));
    else throw new Error(`line ${this.line}: ${this.tokens[this.at]?.text}`);
  }

  private functionText(attributes: Map<string, Expression[]>): FunctionText {
    const name = this.name();
    this.expect("(");
    const parameters: { name: string; type: TypeName; builtin?: string }[] = [];
    while (!this.take(")")) {
      const [builtin] = this.attributes().get("builtin") ?? [];
      const parameter = this.name();
      this.expect(":");
      parameters.push({
        name: parameter,
        type: this.typeName(),
        builtin: builtin && (builtin as { name: string }).name,
      });
      this.take(",");
    }
    const result = this.take("->") ? this.typeName() : undefined;
    return { name, parameters, result, body: this.block(), workgroupSize: attributes.get("workgroup_size") };
  }
}

export function parseWgsl(text: string): ModuleText {
  const parser = new Parser(text);
  const module: ModuleText = {
    constants: [],
    aliases: new Map(),
    structs: new Map(),
    variables: [],
    functions: [],
  };
  while (!parser.done) parser.declaration(module);
  return module;
}
