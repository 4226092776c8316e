// Lines of run.sh as one table: what was measured beside PEFT + bitsandbytes in the same call, its ratio, and whether it is what
// was asked for. What failed or did not run stands first.
//   node table.mjs result.jsonl [table.md]

import { readFileSync, writeFileSync } from "node:fs";

/** Rows of the table from the lines of a run. */
export function tableOf(lines) {
  const find = (test) => lines.find(test);
  const parts = lines.filter(({ part }) => part !== undefined);
  const problems = [
    ...parts.flatMap(({ part, code, skipped }) =>
      skipped ? [`${part} did not run: no time was left`] : code ? [`${part} ended with ${code}`] : [],
    ),
    ...lines.flatMap(({ conform, tier, precision, failed, failures }) =>
      failed ? [`${conform} ${tier ?? precision}: ${failed} cases fail, first ${failures[0].case}`] : [],
    ),
  ];
  const rows = [];
  const add = (what, ours, theirs, wanted, holds) =>
    rows.push({ what, ours, theirs, wanted, holds: holds === undefined ? "" : holds ? "yes" : "no" });

  for (const { conform, tier, precision, cases, failed, worst } of lines.filter((line) => line.conform)) {
    const most = Math.max(...Object.values(worst));
    add(
      `conformance, ${conform} ${tier ?? precision}`,
      `${cases} cases, worst ${most.toExponential(1)}`,
      "",
      "all",
      failed === 0,
    );
  }
  for (const { sanitizer, code } of lines.filter((line) => line.sanitizer))
    add(`compute-sanitizer ${sanitizer}`, code, "", "0", code === 0);

  const theirProducts = lines.filter(({ ceiling }) => ceiling === "products");
  for (const { rows: m, outputs, inputs, forwardTflops, inputTflops } of theirProducts) {
    for (const [form, theirs] of [
      ["forward", forwardTflops],
      ["input", inputTflops],
    ]) {
      const shape = `${outputs}x${inputs}`;
      const found = lines.filter(
        (line) => line.kind === "nf4" && line.shape === shape && line.form === form && line.rows === m,
      );
      if (found.length === 0 || !theirs) continue;
      const ours = Math.max(...found.map(({ tflops }) => tflops));
      add(
        `NF4 product ${m}x${shape}, ${form}`,
        `${ours.toFixed(0)} TFLOP/s`,
        `${theirs.toFixed(0)}`,
        "1.0x",
        ours >= theirs,
      );
    }
  }

  const steps = (label, ours, theirs, median, best) => {
    if (!ours) return;
    const mine = medianOf(ours.stepsMs);
    const text = `${mine.toFixed(0)} ms, ${gigabytes(ours.deviceBytes ?? ours.peakBytes)}`;
    if (!theirs) return add(label, text, "", "");
    const ratios = [theirs.medianMs / mine, theirs.bestMs / mine];
    add(
      label,
      text,
      `${theirs.medianMs.toFixed(0)} ms (best ${theirs.bestMs.toFixed(0)}), ${gigabytes(theirs.peakBytes)}`,
      `${median}x by median${best ? `, ${best}x by best` : ""}: ${ratios.map((ratio) => ratio.toFixed(2)).join(", ")}`,
      ratios[0] >= median && (!best || ratios[1] >= best),
    );
  };
  const after = (name) => {
    // A part's lines stand before the line that closes it.
    const end = lines.findIndex(({ part }) => part === name);
    if (end < 0) return undefined;
    for (let i = end - 1; i >= 0 && lines[i].part === undefined; i--)
      if (lines[i].stepsMs || lines[i].peft) return lines[i];
    return undefined;
  };
  steps("7B QLoRA 1x1024", after("steps-7b"), after("peft-7b"), 2, 1.5);
  steps("7B QLoRA 1x1024, recomputed", after("steps-7b-recomputed"), after("peft-7b-recomputed"), 2);
  const recomputed = after("steps-7b-recomputed");
  if (recomputed)
    add(
      "its memory",
      gigabytes(recomputed.deviceBytes),
      `predicted ${gigabytes(recomputed.predictedDeviceBytes)}`,
      "5.50 GB, within 3%",
      recomputed.deviceBytes < 5.5e9 &&
        Math.abs(recomputed.predictedDeviceBytes / recomputed.deviceBytes - 1) <= 0.03,
    );
  steps("TinyLlama QLoRA 4x512", after("steps-tinyllama"), after("peft-tinyllama"), 2.5);
  steps("TinyLlama QLoRA 4x512, WebGPU", after("steps-tinyllama-webgpu"), after("peft-tinyllama"), 1);
  steps("65B-shaped QLoRA 1x512, recomputed", after("steps-65b"), undefined);

  const copy = find(({ ceiling }) => ceiling === "copy")?.terabytesPerSecond;
  const decode = find((line) => line.decode);
  if (decode)
    add(
      "decode of 7B NF4, one request",
      `${decode.msPerToken.toFixed(2)} ms a token, ${decode.terabytesPerSecond.toFixed(2)} TB/s`,
      copy ? `copies ${copy.toFixed(2)} TB/s` : "",
      "60%",
      copy ? decode.terabytesPerSecond >= 0.6 * copy : undefined,
    );
  const quickstart = find((line) => line.quickstart !== undefined);
  if (quickstart)
    add(
      "quickstart",
      `${quickstart.trainingSeconds} s of training, ${quickstart.before}% to ${quickstart.after}%`,
      "",
      "5 s",
      quickstart.trainingSeconds < 5,
    );
  return { problems, rows };
}

const medianOf = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const gigabytes = (bytes) => (bytes === undefined ? "?" : `${(bytes / 1e9).toFixed(2)} GB`);

function render({ problems, rows }) {
  return [
    ...problems.map((problem) => `- ${problem}`),
    ...(problems.length > 0 ? [""] : []),
    "| | here | PEFT + bitsandbytes | asked for | holds |",
    "|---|---|---|---|---|",
    ...rows.map(
      ({ what, ours, theirs, wanted, holds }) => `| ${what} | ${ours} | ${theirs} | ${wanted} | ${holds} |`,
    ),
    "",
  ].join("\n");
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [from, to] = process.argv.slice(2);
  const lines = readFileSync(from, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .flatMap((line) => {
      try {
        return [JSON.parse(line)];
      } catch {
        return []; // a part that was ended in the middle of a line
      }
    });
  const text = render(tableOf(lines));
  if (to) writeFileSync(to, text);
  else console.log(text);
}
