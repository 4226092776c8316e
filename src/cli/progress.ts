// Progress of a run of known length: one live line where a person watches, a plain line now and then elsewhere (a
// log file, a CI job). Not here: drawing on the screen (terminal.ts).

import { formatDuration, formatLoss, formatRate, formatShare } from "./format.ts";
import type { Terminal } from "./terminal.ts";

/** About so many plain lines in a whole run. */
const plainLines = 20;
/** And one at least so often, so that a long step is not taken for a hang. */
const plainEveryMs = 60_000;

export interface StepProgress {
  readonly step: number;
  readonly loss: number;
  readonly tokensPerSecond: number;
  readonly rewardMargin?: number;
  readonly rewardAccuracy?: number;
  readonly reward?: number;
  readonly completionLength?: number;
}

export interface Progress {
  update(progress: StepProgress): void;
  /** Takes the live line away. */
  end(): void;
}

/** Progress from `firstStep` to `totalSteps`. `now` is a clock in milliseconds. */
export function trackProgress(
  terminal: Terminal,
  firstStep: number,
  totalSteps: number,
  now: () => number = () => performance.now(),
): Progress {
  const startedMs = now();
  let printedStep = firstStep - 1;
  let printedMs = startedMs;
  const stride = Math.max(1, Math.ceil((totalSteps - firstStep + 1) / plainLines));

  return {
    update({ step, loss, tokensPerSecond, rewardMargin, rewardAccuracy, reward, completionLength }) {
      const elapsed = now() - startedMs;
      const remaining = (elapsed / (step - firstStep + 1)) * (totalSteps - step);
      const parts = [
        `step ${String(step).padStart(String(totalSteps).length)}/${totalSteps}`,
        `loss ${formatLoss(loss)}`,
        ...(reward === undefined ? [] : [`reward ${reward.toFixed(3)}`]),
        ...(completionLength === undefined ? [] : [`length ${completionLength.toFixed(1)}`]),
        ...(rewardMargin === undefined ? [] : [`margin ${rewardMargin.toFixed(3)}`]),
        ...(rewardAccuracy === undefined ? [] : [`accuracy ${formatShare(rewardAccuracy)}`]),
        `${formatRate(tokensPerSecond)} tokens/s`,
        step < totalSteps ? `${formatDuration(remaining)} left` : `took ${formatDuration(elapsed)}`,
      ];
      if (terminal.live) {
        const line = parts.join("  ");
        const room = terminal.columns - line.length - 3;
        terminal.status(
          (room >= 10 ? `${bar(step / totalSteps, Math.min(30, room))} ${line}` : line).slice(
            0,
            terminal.columns - 1,
          ),
        );
        return;
      }
      const due = step - printedStep >= stride || now() - printedMs >= plainEveryMs;
      if (step === firstStep || step === totalSteps || due) {
        terminal.note(parts.join("  "));
        printedStep = step;
        printedMs = now();
      }
    },
    end: () => terminal.status(""),
  };
}

function bar(part: number, width: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, part)) * width);
  return "█".repeat(filled) + "░".repeat(width - filled);
}
