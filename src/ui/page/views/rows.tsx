// Rows as the run learns them: each token with whether the loss counts it and what it costs under the base and under what
// was trained. Texts are strangers': they are only ever text nodes.

import { useRef, useState } from "preact/hooks";
import type { RowView, TokenView } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { short } from "../numbers.ts";
import { Choice, Loading, Scroll } from "../parts.tsx";
import { place, setQuery } from "../route.ts";
import { calls } from "../server-calls.ts";
import type { TabProps } from "./tab-props.ts";

const rowsAtOnce = 5;
const shades = ["before", "after", "change"] as const;
type Shade = (typeof shades)[number];
const shadeWords = { before: "Base", after: "Tuned", change: "Change" } as const;
/** Nats at which a token's color is full: a probability of 1 in 148. */
const fullLoss = 5;

export function RowsTab({ run, detail }: TabProps) {
  const { query } = place.value;
  const hasEval = detail.evalData !== undefined || detail.recipe.evalFraction !== undefined;
  // Of prompts that the model answers itself no token is learnt.
  const hasLosses = run.objective !== "grpo";
  const set = query.set === "eval" && hasEval ? "eval" : query.set === "train" || !hasEval ? "train" : "eval";
  const from = Math.max(0, Math.floor(Number(query.from ?? 0)) || 0);
  const shade = shades.find((one) => one === query.shade) ?? "after";
  // Asked for once a view: while the run goes on its checkpoints change, and the reader says when to look again.
  const asked = useAsked(`${run.id} ${set} ${from}`, (signal) =>
    calls.rows(run.id, set, from, rowsAtOnce, signal),
  );
  const view = asked.value;
  return (
    <section aria-labelledby="rows-title">
      <h2 id="rows-title" class="hidden">
        Rows
      </h2>
      <div class="look no-print">
        {hasEval && (
          <Choice
            label="Rows of"
            options={[
              ["eval", "Evaluation rows"],
              ["train", "Training rows"],
            ]}
            chosen={set}
            onChoose={(next) => setQuery({ set: next, from: undefined })}
          />
        )}
        {hasLosses && (
          <>
            <Choice
              label="Color by the loss of"
              options={shades.map((one) => [one, shadeWords[one]] as const)}
              chosen={shade}
              onChoose={(next) => setQuery({ shade: next })}
            />
            <Scale shade={shade} />
          </>
        )}
        <span class="grow" />
        <button type="button" class="small" disabled={asked.loading} onClick={asked.again}>
          Look again
        </button>
      </div>
      {!view || asked.error ? (
        <Loading what="Running the rows through the base and the tuned model…" error={asked.error} />
      ) : (
        <div aria-busy={asked.loading}>
          <p class="note">
            {!hasLosses
              ? "The run learns from the answers that it writes to these prompts itself; Samples has some."
              : `Gray tokens are read and not learnt. ${
                  view.step === undefined
                    ? "Nothing is saved yet, so there is no tuned model to hold against the base."
                    : `Tuned: the weights of step ${view.step.toLocaleString("en-US")}.`
                }`}
          </p>
          {view.rows.map((row, i) => (
            <Row
              key={`${row.label} ${row.part} ${i}`}
              row={row}
              shade={shade}
              tuned={view.step !== undefined}
              hint={i === 0}
            />
          ))}
          <Pager from={view.from} count={view.count} total={view.total} busy={asked.loading} />
        </div>
      )}
    </section>
  );
}

function Pager({ from, count, total, busy }: { from: number; count: number; total: number; busy: boolean }) {
  const to = (next: number) => setQuery({ from: next <= 0 ? undefined : String(next) });
  return (
    <div class="pager no-print">
      <button type="button" disabled={busy || from === 0} onClick={() => to(from - rowsAtOnce)}>
        Earlier
      </button>
      <span class="num muted">
        {count === 0 ? "none" : `${from + 1} to ${from + count}`} of {total.toLocaleString("en-US")}
      </span>
      <button type="button" disabled={busy || from + count >= total} onClick={() => to(from + rowsAtOnce)}>
        Later
      </button>
    </div>
  );
}

function meanOf(tokens: readonly TokenView[], which: "before" | "after"): number | undefined {
  const losses = tokens.flatMap((token) =>
    token.target && token[which] !== undefined ? [token[which]] : [],
  );
  return losses.length === 0 ? undefined : losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

function Row(props: { row: RowView; shade: Shade; tuned: boolean; hint: boolean }) {
  const { row, shade, tuned, hint } = props;
  const { tokens } = row;
  const [at, setAt] = useState<number>();
  const [open, setOpen] = useState(false);
  const list = useRef<HTMLDivElement>(null);
  const [before, after] = [meanOf(tokens, "before"), meanOf(tokens, "after")];
  const targets = tokens.filter(({ target }) => target).length;
  const name = row.part ? `${row.label}, ${row.part}` : row.label;
  const move = (to: number) => {
    const next = Math.min(tokens.length - 1, Math.max(0, to));
    setAt(next);
    (list.current?.children[next] as HTMLElement | undefined)?.scrollIntoView({ block: "nearest" });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const here = at ?? -1;
    const to = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      ArrowUp: here - 10,
      ArrowDown: here + 10,
      Home: 0,
      End: tokens.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  };
  const spoken = tokens[at ?? 0];
  return (
    <article class="card row">
      <div class="card-head">
        <h3>{name}</h3>
        <span class="num">
          <span class="muted">
            {targets === 0 ? `${tokens.length} tokens` : `${targets} of ${tokens.length} tokens learnt`}
            {row.cut ? ", the rest is not shown" : ""}
          </span>
          {before !== undefined && (
            <>
              <span class="muted"> · base </span>
              <b>{short(before)}</b>
              {tuned && (
                <>
                  <span class="muted"> · tuned </span>
                  <b>{short(after)}</b>
                </>
              )}
              <span class="muted"> nats a token</span>
            </>
          )}
        </span>
      </div>
      <div
        class={`tokens ${shade}`}
        role="slider"
        tabIndex={0}
        aria-label={`Tokens of ${name}`}
        aria-valuemin={1}
        aria-valuemax={Math.max(1, tokens.length)}
        aria-valuenow={(at ?? 0) + 1}
        aria-valuetext={spoken ? tokenWords(spoken) : "no tokens"}
        ref={list}
        onKeyDown={onKeyDown}
        onPointerOver={(event) => {
          const index = (event.target as HTMLElement).dataset.at;
          if (index !== undefined) setAt(Number(index));
        }}
      >
        {tokens.map((token, i) => (
          <span
            key={i}
            data-at={i}
            class={`token${token.target ? " target" : ""}${i === at ? " at" : ""}`}
            style={token.target ? { "--heat": String(heat(token, shade)) } : undefined}
          >
            {visible(token.text)}
          </span>
        ))}
      </div>
      <p class="token-words num" aria-hidden="true">
        {at !== undefined ? tokenWords(tokens[at]!) : hint ? "Point at a token, or use the arrow keys." : ""}
      </p>
      <details class="numbers" onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>Numbers</summary>
        {open && <TokenTable tokens={tokens} label={name} />}
      </details>
    </article>
  );
}

/** Share of full color, -1 to 1: below 0 is a token that became cheaper. */
function heat(token: TokenView, shade: Shade): number {
  const { before, after } = token;
  const share = (value: number) => Math.max(-1, Math.min(1, value / fullLoss));
  if (shade === "before") return before === undefined ? 0 : share(before);
  if (shade === "after")
    return after === undefined ? (before === undefined ? 0 : share(before)) : share(after);
  return before === undefined || after === undefined ? 0 : share(after - before);
}

/** White space that would not be seen. */
function visible(text: string): string {
  const marked = text.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥\t");
  return marked === "" ? "∅" : marked;
}

function tokenWords(token: TokenView): string {
  const text = JSON.stringify(token.text);
  if (!token.target) return `${text}, id ${token.id}: read, not learnt`;
  const odds = (loss: number) => `${short(loss)} nats (p ${short(Math.exp(-loss))})`;
  const parts = [
    token.before === undefined ? undefined : `base ${odds(token.before)}`,
    token.after === undefined ? undefined : `tuned ${odds(token.after)}`,
  ];
  return `${text}, id ${token.id}: ${parts.filter(Boolean).join(", ") || "no loss"}`;
}

function Scale({ shade }: { shade: Shade }) {
  const ends = shade === "change" ? [`−${fullLoss}`, `+${fullLoss} nats`] : ["0", `${fullLoss} nats`];
  return (
    <span class="scale" aria-hidden="true">
      <span class="num">{ends[0]}</span>
      <span class={`ramp ${shade}`} />
      <span class="num">{ends[1]}</span>
    </span>
  );
}

function TokenTable({ tokens, label }: { tokens: readonly TokenView[]; label: string }) {
  return (
    <Scroll label={`Tokens of ${label}, as a table`}>
      <table>
        <thead>
          <tr>
            <th scope="col">Token</th>
            <th scope="col" class="right">
              Id
            </th>
            <th scope="col">Learnt</th>
            <th scope="col" class="right">
              Base
            </th>
            <th scope="col" class="right">
              Tuned
            </th>
          </tr>
        </thead>
        <tbody>
          {tokens.map((token, i) => (
            <tr key={i}>
              <th scope="row" class="token-cell">
                {JSON.stringify(token.text)}
              </th>
              <td class="right num">{token.id}</td>
              <td>{token.target ? "yes" : "no"}</td>
              <td class="right num">{short(token.before)}</td>
              <td class="right num">{short(token.after)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
