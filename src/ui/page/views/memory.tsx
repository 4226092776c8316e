// Tokens a second against the machine's measured peak, and memory by category against the plan.

import { useMemo, useState } from "preact/hooks";
import type { MemoryByCategory } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { Chart } from "../chart.tsx";
import { axisOf, type CurveLook, clipOf, LookBar, linesOf, useLook } from "../curves.tsx";
import { placesOf } from "../metrics-columns.ts";
import { bytes, percent, short } from "../numbers.ts";
import { Facts, Loading, Scroll } from "../parts.tsx";
import type { Line } from "../plot.ts";
import { server } from "../run-store.ts";
import { calls } from "../server-calls.ts";
import type { TabProps } from "./tab-props.ts";

const categories: readonly (readonly [string, string])[] = [
  ["weights", "Weights"],
  ["scales", "Scales of 4-bit weights"],
  ["adapters", "Adapters"],
  ["gradients", "Gradients"],
  ["optimizer", "Optimizer"],
  ["activations", "Activations"],
  ["logits", "Logits"],
  ["workspace", "Workspace"],
];

export function MemoryTab({ onPeak, ...props }: TabProps & { onPeak: () => void }) {
  const look = useLook(props.run.totalSteps);
  return (
    <>
      <LookBar look={look} />
      <Speed {...props} look={look} onPeak={onPeak} />
      <Memory {...props} />
    </>
  );
}

function Speed({
  run,
  detail,
  metrics,
  look,
  onPeak,
}: TabProps & { readonly look: CurveLook; readonly onPeak: () => void }) {
  const peak = detail.peakTokensPerSecond;
  const measured = useMemo(
    () => (metrics ? linesOf(metrics, "tokensPerSecond", look, { label: "tokens a second", color: 0 }) : []),
    [metrics, look.axis, look.smooth],
  );
  const lines = useMemo((): Line[] => {
    if (!metrics || peak === undefined || measured.length === 0) return measured;
    const xs = placesOf(metrics, look.axis);
    const level = xs.map(() => peak);
    return [...measured, { label: "machine's measured peak", color: 1, xs, ys: level, look: "level" }];
  }, [metrics, measured, peak]);
  const share = peak && run.tokensPerSecond ? run.tokensPerSecond / peak : undefined;
  const shown = server.value?.machine.peak;
  return (
    <>
      <Chart
        title="Tokens a second"
        lines={lines}
        {...axisOf(look)}
        range={clipOf(look, measured)}
        yLabel="tokens / s"
        zero
        height={260}
        note={
          share === undefined
            ? undefined
            : `The last steps run at ${percent(share)} of what this machine's matrix products reach.`
        }
        empty="This run does not write its speed (--no-timing), or has no step yet."
      />
      {peak === undefined && <PeakButton onPeak={onPeak} />}
      {shown && detail.flopsPerToken !== undefined && (
        <Facts
          facts={[
            ["Peak", `${short(shown.flopsPerSecond / 1e9)} GFLOP/s in ${shown.precision}`],
            ["Work", `${short(detail.flopsPerToken / 1e9)} GFLOP a token`],
            ["Measured on", shown.device],
          ]}
        />
      )}
    </>
  );
}

function PeakButton({ onPeak }: { onPeak: () => void }) {
  const [state, setState] = useState<"idle" | "busy" | string>("idle");
  const measure = async () => {
    setState("busy");
    try {
      await calls.peak();
      server.value = await calls.server();
      setState("idle");
      onPeak();
    } catch (error) {
      setState(error instanceof Error ? error.message : String(error));
    }
  };
  return (
    <div class="ask no-print">
      <button type="button" disabled={state === "busy"} onClick={() => void measure()}>
        {state === "busy" ? "Measuring…" : "Measure this machine's peak"}
      </button>
      <span class="muted">Takes a few seconds of every core, so not while a run should be fast.</span>
      {state !== "idle" && state !== "busy" && (
        <p class="problem" role="alert">
          {state}
        </p>
      )}
    </div>
  );
}

function Memory({ run }: TabProps) {
  const asked = useAsked(`${run.id} ${run.state}`, (signal) => calls.memory(run.id, signal));
  const view = asked.value;
  if (!view) return <Loading what="Counting what the run's plan was…" error={asked.error} />;
  const { planned, measured } = view;
  const most = Math.max(planned?.peakBytes ?? 0, measured?.peakBytes ?? 0, 1);
  const there = categories.filter(
    ([name]) => (planned?.atPeak[name] ?? 0) > 0 || (measured?.atPeak[name] ?? 0) > 0,
  );
  const measuredWord = measured?.early ? "At the beginning" : "Measured";
  const off =
    planned && measured && !measured.early
      ? (measured.peakBytes - planned.peakBytes) / Math.max(1, planned.peakBytes)
      : undefined;
  return (
    <section class="card" aria-labelledby="memory-title">
      <h3 id="memory-title">Memory at a step's peak</h3>
      {off !== undefined && (
        <p class="note">
          {Math.abs(off) < 0.005
            ? "As planned."
            : `${percent(Math.abs(off), 1)} ${off > 0 ? "more" : "less"} than planned.`}
        </p>
      )}
      {planned && <MemoryBar name="Planned" total={planned.peakBytes} parts={planned.atPeak} most={most} />}
      {measured && (
        <MemoryBar name={measuredWord} total={measured.peakBytes} parts={measured.atPeak} most={most} />
      )}
      <Scroll label="Memory by category">
        <table>
          <thead>
            <tr>
              <th scope="col">Category</th>
              <th scope="col" class="right">
                Planned
              </th>
              <th scope="col" class="right">
                {measuredWord}
              </th>
              {!measured?.early && (
                <th scope="col" class="right">
                  Difference
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {there.map(([name, title]) => (
              <tr key={name}>
                <th scope="row">
                  <span class="dot" style={{ background: categoryColor(name) }} aria-hidden="true" /> {title}
                </th>
                <td class="right num">{bytes(planned?.atPeak[name])}</td>
                <td class="right num">{bytes(measured?.atPeak[name])}</td>
                {!measured?.early && (
                  <td class="right num muted">{difference(planned?.atPeak[name], measured?.atPeak[name])}</td>
                )}
              </tr>
            ))}
          </tbody>
          <tfoot>
            <tr>
              <th scope="row">At the peak</th>
              <td class="right num">{bytes(planned?.peakBytes)}</td>
              <td class="right num">{bytes(measured?.peakBytes)}</td>
              {!measured?.early && (
                <td class="right num muted">{difference(planned?.peakBytes, measured?.peakBytes)}</td>
              )}
            </tr>
          </tfoot>
        </table>
      </Scroll>
      <Facts
        facts={(
          [
            ["Process now", view.rssBytes],
            ["Process at its peak", measured?.early ? undefined : measured?.peakRssBytes],
            ["Asked of the card", measured?.deviceBytes],
          ] as const
        )
          .filter(([, value]) => value !== undefined)
          .map(([name, value]) => [name, bytes(value)] as const)}
      />
      {view.notes.map((note) => (
        <p class="note" key={note}>
          {note}
        </p>
      ))}
    </section>
  );
}

function categoryColor(name: string): string {
  return `var(--series-${(categories.findIndex(([known]) => known === name) % 8) + 1})`;
}

export function MemoryBar(props: {
  readonly name: string;
  readonly total: number;
  readonly parts: MemoryByCategory;
  readonly most: number;
  readonly limit?: number;
}) {
  const { name, total, parts, most } = props;
  const there = categories.filter(([category]) => (parts[category] ?? 0) > 0);
  const told = there.map(([category, title]) => `${title} ${bytes(parts[category])}`).join(", ");
  return (
    <div class="memory-row">
      <span class="memory-name">{name}</span>
      <div class="memory-bar" role="img" aria-label={`${name}: ${bytes(total)}. ${told}.`}>
        {there.map(([category, title]) => (
          <span
            key={category}
            title={`${title}: ${bytes(parts[category])}`}
            style={{ width: `${(100 * parts[category]!) / most}%`, background: categoryColor(category) }}
          />
        ))}
        {props.limit !== undefined && props.limit <= most && (
          <i class="limit" style={{ left: `${(100 * props.limit) / most}%` }} />
        )}
      </div>
      <span class="num memory-total">{bytes(total)}</span>
    </div>
  );
}

/** Which color is which, where no table beside the bars says so. */
export function MemoryLegend({ parts }: { parts: readonly MemoryByCategory[] }) {
  return (
    <ul class="legend">
      {categories
        .filter(([category]) => parts.some((one) => (one[category] ?? 0) > 0))
        .map(([category, title]) => (
          <li key={category}>
            <span class="dot" style={{ background: categoryColor(category) }} aria-hidden="true" />
            <span class="name">{title}</span>
          </li>
        ))}
    </ul>
  );
}

function difference(planned: number | undefined, measured: number | undefined): string {
  if (planned === undefined || measured === undefined) return "–";
  const change = measured - planned;
  if (change === 0) return "0";
  return `${change > 0 ? "+" : "−"}${bytes(Math.abs(change))}`;
}
