// What `plan` says of the run that the form describes: memory of each method against what this machine has.

import type { PlanView } from "../../api.ts";
import { bytes, count, short } from "../numbers.ts";
import { Facts } from "../parts.tsx";
import { MemoryBar, MemoryLegend } from "./memory.tsx";
import type { Planned } from "./use-plan.ts";

export function PlanPanel({ plan, waits }: { plan: Planned; waits: string | undefined }) {
  const { view, error, busy } = plan;
  return (
    <aside class="card plan" aria-labelledby="plan-title" aria-busy={busy}>
      <div class="card-head">
        <h2 id="plan-title">Plan</h2>
        <span class="muted" role="status">
          {busy ? "Counting…" : ""}
        </span>
      </div>
      {error && error.field === undefined && <p class="problem">{error.message}</p>}
      {error && error.field !== undefined && <p class="note">There is no plan until the form is right.</p>}
      {waits !== undefined && <p class="empty">{waits}</p>}
      {view && !error && waits === undefined && <View view={view} />}
    </aside>
  );
}

/** In a word, whether the run that the form describes fits. */
export function Verdict({ view }: { view: PlanView }) {
  const chosen = view.methods.find((method) => method.chosen);
  if (!chosen) return null;
  const [needed, there] = [bytes(chosen.peakBytes), bytes(view.availableBytes)];
  return (
    <p class={`verdict ${chosen.fits ? "fits" : "over"}`}>
      {chosen.fits
        ? `Fits: ${needed} of ${there} that this machine has.`
        : `Does not fit: ${needed}, and this machine has ${there}.`}
    </p>
  );
}

function View({ view }: { view: PlanView }) {
  const most = Math.max(...view.methods.map(({ peakBytes }) => peakBytes), view.availableBytes * 0.001, 1);
  const chosen = view.methods.find((method) => method.chosen);
  return (
    <>
      <Verdict view={view} />
      <Facts
        facts={[
          ["Parameters", short(view.model.parameters)],
          ["Layers", count(view.model.layers)],
          ["Batch", `${view.batchSize} × ${count(view.sequenceLength)}`],
          ...(chosen ? [["Trains", short(chosen.trainableParameters)] as const] : []),
          ...(view.peakTokensPerSecond === undefined
            ? []
            : [["At the machine's peak", `${short(view.peakTokensPerSecond)} tokens/s`] as const]),
        ]}
      />
      {view.methods.map((method) => (
        <div key={method.name} class={method.chosen ? "method chosen" : "method"}>
          <MemoryBar
            name={method.chosen ? `${method.title} (chosen)` : method.title}
            total={method.peakBytes}
            parts={method.atPeak}
            most={most}
            limit={view.availableBytes}
          />
        </div>
      ))}
      <MemoryLegend parts={view.methods.map(({ atPeak }) => atPeak)} />
      {view.availableBytes <= most && (
        <p class="note">
          <span class="limit-mark" aria-hidden="true" />
          what this machine has
        </p>
      )}
      {view.notes.map((note) => (
        <p class="note" key={note}>
          {note}
        </p>
      ))}
    </>
  );
}
