// What training changed, layer by layer: sizes of updates as a table that is colored by them, and the spectrum of the one
// that is chosen.

import { useMemo, useRef } from "preact/hooks";
import type { LayersView } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { Chart } from "../chart.tsx";
import { percent, short } from "../numbers.ts";
import { Facts, Loading } from "../parts.tsx";
import { place, setQuery } from "../route.ts";
import { calls } from "../server-calls.ts";
import type { TabProps } from "./tab-props.ts";

type Module = LayersView["modules"][number];

export function LayersTab({ run, detail }: TabProps) {
  const { query } = place.value;
  const step = query.step;
  const asked = useAsked(`${run.id} ${step ?? ""} ${run.state}`, (signal) =>
    calls.layers(run.id, step, signal),
  );
  const view = asked.value;
  const modules = view?.modules ?? [];
  const chosen = modules.find(({ name }) => name === query.module) ?? largest(modules);
  return (
    <section aria-labelledby="layers-title">
      <h2 id="layers-title" class="hidden">
        Layers
      </h2>
      <div class="look no-print">
        <label class="field-inline">
          <span>Weights of</span>
          <select
            value={step ?? ""}
            onChange={(event) => setQuery({ step: event.currentTarget.value || undefined })}
          >
            <option value="">the newest</option>
            {detail.checkpoints.map((at) => (
              <option key={at} value={String(at)}>
                step {at}
              </option>
            ))}
          </select>
        </label>
        <span class="grow" />
        <button type="button" class="small" disabled={asked.loading} onClick={asked.again}>
          Look again
        </button>
      </div>
      {!view || asked.error ? (
        <Loading what="Decomposing the updates…" error={asked.error} />
      ) : modules.length === 0 ? (
        <p class="empty">Nothing has changed yet.</p>
      ) : (
        <div class="layers" aria-busy={asked.loading}>
          <Sizes view={view} chosen={chosen} />
          {chosen && <Spectrum module={chosen} />}
        </div>
      )}
    </section>
  );
}

/** In the order of a layer's pass; what else there is comes after. */
const usualOrder = [
  "q_proj",
  "k_proj",
  "v_proj",
  "qkv_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "gate_up_proj",
  "down_proj",
];

function placeOf(target: string): number {
  const at = usualOrder.indexOf(target);
  return at < 0 ? usualOrder.length : at;
}

/** Of the base's weight where that is known, else the update's own norm. */
function sizeOf(module: Module): number {
  return module.relativeSize ?? module.norm;
}

function largest(modules: readonly Module[]): Module | undefined {
  return modules.reduce<Module | undefined>(
    (best, one) => (best === undefined || sizeOf(one) > sizeOf(best) ? one : best),
    undefined,
  );
}

function Sizes({ view, chosen }: { view: LayersView; chosen: Module | undefined }) {
  const { modules } = view;
  const table = useRef<HTMLTableElement>(null);
  const targets = [...new Set(modules.map(({ target }) => target))].sort(
    (one, other) => placeOf(one) - placeOf(other),
  );
  const layers = [...new Set(modules.map(({ layer }) => layer))].sort((a, b) => (a ?? -1) - (b ?? -1));
  const relative = modules.every(({ relativeSize }) => relativeSize !== undefined);
  const most = Math.max(...modules.map(sizeOf), 1e-12);
  const cells = layers.map((layer) =>
    targets.map((target) => modules.find((one) => one.layer === layer && one.target === target)),
  );
  const onKeyDown = (event: KeyboardEvent) => {
    const row = cells.findIndex((line) => line.includes(chosen));
    const at = cells[row]?.indexOf(chosen) ?? -1;
    if (row < 0) return;
    const down = Number(event.key === "ArrowDown") - Number(event.key === "ArrowUp");
    const right = Number(event.key === "ArrowRight") - Number(event.key === "ArrowLeft");
    const next = cells[row + down]?.[at + right];
    if (!next || next === chosen) return;
    event.preventDefault();
    setQuery({ module: next.name });
    table.current?.querySelector<HTMLElement>(`[data-cell="${row + down} ${at + right}"]`)?.focus();
  };
  return (
    <section class="card" aria-labelledby="sizes-title">
      <h3 id="sizes-title">Size of updates</h3>
      <p class="note">
        {relative ? "Norm of the update over the norm of the base's weight." : "Norm of the update."}{" "}
        {view.step === "result" ? "Of the result." : `Of step ${view.step.toLocaleString("en-US")}.`}
      </p>
      <div class="scroll">
        <table class="heat" ref={table} onKeyDown={onKeyDown}>
          <thead>
            <tr>
              <th scope="col">Layer</th>
              {targets.map((target) => (
                <th scope="col" key={target}>
                  {target.replace(/_proj$/, "")}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {cells.map((line, row) => (
              <tr key={layers[row] ?? "none"}>
                <th scope="row" class="num">
                  {layers[row] ?? "–"}
                </th>
                {line.map((module, at) => (
                  <td key={targets[at]}>
                    {module && (
                      <button
                        type="button"
                        data-cell={`${row} ${at}`}
                        class="num"
                        style={{ "--heat": String(sizeOf(module) / most) }}
                        aria-pressed={module === chosen}
                        aria-label={`${relative ? percent(sizeOf(module), 1) : short(sizeOf(module))}, ${module.name}`}
                        tabIndex={module === chosen ? 0 : -1}
                        onClick={() => setQuery({ module: module.name })}
                      >
                        {relative ? percent(sizeOf(module), 1) : short(sizeOf(module))}
                      </button>
                    )}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {view.unchanged.length > 0 && (
        <details class="numbers">
          <summary>
            {view.unchanged.length === 1 ? "1 module" : `${view.unchanged.length} modules`} without any change
          </summary>
          <p class="muted">{view.unchanged.slice(0, 200).join(", ")}</p>
        </details>
      )}
    </section>
  );
}

function Spectrum({ module }: { module: Module }) {
  const lines = useMemo(
    () => [
      {
        label: "singular value",
        color: 0,
        look: "points" as const,
        xs: module.singularValues.map((_, i) => i + 1),
        ys: module.singularValues.map((value) => (value > 0 ? value : null)),
      },
    ],
    [module],
  );
  return (
    <div>
      <Chart
        title={`Spectrum of ${module.name}`}
        lines={lines}
        log
        xLabel="rank"
        yLabel="singular value"
        height={250}
        legend={false}
      />
      <Facts
        facts={[
          ["Shape", module.shape.join(" × ")],
          ["Norm", short(module.norm)],
          ...(module.relativeSize === undefined
            ? []
            : [["Of the weight's", percent(module.relativeSize, 2)] as const]),
          ["90% of the energy", rank(module.rank90)],
          ["95%", rank(module.rank95)],
          ["99%", rank(module.rank99)],
          ["Effective rank", short(module.effectiveRank)],
        ]}
      />
    </div>
  );
}

function rank(value: number | null): string {
  return value === null ? "more than computed" : `rank ${value}`;
}
