// What decided the run: its command line, its options, its data, and the last words of its process.

import { useState } from "preact/hooks";
import type { DataSummary } from "../../api.ts";
import { draftOf, writeDraft } from "../draft.ts";
import { count } from "../numbers.ts";
import { Facts, Scroll } from "../parts.tsx";
import { linkTo } from "../route.ts";
import { freeName, server } from "../run-store.ts";
import type { TabProps } from "./tab-props.ts";

export function RecipeTab({ run, detail }: TabProps) {
  const options = Object.entries(detail.recipe).filter(([, value]) => value !== undefined && value !== null);
  return (
    <>
      <section class="card" aria-labelledby="command-title">
        <div class="card-head">
          <h3 id="command-title">The same from a terminal</h3>
          <span class="no-print">
            {server.value?.canStart && (
              <a
                class="again"
                href={linkTo(["new"], {
                  name: freeName(run.id),
                  values: writeDraft(draftOf(detail.recipe)),
                })}
              >
                Start another like this
              </a>
            )}
            <Copy text={detail.command} />
          </span>
        </div>
        <pre class="command">{detail.command}</pre>
      </section>
      <div class="pair">
        <section class="card" aria-labelledby="options-title">
          <h3 id="options-title">Options</h3>
          <Scroll label="Options">
            <table>
              <thead>
                <tr>
                  <th scope="col">Option</th>
                  <th scope="col">Value</th>
                </tr>
              </thead>
              <tbody>
                {options.map(([name, value]) => (
                  <tr key={name}>
                    <th scope="row">{name}</th>
                    <td class="value">{typeof value === "string" ? value : JSON.stringify(value)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        </section>
        <div>
          <Data title="Training data" data={detail.data} />
          <Data title="Evaluation data" data={detail.evalData} />
          <section class="card" aria-labelledby="made-title">
            <h3 id="made-title">Made with</h3>
            <Facts
              facts={(
                [
                  ["lowrank", detail.lowrank],
                  ["Device", detail.device],
                  ["Backend", detail.backend],
                  ["Precision", detail.precision],
                  ["Checkpoints", detail.checkpoints.map((step) => `step ${step}`).join(", ") || undefined],
                  ["Ended", detail.stoppedEarly ? "before its last step" : undefined],
                ] as const
              ).flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const]))}
            />
          </section>
        </div>
      </div>
      {detail.log.length > 0 && (
        <section class="card" aria-labelledby="log-title">
          <h3 id="log-title">Last words of the process</h3>
          <Scroll label="Log" atEnd>
            <pre class="log">{detail.log.join("\n")}</pre>
          </Scroll>
        </section>
      )}
    </>
  );
}

function Data({ title, data }: { title: string; data: DataSummary | undefined }) {
  if (!data) return null;
  return (
    <section class="card">
      <h3>{title}</h3>
      <p class="path">{data.file}</p>
      <Facts
        facts={[
          ["Rows", count(data.rows)],
          ["Tokens", count(data.tokens)],
          ["Learnt", count(data.targetTokens)],
        ]}
      />
    </section>
  );
}

function Copy({ text }: { text: string }) {
  const [done, setDone] = useState(false);
  // A page from another address than loopback has no clipboard.
  if (!navigator.clipboard) return null;
  const copy = async () => {
    await navigator.clipboard.writeText(text).then(
      () => setDone(true),
      () => setDone(false),
    );
    window.setTimeout(() => setDone(false), 1500);
  };
  return (
    <button type="button" class="small no-print" onClick={() => void copy()}>
      <span role="status">{done ? "Copied" : "Copy"}</span>
    </button>
  );
}
