// What the tuned model writes beside what its base writes, to rows' own prompts or to the reader's.

import { useState } from "preact/hooks";
import type { SamplesRequest } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { Loading } from "../parts.tsx";
import { calls } from "../server-calls.ts";
import type { TabProps } from "./tab-props.ts";

const usualTokens = 48;

export function SamplesTab({ run }: TabProps) {
  const [prompt, setPrompt] = useState("");
  const [tokens, setTokens] = useState(usualTokens);
  const [wanted, setWanted] = useState<SamplesRequest>({ maxNewTokens: usualTokens });
  const asked = useAsked(`${run.id} ${JSON.stringify(wanted)}`, (signal) =>
    calls.samples(run.id, wanted, signal),
  );
  const view = asked.value;
  const ask = (event: Event) => {
    event.preventDefault();
    const next: SamplesRequest = { ...(prompt !== "" && { prompts: [prompt] }), maxNewTokens: tokens };
    if (JSON.stringify(next) === JSON.stringify(wanted)) asked.again();
    else setWanted(next);
  };
  return (
    <section aria-labelledby="samples-title">
      <h2 id="samples-title" class="hidden">
        Samples
      </h2>
      <form class="ask-form no-print" onSubmit={ask}>
        <label class="wide-field">
          <span>Prompt</span>
          <textarea
            rows={2}
            value={prompt}
            placeholder="Rows' own prompts when empty"
            onInput={(event) => setPrompt(event.currentTarget.value)}
          />
        </label>
        <label>
          <span>Tokens</span>
          <input
            type="number"
            min={1}
            max={256}
            value={tokens}
            onInput={(event) =>
              setTokens(Math.min(256, Math.max(1, Number(event.currentTarget.value) || usualTokens)))
            }
          />
        </label>
        <button type="submit" class="primary" disabled={asked.loading}>
          {asked.loading ? "Writing…" : "Ask both"}
        </button>
      </form>
      {!view || asked.error ? (
        <Loading what="The base and the tuned model are writing…" error={asked.error} />
      ) : (
        <div aria-busy={asked.loading} aria-live="polite">
          <p class="note">
            {view.step === undefined
              ? "Nothing is saved yet: only the base answers."
              : `The likeliest token each time. Tuned: the weights of step ${view.step.toLocaleString("en-US")}.`}
          </p>
          {view.samples.length === 0 && <p class="empty">No row has a prompt; write one above.</p>}
          {view.samples.map((sample, i) => (
            <article class="card sample" key={`${i} ${sample.prompt}`}>
              <h3>Prompt</h3>
              <pre>{sample.prompt}</pre>
              <div class="answers">
                <Answer title="Base" text={sample.base} expected={sample.expected} />
                {sample.tuned !== undefined && (
                  <Answer title="Tuned" text={sample.tuned} expected={sample.expected} tuned />
                )}
                {sample.expected !== undefined && <Answer title="The row has" text={sample.expected} />}
              </div>
            </article>
          ))}
        </div>
      )}
    </section>
  );
}

function Answer(props: { title: string; text: string; expected?: string; tuned?: boolean }) {
  const same = props.expected !== undefined && props.text.trim() === props.expected.trim();
  return (
    <div class={`answer${props.tuned ? " tuned" : ""}`}>
      <h4>
        {props.title}
        {same && <span class="same">as the row has it</span>}
      </h4>
      <pre>{props.text === "" ? <span class="muted">(nothing)</span> : props.text}</pre>
    </div>
  );
}
