// Small pieces that several views are made of: a run's state, progress, a sparkline, tabs, a question before something
// happens, words while something is made. Not here: charts (chart.tsx).

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { RunState, RunSummary } from "../api.ts";
import { count, percent } from "./numbers.ts";

const stateWords: Readonly<Record<RunState, string>> = {
  starting: "Starting",
  running: "Running",
  pausing: "Pausing",
  ending: "Ending",
  paused: "Paused",
  stopped: "Stopped",
  failed: "Failed",
  done: "Done",
};

export function State({ state }: { state: RunState }) {
  return <span class={`state ${state}`}>{stateWords[state]}</span>;
}

export function Progress({ run }: { run: RunSummary }) {
  const share = run.totalSteps ? Math.min(1, run.step / run.totalSteps) : undefined;
  return (
    <span class="progress">
      <progress max={1} value={share ?? 0} aria-label={`Progress of ${run.id}`} class={run.state} />
      <span class="num">
        {count(run.step)}
        {run.totalSteps !== undefined && <span class="muted"> / {count(run.totalSteps)}</span>}
      </span>
      {share !== undefined && <span class="num muted share">{percent(Math.floor(share * 100) / 100)}</span>}
    </span>
  );
}

export interface TabEntry {
  readonly id: string;
  readonly label: string;
}

/** One stop in the order of tabs; arrow keys go from one to the next. */
export function Tabs(props: {
  readonly label: string;
  readonly tabs: readonly TabEntry[];
  readonly chosen: string;
  readonly panel: string;
  readonly onChoose: (id: string) => void;
}) {
  const { tabs, chosen } = props;
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const at = tabs.findIndex(({ id }) => id === chosen);
    const to = {
      ArrowLeft: (at + tabs.length - 1) % tabs.length,
      ArrowRight: (at + 1) % tabs.length,
      Home: 0,
      End: tabs.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    props.onChoose(tabs[to]!.id);
    list.current?.querySelectorAll("button")[to]?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label={props.label} ref={list} onKeyDown={onKeyDown}>
      {tabs.map(({ id, label }) => (
        <button
          type="button"
          role="tab"
          key={id}
          id={`tab-${id}`}
          aria-selected={id === chosen}
          aria-controls={props.panel}
          tabIndex={id === chosen ? 0 : -1}
          onClick={() => props.onChoose(id)}
        >
          {label}
        </button>
      ))}
    </div>
  );
}

/** A question in the browser's own dialog, which keeps the focus and closes with Escape. */
export function Confirm(props: {
  readonly title: string;
  readonly children: ComponentChildren;
  readonly verb: string;
  readonly danger?: boolean;
  readonly onYes: () => void;
  readonly onNo: () => void;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const opened = dialog.current;
    opened?.showModal();
    return () => opened?.close();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby="confirm-title" onCancel={props.onNo}>
      <h2 id="confirm-title">{props.title}</h2>
      <div>{props.children}</div>
      <div class="buttons">
        <button type="button" onClick={props.onNo}>
          Cancel
        </button>
        <button type="button" class={props.danger ? "danger" : "primary"} onClick={props.onYes}>
          {props.verb}
        </button>
      </div>
    </dialog>
  );
}

/** While something is made that may take a minute, and what went wrong with it. */
export function Loading({ what, error }: { what: string; error?: string }) {
  if (error !== undefined)
    return (
      <p class="problem" role="alert">
        {error}
      </p>
    );
  return (
    <p class="loading muted" role="status">
      {what}
    </p>
  );
}

/** A few buttons of which one is pressed. */
export function Choice<T extends string>(props: {
  readonly label: string;
  readonly options: readonly (readonly [T, string])[];
  readonly chosen: T;
  readonly onChoose: (value: T) => void;
}) {
  return (
    <fieldset class="choice">
      <legend class="hidden">{props.label}</legend>
      {props.options.map(([value, words]) => (
        <button
          type="button"
          key={value}
          aria-pressed={value === props.chosen}
          onClick={() => props.onChoose(value)}
        >
          {words}
        </button>
      ))}
    </fieldset>
  );
}

export function Facts({ facts }: { facts: readonly (readonly [string, ComponentChildren])[] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd class="num">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What is wider or longer than its place; reached by keyboard so that it can be scrolled with it. */
export function Scroll(props: { label: string; children: ComponentChildren; atEnd?: boolean }) {
  const section = useRef<HTMLElement>(null);
  useEffect(() => {
    if (props.atEnd && section.current) section.current.scrollTop = section.current.scrollHeight;
  }, [props.atEnd]);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to take the focus
    <section class="scroll" tabIndex={0} aria-label={props.label} ref={section}>
      {props.children}
    </section>
  );
}
