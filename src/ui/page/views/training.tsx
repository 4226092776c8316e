// A run's curves: loss with evaluation and its standard error, learning rate, gradient norm, and whatever else its
// objective and its evaluations measure.

import { useMemo } from "preact/hooks";
import type { RunMetrics } from "../../api.ts";
import { Chart } from "../chart.tsx";
import { axisOf, type CurveLook, clipOf, evalLine, LookBar, linesOf, useLook } from "../curves.tsx";
import { lossUnit, wordsOf } from "../metric-words.ts";
import { Loading } from "../parts.tsx";
import type { TabProps } from "./tab-props.ts";

const told = new Set([
  "loss",
  "learningRate",
  "gradNorm",
  "tokensPerSecond",
  "elapsedMs",
  "tokens",
  "targetTokens",
]);

export function TrainingTab({ run, metrics }: TabProps) {
  const look = useLook(run.totalSteps);
  if (!metrics) return <Loading what="Reading the numbers…" />;
  return (
    <>
      <LookBar look={look} />
      {metrics.stepsPerPoint > 1 && (
        <p class="note">
          Each point is the mean of {metrics.stepsPerPoint} of {metrics.steps.toLocaleString("en-US")} steps.
        </p>
      )}
      <LossChart metrics={metrics} look={look} yLabel={lossUnit([run])} />
      <div class="charts">
        <Curve {...{ metrics, look }} name="learningRate" title="Learning rate" plain zero />
        <Curve {...{ metrics, look }} name="gradNorm" title="Gradient norm" note="Before clipping." />
        <Others {...{ metrics, look }} />
      </div>
      {metrics.badLines > 0 && (
        <p class="note">
          {metrics.badLines.toLocaleString("en-US")} lines of metrics.jsonl could not be read and are left
          out.
        </p>
      )}
    </>
  );
}

interface CurveProps {
  readonly metrics: RunMetrics;
  readonly look: CurveLook;
}

function LossChart({ metrics, look, yLabel }: CurveProps & { yLabel: string }) {
  const lines = useMemo(
    () => [
      ...linesOf(metrics, "loss", look, { label: "training", color: 0 }),
      ...evalLine(metrics, "loss", look, { label: "evaluation", color: 1 }),
      ...evalLine(metrics, "loss", look, { label: "rows not to forget", color: 2, table: "forget" }),
    ],
    [metrics, look.axis, look.smooth],
  );
  const best = metrics.best.at(-1);
  const notes = [
    lines.some(({ errors }) => errors) ? "Bars: two standard errors of the mean over rows." : "",
    metrics.eval.step.length === 0 ? "No evaluation yet: --eval-data or --eval-fraction asks for them." : "",
    best === undefined ? "" : `Best evaluation so far: step ${best.toLocaleString("en-US")}.`,
  ];
  return (
    <Chart
      title="Loss"
      lines={lines}
      {...axisOf(look)}
      range={clipOf(look, lines)}
      yLabel={yLabel}
      height={340}
      note={notes.filter(Boolean).join(" ")}
    />
  );
}

function Curve(
  props: CurveProps & { name: string; title: string; note?: string; plain?: boolean; zero?: boolean },
) {
  const { metrics, look, name, title } = props;
  const lines = useMemo(
    () =>
      linesOf(metrics, name, props.plain ? { ...look, smooth: 0 } : look, {
        label: title.toLowerCase(),
        color: 0,
      }),
    [metrics, name, look.axis, look.smooth],
  );
  return (
    <Chart
      title={title}
      lines={lines}
      {...axisOf(look)}
      range={props.plain ? undefined : clipOf(look, lines)}
      yLabel=""
      height={190}
      zero={props.zero}
      note={props.note}
    />
  );
}

/** What only some runs have, one chart each: evaluations' scores and the objective's own measures. */
function Others({ metrics, look }: CurveProps) {
  const scores = Object.keys(metrics.eval.series).filter(
    (name) => name !== "loss" && !name.endsWith("StandardError"),
  );
  const measures = Object.keys(metrics.train.series).filter((name) => !told.has(name));
  const forget = Object.keys(metrics.forget.series).filter((name) => name !== "loss");
  return (
    <>
      {measures.map((name) => (
        <Curve key={name} {...{ metrics, look, name }} title={wordsOf(name)} />
      ))}
      {scores.map((name) => (
        <Score key={name} {...{ metrics, look, name }} table="eval" title={`${wordsOf(name)}, evaluation`} />
      ))}
      {forget.map((name) => (
        <Score
          key={name}
          {...{ metrics, look, name }}
          table="forget"
          title={`${wordsOf(name)}, not to forget`}
        />
      ))}
    </>
  );
}

function Score(props: CurveProps & { name: string; title: string; table: "eval" | "forget" }) {
  const { metrics, look, name, title, table } = props;
  const lines = useMemo(
    () =>
      evalLine(metrics, name, look, { label: title.toLowerCase(), color: table === "eval" ? 1 : 2, table }),
    [metrics, name, look.axis],
  );
  if (lines.length === 0) return null;
  return <Chart title={title} lines={lines} {...axisOf(look)} log={false} yLabel="" height={190} />;
}
