// The loss as a line in an SVG. Not here: where its numbers come from (demo.mjs).

const width = 640;
const height = 240;
const margin = 8;

/** `losses` by step, ascending; `totalSteps` is where the axis ends. The caption says in words what the line shows. */
export function drawLoss(svg, caption, losses, totalSteps) {
  const title = svg.querySelector("title");
  for (const drawn of svg.querySelectorAll("polyline, line, text")) drawn.remove();
  if (losses.length === 0) {
    title.textContent = caption.textContent = "Loss by step: nothing yet";
    return;
  }
  const most = Math.max(...losses.map(({ loss }) => loss));
  const last = losses.at(-1);
  const x = (step) => margin + ((width - 2 * margin) * step) / Math.max(totalSteps, last.step, 1);
  const y = (loss) => height - margin - ((height - 2 * margin) * loss) / (most || 1);
  for (let tick = 1; tick < most; tick++)
    svg.append(made("line", { x1: 0, x2: width, y1: y(tick), y2: y(tick) }));
  const points = losses.map(({ step, loss }) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  svg.append(made("polyline", { points }));
  const [first] = losses;
  title.textContent = `Loss by step: from ${first.loss.toFixed(2)} at step ${first.step} to ${last.loss.toFixed(3)} at step ${last.step} of ${totalSteps}`;
  caption.textContent = `${title.textContent} (nats a token; a line at each whole nat, 0 at the bottom)`;
}

function made(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
