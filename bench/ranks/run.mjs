// Two ranks on two hosts that are network namespaces of this machine, their link shaped to a rate: bytes on the wire
// beside the least there can be, and the part of the exchanges that runs behind computing. As root, with Open MPI:
//
//   node bench/ranks/run.mjs [--rates 100mbit,1gbit] [--micro-batches 1,8] [--steps 12] [--batch-size 48]
//
// Bandwidth is shaped by tbf; delay is this machine's own. Full fine-tuning of the tiny base: 2.6 MB of gradient.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    rates: { type: "string", default: "100mbit,1gbit" },
    "micro-batches": { type: "string", default: "1,8" },
    steps: { type: "string", default: "12" },
    "batch-size": { type: "string", default: "48" },
  },
});
const main = resolve(fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url)));
const hosts = ["lowrank-h1", "lowrank-h2"];
const addresses = ["10.77.0.1", "10.77.0.2"];
const folder = mkdtempSync(join(tmpdir(), "lowrank-ranks-"));

function sh(command, allowed = false) {
  const run = spawnSync("bash", ["-c", command], { encoding: "utf8" });
  if (run.status !== 0 && !allowed) throw new Error(`${command}\n${run.stderr}${run.stdout}`);
  return run.stdout;
}

function makeHosts() {
  for (const host of hosts) sh(`ip netns del ${host}`, true);
  for (const host of hosts) sh(`ip netns add ${host}`);
  sh("ip link add lrv1 type veth peer name lrv2");
  for (const [i, host] of hosts.entries()) {
    sh(`ip link set lrv${i + 1} netns ${host}`);
    sh(`ip -n ${host} addr add ${addresses[i]}/24 dev lrv${i + 1}`);
    sh(`ip -n ${host} link set lo up; ip -n ${host} link set lrv${i + 1} up`);
  }
}

function shape(rate) {
  for (const [i, host] of hosts.entries()) {
    sh(
      `ip netns exec ${host} tc qdisc replace dev lrv${i + 1} root tbf rate ${rate} burst 256kb latency 200ms`,
    );
  }
}

function sentBytes() {
  const text = sh(`ip netns exec ${hosts[0]} cat /sys/class/net/lrv1/statistics/tx_bytes`);
  return Number(text.trim());
}

/** Stands in for ssh: the first word that is no option names the host. */
const agent = join(folder, "agent.sh");
writeFileSync(
  agent,
  `#!/bin/bash
while [[ $1 == -* ]]; do shift; done
host=$1; shift
case $host in ${addresses[0]}) ns=${hosts[0]};; ${addresses[1]}) ns=${hosts[1]};; *) exit 1;; esac
exec ip netns exec $ns unshare --uts bash -c "hostname $ns; $*"
`,
);
chmodSync(agent, 0o755);

const words = "red blue green small large round old new quick slow bright dark warm cold soft hard".split(
  " ",
);
// Whole steps: no epoch ends within one.
const count =
  Number(values["batch-size"]) * 2 * Math.max(...values["micro-batches"].split(",").map(Number)) * 4;
const rows = Array.from({ length: count }, (_, i) => {
  const word = words[i % words.length];
  return {
    prompt: `${i} ${word} ${words[(i * 7) % words.length]}:`,
    completion: ` ${word.repeat(1 + (i % 5))}`,
  };
});
writeFileSync(join(folder, "rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

function train(microBatches) {
  const out = join(folder, "out");
  rmSync(out, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const mca = [
    "plm_rsh_agent",
    agent,
    "btl_tcp_if_include",
    "10.77.0.0/24",
    "oob_tcp_if_include",
    "10.77.0.0/24",
  ];
  const pairs = [mca.slice(0, 2), mca.slice(2, 4), mca.slice(4)].map((pair) => `--mca ${pair.join(" ")}`);
  const launch = [
    `ip netns exec ${hosts[0]} mpirun.openmpi --allow-run-as-root --bind-to none --mca btl tcp,self`,
    ...pairs,
    `-n 2 --host ${addresses.map((address) => `${address}:1`).join(",")}`,
  ].join(" ");
  const command = [
    `${process.execPath} ${main} train --model tiny --data ${join(folder, "rows.jsonl")} --out ${out}`,
    `--method full --learning-rate 1e-4 --backend cpu --precision fp32 --threads 1 --no-save-end --json`,
    `--max-steps ${values.steps} --batch-size ${values["batch-size"]} --gradient-accumulation ${2 * microBatches}`,
  ].join(" ");
  const before = sentBytes();
  const lines = sh(`${launch} ${command} 2>${join(folder, "log")}`);
  const summary = JSON.parse(lines.trim().split("\n").at(-1));
  const wire = sentBytes() - before;
  const times = readFileSync(join(out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .filter(({ type }) => type === "train")
    .map(({ tokensPerSecond }) => tokensPerSecond)
    .sort((a, b) => a - b);
  return { summary, wire, tokensPerSecond: times[Math.floor(times.length / 2)] };
}

try {
  makeHosts();
  for (const rate of values.rates.split(",")) {
    shape(rate);
    for (const microBatches of values["micro-batches"].split(",").map(Number)) {
      const { summary, wire, tokensPerSecond } = train(microBatches);
      const gradient = 4 * summary.trainableParameters;
      const { bytesSent, exchangeSeconds, waitedSeconds, shareSeconds } = summary.ranks;
      // Of each micro-batch's gradient half goes to the other rank, and half of the sum comes back.
      const least = ((microBatches + 1) * gradient * summary.steps) / 2;
      const row = {
        rate,
        microBatches,
        steps: summary.steps,
        gradientBytes: gradient,
        wireOverLeast: wire / least,
        sentOverLeast: bytesSent / least,
        exchangeSecondsPerStep: exchangeSeconds / summary.steps,
        waitedSecondsPerStep: waitedSeconds / summary.steps,
        shareSecondsPerStep: shareSeconds / summary.steps,
        hidden: 1 - waitedSeconds / exchangeSeconds,
        hiddenOfAll: 1 - (waitedSeconds + shareSeconds) / (exchangeSeconds + shareSeconds),
        tokensPerSecond,
      };
      console.log(JSON.stringify(row));
    }
  }
} finally {
  for (const host of hosts) sh(`ip netns del ${host}`, true);
  rmSync(folder, { recursive: true, force: true });
}
