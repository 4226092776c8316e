// The form that starts a run, made of the option definitions that the command line is made of, with what `plan` says
// beside it while it is filled in. What is filled in is kept in the address.

import { useMemo, useRef, useState } from "preact/hooks";
import type { FormField, FormOptions } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { checkValue, type Draft, pruned, readDraft, valuesOf, writeDraft } from "../draft.ts";
import { Loading } from "../parts.tsx";
import { go, place, setQuery } from "../route.ts";
import { freeName, putRun, server } from "../run-store.ts";
import { CallError, calls } from "../server-calls.ts";
import { PlanPanel, Verdict } from "./plan.tsx";
import { usePlan } from "./use-plan.ts";

/** What nearly every run decides; all else is folded under its heading. */
const first = [
  "model",
  "data",
  "evalData",
  "evalFraction",
  "method",
  "rank",
  "learningRate",
  "maxSteps",
  "epochs",
  "batchSize",
  "sequenceLength",
  "evalEvery",
];
/** Said by the form itself: where the run lies, and that it begins. */
const notAsked = new Set(["out", "resume", "json"]);

export function StartView() {
  const asked = useAsked("options", () => calls.options());
  if (server.value && !server.value.canStart)
    return <p class="problem">Runs can only be looked at here, not started.</p>;
  if (!asked.value) return <Loading what="Reading the options…" error={asked.error} />;
  return <Form options={asked.value} />;
}

function Form({ options }: { options: FormOptions }) {
  const fields = useMemo(
    () => options.groups.flatMap((group) => group.fields).filter(({ key }) => !notAsked.has(key)),
    [options],
  );
  const [draft, setDraft] = useState<Draft>(() => pruned(fields, readDraft(place.value.query.values)));
  const [name, setName] = useState(() => place.value.query.name ?? freeName("run-0"));
  const [sent, setSent] = useState<{ field?: string; message: string }>();
  const [busy, setBusy] = useState(false);
  const [tried, setTried] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const change = (key: string, value: string | boolean | undefined) => {
    const next = { ...draft };
    if (value === undefined || value === "") delete next[key];
    else next[key] = value;
    setDraft(next);
    if (sent?.field === key) setSent(undefined);
    setQuery({ values: writeDraft(next) });
  };
  const errors = useMemo(() => {
    const found: Record<string, string> = {};
    for (const field of fields) {
      const value = draft[field.key];
      if (value === undefined) {
        if (field.required && tried) found[field.key] = "This is needed.";
      } else {
        const words = checkValue(field, value);
        if (words !== undefined) found[field.key] = words;
      }
    }
    for (const [one, other] of options.alternatives)
      if (draft[one] !== undefined && draft[other] !== undefined)
        found[other] = `Give this or ${titleOf(one)}, not both.`;
    return found;
  }, [draft, fields, tried]);
  const values = useMemo(() => valuesOf(fields, draft), [fields, draft]);
  const complete = fields.every(({ key, required }) => !required || draft[key] !== undefined);
  const plan = usePlan(values, draft.model !== undefined && Object.keys(errors).length === 0);
  const shown: Record<string, string> = {
    ...(plan.error?.field && { [plan.error.field]: plan.error.message }),
    ...errors,
    ...(sent?.field && { [sent.field]: sent.message }),
  };
  const nameError = sent && (sent.field === "id" || sent.field === "out") ? sent.message : undefined;

  const focusFirstError = () =>
    window.setTimeout(() => {
      const bad = form.current?.querySelector<HTMLElement>('[aria-invalid="true"]');
      const fold = bad?.closest("details");
      if (fold) fold.open = true;
      bad?.focus();
    });
  const start = async (event: Event) => {
    event.preventDefault();
    setTried(true);
    setSent(undefined);
    if (!complete || Object.keys(errors).length > 0) return focusFirstError();
    setBusy(true);
    try {
      const run = await calls.start({ id: name, values });
      putRun(run);
      go(["run", run.id]);
    } catch (error) {
      const field = error instanceof CallError ? error.field : undefined;
      setSent({ field, message: error instanceof Error ? error.message : String(error) });
      setBusy(false);
      if (field !== undefined) focusFirstError();
    }
  };
  const byKey = new Map(fields.map((field) => [field.key, field]));
  const leading = first.flatMap((key) => byKey.get(key) ?? []);
  const input = (field: FormField) => (
    <Input
      key={field.key}
      field={field}
      value={draft[field.key]}
      error={shown[field.key]}
      onChange={(value) => change(field.key, value)}
    />
  );
  const unplaced =
    sent && !(sent.field !== undefined && (byKey.has(sent.field) || nameError)) ? sent.message : "";
  return (
    <>
      <h1>New run</h1>
      <div class="start">
        <form ref={form} onSubmit={(event) => void start(event)} noValidate>
          <section class="card fields">
            <div class="field">
              <label for="run-name">Name</label>
              <input
                id="run-name"
                type="text"
                value={name}
                required
                autocomplete="off"
                spellcheck={false}
                aria-invalid={nameError !== undefined}
                aria-describedby="run-name-help"
                onInput={(event) => {
                  setName(event.currentTarget.value);
                  setQuery({ name: event.currentTarget.value });
                }}
              />
              <p class="help" id="run-name-help">
                {nameError ? (
                  <span class="error">{nameError}</span>
                ) : (
                  `Its folder below ${server.value?.folder ?? "this one"}.`
                )}
              </p>
            </div>
            {leading.map(input)}
          </section>
          {options.groups.map(({ title, fields: all }) => {
            const rest = all.filter(({ key }) => !notAsked.has(key) && !first.includes(key));
            if (rest.length === 0) return null;
            const given = rest.filter(({ key }) => draft[key] !== undefined).length;
            const wrong = rest.filter(({ key }) => shown[key] !== undefined).length;
            return (
              <details class="card fold" key={title} open={wrong > 0 || undefined}>
                <summary>
                  {title} <span class="muted num">{rest.length}</span>
                  {given > 0 && <span class="given">{given} given</span>}
                  {wrong > 0 && <span class="error">{wrong} wrong</span>}
                </summary>
                <div class="fields">{rest.map(input)}</div>
              </details>
            );
          })}
          <div class="buttons sticky">
            {unplaced !== "" && (
              <p class="problem" role="alert">
                {unplaced}
              </p>
            )}
            {plan.view && !plan.error && (
              <div class="narrow">
                <Verdict view={plan.view} />
              </div>
            )}
            <button type="submit" class="primary" disabled={busy}>
              {busy ? "Starting…" : "Start"}
            </button>
          </div>
        </form>
        <PlanPanel
          plan={plan}
          waits={
            draft.model === undefined
              ? "Name a model to see its memory."
              : Object.keys(errors).length > 0
                ? "There is no plan until the form is right."
                : undefined
          }
        />
      </div>
    </>
  );
}

/** learningRate -> Learning rate. */
export function titleOf(key: string): string {
  const words = key.replace(/([a-z])([A-Z0-9])/g, "$1 $2").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function Input(props: {
  readonly field: FormField;
  readonly value: string | boolean | undefined;
  readonly error: string | undefined;
  readonly onChange: (value: string | boolean | undefined) => void;
}) {
  const { field, value, error, onChange } = props;
  const id = `field-${field.key}`;
  const common = {
    id,
    "aria-invalid": error !== undefined,
    "aria-describedby": `${id}-help`,
    "aria-required": field.required,
  };
  const help = (
    <p class="help" id={`${id}-help`}>
      {error !== undefined && <span class="error">{error} </span>}
      {sentence(field.description)}
      {field.kind !== "choice" && (field.defaultText?.length ?? 0) > longestPlaceholder
        ? ` ${sentence(`default: ${field.defaultText}`)}`
        : ""}
    </p>
  );
  if (field.kind === "switch") {
    const on = typeof value === "boolean" ? value : field.defaultOn;
    return (
      <div class="field switch">
        <label for={id}>
          <input
            {...common}
            type="checkbox"
            checked={on}
            onChange={(event) => {
              const next = event.currentTarget.checked;
              onChange(next === field.defaultOn ? undefined : next);
            }}
          />
          {titleOf(field.key)}
        </label>
        {help}
      </div>
    );
  }
  return (
    <div class="field">
      <label for={id}>
        {titleOf(field.key)}
        {field.required && <span class="needed"> needed</span>}
      </label>
      {field.choices && field.kind === "choice" ? (
        <select
          {...common}
          value={typeof value === "string" ? value : ""}
          onChange={(event) => onChange(event.currentTarget.value || undefined)}
        >
          <option value="">{field.defaultText === undefined ? "–" : `${field.defaultText} (default)`}</option>
          {field.choices.map((choice) => (
            <option key={choice} value={choice}>
              {choice}
            </option>
          ))}
        </select>
      ) : (
        <input
          {...common}
          type="text"
          inputMode={field.kind === "number" ? "decimal" : undefined}
          autocomplete="off"
          spellcheck={false}
          value={typeof value === "string" ? value : ""}
          placeholder={placeholderOf(field)}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
      {help}
    </div>
  );
}

/** What is longer would be cut at the end of the field. */
const longestPlaceholder = 24;

/** The default, or an example; "F" and "M" of the command line's help would be taken for one. */
function placeholderOf({ kind, defaultText, placeholder }: FormField): string | undefined {
  if (defaultText !== undefined) return defaultText.length > longestPlaceholder ? undefined : defaultText;
  return kind === "number" || /^[A-Z]+$/.test(placeholder ?? "") ? undefined : placeholder;
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}
