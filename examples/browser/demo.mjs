// The demo page: rows in, a run that is watched, answers before and after, the adapter out. All of lowrank that it uses is
// lowrank/browser. What it comes with (model, rows, stories) build.mjs puts into the page.

import { filesOfDrop, openModel, removeModel, storedModels } from "lowrank/browser";
import { drawLoss } from "./chart.mjs";

const modelName = "tiny-base";
const answerTokens = 40;
const at = (id) => document.getElementById(id);
const embedded = JSON.parse(at("embedded").textContent);
const buttons = ["ask", "score", "train", "pause", "resume", "save", "forget"];

let model;
let rows = new File([embedded.rows], "stories.jsonl");
/** The run that is at work, or undefined. */
let current;
/** The newest run, as runs() tells of it. */
let newest;
let busy = false;

start().catch(showError);

async function start() {
  showRows(rows.name, embedded.rows.trim().split("\n").length, embedded.rows.split("\n")[0]);
  at("prompt").value = embedded.heldOut[0].prompt;
  const stored = (await storedModels()).some(({ name }) => name === modelName);
  const options = { name: modelName, onWarning: warn };
  model = await openModel(stored ? { stored: modelName } : { files: embeddedFiles() }, options);
  const { device, storage, parameters } = model.info;
  const found = stored
    ? "found in this browser from your last visit"
    : storage.kept
      ? "kept in this browser"
      : "in memory";
  at("device").textContent =
    `${(parameters / 1e6).toFixed(1)}M parameters, ${found}; computing on ${device.name}.`;
  warn(
    [device.word, storage.kept ? "" : `${storage.reason}: run and model go with this tab`]
      .filter(Boolean)
      .join(". "),
  );
  // A program that poses as a GPU gets by with a quarter of the quickstart's rows.
  if (device.software) Object.assign(at("settings").elements.maxSteps, { value: 240 });
  else Object.assign(at("settings").elements.batchSize, { value: 16 });
  wire();
  await lookAtRuns();
  // A tab that was closed in the middle of a run goes on with it.
  if (newest?.status === "cut")
    await follow(() => model.resume(newest.name), "Going on where the closed page stopped ...");
}

function wire() {
  at("file").addEventListener("change", ({ target }) => target.files[0] && useRows(target.files[0]));
  const drop = at("drop");
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = await filesOfDrop(event.dataTransfer);
    if (file) useRows(file);
  });
  at("train").addEventListener("click", () => follow(train, "Loading the model onto the device ..."));
  at("resume").addEventListener("click", () => follow(() => model.resume(newest.name), "Going on ..."));
  at("pause").addEventListener("click", () => current?.pause().catch(showError));
  at("ask").addEventListener("click", () => alone(ask));
  at("score").addEventListener("click", () => alone(score));
  at("save").addEventListener("click", () => alone(save));
  at("forget").addEventListener("click", () => alone(forget));
}

async function useRows(file) {
  rows = file;
  const text = await file.slice(0, 2 ** 20).text();
  showRows(file.name, undefined, text.split("\n")[0]);
}

function showRows(name, count, first) {
  at("rows-name").textContent = count === undefined ? name : `${name}, ${count} rows of a sample task`;
  at("first-row").textContent = first.slice(0, 2000);
}

async function train() {
  const settings = Object.fromEntries(new FormData(at("settings")));
  await model.attach({ method: settings.method, rank: Number(settings.rank), alpha: 16 });
  const { maxSteps, batchSize, learningRate } = settings;
  return model.train(rows, {
    ...{ maxSteps: Number(maxSteps), batchSize: Number(batchSize), learningRate: Number(learningRate) },
    ...{ sequenceLength: 128, overLength: "truncate", warmupSteps: Math.min(10, Number(maxSteps)), seed: 1 },
  });
}

/** Begins a run, or goes on with one, and shows it until it ends. */
async function follow(begin, said) {
  busy = true;
  showButtons();
  at("status").textContent = said;
  const losses = newest?.status === "done" ? [] : [...(newest ? lossesOf(newest) : [])];
  let total = 0;
  try {
    current = await begin();
    showButtons();
    for await (const event of current) {
      if (event.type === "warning") warn(event.message);
      if (event.type === "data") {
        total = event.totalSteps;
        // What was written after the last checkpoint is done again.
        losses.splice(0, losses.length, ...losses.filter(({ step }) => step < event.firstStep));
      }
      if (event.type !== "train") continue;
      losses.push(event);
      drawLoss(at("chart"), at("caption"), losses, total);
      showProgress(event, total);
    }
    const { status, steps } = await current.finished;
    at("status").textContent = status === "done" ? `Done after ${steps} steps.` : `Paused at step ${steps}.`;
  } catch (error) {
    showError(error);
  } finally {
    current = undefined;
    busy = false;
    await lookAtRuns(true);
  }
}

function showProgress({ step, loss, tokensPerSecond, elapsedMs }, total) {
  Object.assign(at("progress"), { value: step, max: total });
  const speed = tokensPerSecond === undefined ? "" : `, ${Math.round(tokensPerSecond)} tokens/s`;
  const spent = elapsedMs === undefined ? "" : `, ${Math.round(elapsedMs / 1000)} s`;
  at("status").textContent = `Step ${step} of ${total}, loss ${loss.toFixed(3)}${speed}${spent}.`;
}

async function lookAtRuns(keepStatus = false) {
  [newest] = await model.runs();
  showButtons();
  if (!newest || keepStatus) return;
  const losses = lossesOf(newest);
  drawLoss(at("chart"), at("caption"), losses, newest.totalSteps ?? 1);
  Object.assign(at("progress"), { value: newest.step, max: newest.totalSteps ?? 1 });
  const words = {
    done: "finished",
    paused: "paused",
    cut: "was cut off",
    running: "is at work in another tab",
  };
  at("status").textContent =
    `Your last run ${words[newest.status]} at step ${newest.step} of ${newest.totalSteps ?? "?"}.`;
}

const lossesOf = ({ metrics }) => metrics.filter(({ type }) => type === "train");

async function ask() {
  const prompt = at("prompt").value;
  const options = { maxNewTokens: answerTokens };
  for (const [id, adapter] of sides()) {
    at(id).textContent = "...";
    const { text } = await model.generate(prompt, { ...options, adapter });
    at(id).textContent = text.trim() || "(nothing)";
  }
}

async function score() {
  const { heldOut } = embedded;
  for (const [id, adapter] of sides()) {
    at(`score-${id}`).textContent = "scoring ...";
    const answers = await model.generate(
      heldOut.map(({ prompt }) => prompt),
      { maxNewTokens: answerTokens, adapter },
    );
    const right = answers.filter(({ text }, i) => text.trim() === heldOut[i].completion.trim()).length;
    const percent = Math.round((100 * right) / heldOut.length);
    at(`score-${id}`).textContent = `${percent}% exact (${right} of ${heldOut.length})`;
  }
}

/** The base, and the adapter where a run is finished. */
function sides() {
  return newest?.status === "done"
    ? [
        ["before", false],
        ["after", newest.name],
      ]
    : [["before", false]];
}

async function save() {
  const files = await model.saveAdapter();
  for (const file of files) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  at("saved").textContent = `Saved ${files.map(({ name }) => name).join(", ")}.`;
}

async function forget() {
  model.close();
  for (let tries = 0; ; tries++) {
    try {
      await removeModel(modelName);
      break;
    } catch (error) {
      // The worker's lock goes a moment after it.
      if (tries === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  location.reload();
}

/** Runs an action with every button that could disturb it disabled. */
async function alone(action) {
  busy = true;
  showButtons();
  try {
    await action();
  } catch (error) {
    showError(error);
  } finally {
    busy = false;
    showButtons();
  }
}

function showButtons() {
  const unfinished = newest && newest.status !== "done" && newest.status !== "running";
  const enabled = {
    ...{ ask: !busy, score: !busy, train: !busy, forget: !busy },
    ...{
      pause: current !== undefined,
      resume: !busy && unfinished,
      save: !busy && newest?.status === "done",
    },
  };
  for (const id of buttons) at(id).disabled = !enabled[id];
}

function embeddedFiles() {
  return Object.fromEntries(
    Object.entries(embedded.model).map(([name, base64]) => [
      name,
      Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
    ]),
  );
}

function warn(message) {
  at("warning").hidden = !message;
  at("warning").textContent = message.slice(0, 1).toUpperCase() + message.slice(1);
}

function showError(error) {
  at("status").textContent = error instanceof Error ? error.message : String(error);
}
