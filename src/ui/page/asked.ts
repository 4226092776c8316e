// Something that a view asks the server for when it is first shown, and again when what it depends on changes.

import { useCallback, useEffect, useState } from "preact/hooks";

export interface Asked<T> {
  readonly value?: T;
  readonly error?: string;
  readonly loading: boolean;
  again(): void;
}

/** The last answer stays while the next one is made. `key` undefined: not asked yet. */
export function useAsked<T>(key: string | undefined, ask: (signal: AbortSignal) => Promise<T>): Asked<T> {
  const [state, setState] = useState<{ key?: string; value?: T; error?: string; loading: boolean }>({
    loading: key !== undefined,
  });
  const [round, setRound] = useState(0);
  useEffect(() => {
    if (key === undefined) return;
    const stop = new AbortController();
    setState((before) => ({ ...before, loading: true, error: undefined }));
    ask(stop.signal).then(
      (value) => !stop.signal.aborted && setState({ key, value, loading: false }),
      (error: unknown) => {
        if (stop.signal.aborted) return;
        const words = error instanceof Error ? error.message : String(error);
        setState((before) => ({ ...before, error: words, loading: false }));
      },
    );
    return () => stop.abort();
  }, [key, round]);
  const again = useCallback(() => setRound((before) => before + 1), []);
  return { value: state.value, error: state.error, loading: state.loading, again };
}
