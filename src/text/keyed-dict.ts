// Dictionaries of templates whose keys are whole numbers, {0: 0, 512: 128}, as Python has them and the engine has not: its
// own are keyed by text alone. What the engine asks of a dictionary, by its own names. Who makes them: template-values.ts.

import { Environment } from "@huggingface/jinja";
import { arithmetic, equal, isNumeric } from "./python-arithmetic.ts";
import type { TemplateValue } from "./python-text.ts";

type DictValue = Extract<TemplateValue, { items(): unknown }>;
type ListValue = ReturnType<DictValue["items"]>;
type Call = (values: readonly TemplateValue[]) => TemplateValue;

/** The engine exports none of its classes; its own conversion shows them. */
const classOf = <Value>(sample: unknown) => new Environment().set("sample", sample).constructor as Value;
const Dict = classOf<new (value: Map<string, TemplateValue>) => DictValue>({});
const List = classOf<new (value: readonly TemplateValue[]) => ListValue>([]);
const Null = classOf<new (value: null) => TemplateValue>(null);
const Callable = classOf<new (call: Call) => TemplateValue>(() => undefined);

type Pair = readonly [key: TemplateValue, value: TemplateValue];

/** A dictionary with a key that is a whole number. As JSON its keys are text, as Python's json.dumps() writes them. */
export class KeyedDict extends Dict {
  private readonly pairs: Pair[] = [];

  constructor(given: Iterable<Pair>) {
    super(new Map());
    const texts = this.value;
    for (const [key, value] of given) {
      const known = this.pairs.findIndex(([other]) => equal(other, key));
      const text = String(key.value);
      if (known < 0 && texts.has(text)) throw new Error(`a dictionary with both ${text} and "${text}"`);
      this.pairs.splice(known < 0 ? this.pairs.length : known, known < 0 ? 0 : 1, [key, value]);
      texts.set(text, value);
    }
  }

  /** The value of a key, if there is one. */
  at(key: TemplateValue): TemplateValue | undefined {
    return this.pairs.find(([other]) => equal(other, key))?.[1];
  }

  override items(): ListValue {
    return new List(this.pairs.map((pair) => new List([...pair])));
  }
  override keys(): ListValue {
    return new List(this.pairs.map(([key]) => key));
  }
  override values(): ListValue {
    return new List(this.pairs.map(([, value]) => value));
  }

  /** What templates call: d.get(key), d.items(), d | dictsort. */
  override get builtins(): Map<string, TemplateValue> {
    return new Map([
      ["get", new Callable(([key, other]) => (key && this.at(key)) ?? other ?? new Null(null))],
      ["items", new Callable(() => this.items())],
      ["keys", new Callable(() => this.keys())],
      ["values", new Callable(() => this.values())],
      ["dictsort", new Callable((options) => this.sorted(options.length > 0))],
    ]);
  }

  private sorted(hasOptions: boolean): TemplateValue {
    if (hasOptions || !this.pairs.every(([key]) => isNumeric(key)))
      throw new Error("dictsort of a dictionary with numbers for keys takes no options, and no other keys");
    const inOrder = [...this.pairs].sort(([a], [b]) => (arithmetic("<", a, b) ? -1 : 1));
    return new List(inOrder.map((pair) => new List([...pair])));
  }
}
