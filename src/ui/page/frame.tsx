// What stays around every view: skip link, the bar with the way home, and words when the server is gone. Which view is
// shown is the address's (route.ts).

import { useEffect, useRef } from "preact/hooks";
import type { RunSummary } from "../api.ts";
import { bytes, percent } from "./numbers.ts";
import { go, linkTo, place } from "./route.ts";
import { connection, failure, runs, server } from "./run-store.ts";
import { chooseTheme, themeChoice, themeChoices } from "./theme.ts";
import { CompareView } from "./views/compare.tsx";
import { RunView } from "./views/run.tsx";
import { RunsView } from "./views/runs.tsx";
import { StartView } from "./views/start.tsx";

export function Frame() {
  const { path } = place.value;
  const [kind, id] = path;
  const main = useRef<HTMLElement>(null);
  const spot = `${kind ?? ""}/${id ?? ""}`;
  const first = useRef(true);
  const run = kind === "run" ? runs.value?.find((one) => one.id === id) : undefined;
  const title = titleOf(kind, id, run);
  useEffect(() => {
    document.title = title;
  }, [title]);
  // A reader of the screen hears the new view; a reload leaves the focus where the browser puts it.
  useEffect(() => {
    if (first.current) first.current = false;
    else {
      window.scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    }
  }, [spot]);
  return (
    <>
      {/* biome-ignore lint/a11y/useValidAnchor: a skip link is a link; the address it would change is the view's */}
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to content
      </a>
      <Bar />
      <main id="main" tabIndex={-1} ref={main}>
        {failure.value && !server.value ? (
          <div class="card problem" role="alert">
            <h1>Nothing to show</h1>
            <p>{failure.value}</p>
            <button type="button" onClick={() => window.location.reload()}>
              Try again
            </button>
          </div>
        ) : (
          <View key={spot} kind={kind} id={id} />
        )}
      </main>
    </>
  );
}

/** What a tab among many says: "45% first · lowrank". */
function titleOf(kind: string | undefined, id: string | undefined, run: RunSummary | undefined): string {
  const going = run?.state === "running" && run.totalSteps;
  const part = going ? `${percent(Math.floor((100 * run.step) / run.totalSteps!) / 100)} ` : "";
  const name = kind === "new" ? "New run" : id;
  return name === undefined ? "lowrank" : `${part}${name} · lowrank`;
}

function View({ kind, id }: { kind: string | undefined; id: string | undefined }) {
  if (kind === undefined) return <RunsView />;
  if (kind === "run" && id !== undefined) return <RunView id={id} />;
  if (kind === "compare" && id !== undefined) return <CompareView id={id} />;
  if (kind === "new") return <StartView />;
  return (
    <div class="card problem">
      <h1>No such page</h1>
      <p>
        <a href={linkTo([])}>All runs</a>
      </p>
    </div>
  );
}

function Bar() {
  const info = server.value;
  return (
    <header class="bar">
      <a class="home" href={linkTo([])}>
        <svg width="20" height="20" viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="7" fill="var(--accent)" />
          <path
            d="M6 8c3 11 8 15 20 16"
            fill="none"
            stroke="var(--on-accent)"
            stroke-width="3.4"
            stroke-linecap="round"
          />
        </svg>
        <span>lowrank</span>
      </a>
      {info && (
        <span class="where muted" title={info.folder}>
          {info.folder}
        </span>
      )}
      <span class="grow" />
      {info && (
        <span class="machine muted num no-phone">
          {info.machine.cores} cores · {bytes(info.machine.memoryBytes)}
        </span>
      )}
      <span class={`link ${connection.value}`} role="status">
        {connection.value === "lost" ? "Connection lost, trying again" : ""}
      </span>
      <ThemeSwitch />
      {info?.canStart && (
        <button type="button" class="primary" onClick={() => go(["new"])}>
          New run
        </button>
      )}
    </header>
  );
}

const themeWords = { auto: "as the system", light: "light", dark: "dark" } as const;
const themeMarks = { auto: "◐", light: "☀", dark: "☾" } as const;

function ThemeSwitch() {
  const choice = themeChoice.value;
  const next = themeChoices[(themeChoices.indexOf(choice) + 1) % themeChoices.length]!;
  return (
    <button
      type="button"
      class="quiet icon"
      title={`Colors: ${themeWords[choice]}`}
      aria-label={`Colors: ${themeWords[choice]}. Change to ${themeWords[next]}`}
      onClick={() => chooseTheme(next)}
    >
      <span aria-hidden="true">{themeMarks[choice]}︎</span>
    </button>
  );
}
