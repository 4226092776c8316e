// Asks `plan` about a form's values when the reader has stopped writing.

import { useEffect, useState } from "preact/hooks";
import type { PlanView } from "../../api.ts";
import { CallError, calls } from "../server-calls.ts";

const planWaitMs = 500;

/** What `plan` says of the form, asked for when the reader has stopped writing. */
export interface Planned {
  readonly view?: PlanView;
  readonly error?: { readonly message: string; readonly field?: string };
  readonly busy: boolean;
}

export function usePlan(values: Readonly<Record<string, unknown>>, ready: boolean): Planned {
  const [state, setState] = useState<Planned>({ busy: false });
  const key = JSON.stringify(values);
  useEffect(() => {
    if (!ready) {
      setState((before) => ({ ...before, busy: false }));
      return;
    }
    const stop = new AbortController();
    setState((before) => ({ view: before.view, busy: true }));
    const timer = window.setTimeout(() => {
      calls.plan({ values }, stop.signal).then(
        (view) => !stop.signal.aborted && setState({ view, busy: false }),
        (error: unknown) => {
          if (stop.signal.aborted) return;
          const field = error instanceof CallError ? error.field : undefined;
          const message = error instanceof Error ? error.message : String(error);
          setState({ error: { message, field }, busy: false });
        },
      );
    }, planWaitMs);
    return () => {
      window.clearTimeout(timer);
      stop.abort();
    };
  }, [key, ready]);
  return state;
}
