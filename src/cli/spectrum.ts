// `lowrank spectrum`: prints how many directions an update has, module by module and together, whether rank 8 would have
// held it, and ranks to try next as a PEFT rank_pattern. Not here: the algebra (plan/spectrum.ts).

import { spectrumDefinition } from "../config/spectrum-options.ts";
import type { ModuleSpectrum, SpectraSummary, UpdateSpectra } from "../plan/update-spectra.ts";
import { defineCommand } from "./command.ts";
import { formatTable } from "./format.ts";
import { exitCodes, type Terminal } from "./terminal.ts";

export const command = defineCommand(spectrumDefinition, async (options, terminal) => {
  const { adapterSpectra, differenceSpectra, summarizeSpectra } = await import("../plan/update-spectra.ts");
  const spectra =
    options.adapter === undefined
      ? await differenceSpectra(options.base!, options.tuned!, (message) => terminal.status(message)).finally(
          () => terminal.status(""),
        )
      : await adapterSpectra(options.adapter);
  const summary = summarizeSpectra(spectra, options.share, options.maxRank);
  if (terminal.json) {
    terminal.document({
      kind: spectra.kind,
      modules: spectra.modules.map((module) => moduleDocument(module, options.values)),
      unchanged: spectra.unchanged,
      overall: { heldAtRank: summary.heldAtRank, ranks: summary.ranks },
      rank8: summary.rank8,
      proposal: {
        r: summary.proposal.rank,
        rank_pattern: summary.proposal.rankPattern,
        capped: summary.proposal.capped,
      },
    });
  } else await tell(spectra, summary, options.share, terminal);
  return exitCodes.done;
});

function moduleDocument({ name, shape, spectrum, relativeSize }: ModuleSpectrum, values: number) {
  const { singularValues, complete, energy, ranks, numericalRank, effectiveRank } = spectrum;
  return {
    ...{ name, shape, relativeSize, energy, complete, ranks, numericalRank, effectiveRank },
    singularValues: [...singularValues.subarray(0, values)],
  };
}

async function tell(
  spectra: UpdateSpectra,
  summary: SpectraSummary,
  share: number,
  terminal: Terminal,
): Promise<void> {
  const percent = (value: number) => `${(100 * value).toFixed(1)}%`;
  const bold = (text: string) => terminal.style("bold", text);
  const { heldBy } = await import("../plan/update-spectra.ts");
  terminal.print(
    `${bold(`${spectra.modules.length} changed matrices`)}${spectra.unchanged.length > 0 ? `, ${spectra.unchanged.length} unchanged` : ""}\n`,
  );
  const rank = (value: number | undefined) => (value === undefined ? "more" : String(value));
  terminal.print(
    formatTable(
      ["matrix", "shape", "rank 90%", "95%", "99%", "effective", "held by 8", "size"],
      spectra.modules.map(({ name, shape, spectrum, relativeSize }) => [
        name,
        `${shape[0]}x${shape[1]}`,
        rank(spectrum.ranks[0.9]),
        rank(spectrum.ranks[0.95]),
        rank(spectrum.ranks[0.99]),
        spectrum.effectiveRank.toFixed(1),
        percent(heldBy(spectrum, 8)),
        relativeSize === undefined ? "" : percent(relativeSize),
      ]),
    ),
  );
  const { energyPlot } = await import("./plot.ts");
  const points = Object.entries(summary.heldAtRank).map(([r, held]): [number, number] => [Number(r), held]);
  terminal.print(`\n${energyPlot(points, terminal.columns)}\n`);
  terminal.print(
    `Together: rank ${rank(summary.ranks[0.9])} holds 90% of the energy, ${rank(summary.ranks[0.95])} 95%, ${rank(summary.ranks[0.99])} 99%.`,
  );
  const { enough, held, short } = summary.rank8;
  terminal.print(
    enough
      ? `Rank 8 is enough here: in the layers that take adapters it holds ${percent(held)} of the update${short.length > 0 ? `, though ${short.length} of them alone need more for ${percent(share)}` : ""}.`
      : `Rank 8 is not enough here: it holds ${percent(held)} of the update in the layers that take adapters; ${short.length} of them need more for ${percent(share)}.`,
  );
  const { proposal } = summary;
  terminal.print(`\nTo hold ${percent(share)} of each update, for adapter_config.json:`);
  terminal.print(`  "r": ${proposal.rank},`);
  terminal.print(`  "rank_pattern": ${JSON.stringify(proposal.rankPattern)}`);
  if (proposal.capped.length > 0)
    terminal.print(
      `${proposal.capped.length} of them would need more than the largest rank allowed (--max-rank).`,
    );
  if (spectra.kind === "adapter")
    terminal.print("An adapter shows the directions it was given: a full update may have more.");
}
