// `lowrank ui`: opens the local page's server, says where, and ends when told to; runs that it has started go on. Also the
// page beside a training (`train --ui`). Answers are ui/'s.

import { flagName } from "../config/resolve.ts";
import { type UiOptions, uiDefinition } from "../config/ui-options.ts";
import { UsageError } from "../util/errors.ts";
import { type CliCommand, defineCommand } from "./command.ts";
import { onStop } from "./signals.ts";
import { describeError, exitCodes, exitNow, type Terminal } from "./terminal.ts";

const loopback = new Set(["127.0.0.1", "localhost", "::1"]);

const page = defineCommand(uiDefinition, async (options, terminal) => {
  const ui = await openPage(options, terminal);
  if (terminal.json) terminal.document({ url: ui.address, folder: options.folder });
  else terminal.print(`${ui.address} shows ${options.folder}`);
  const told = new Promise<void>((resolve) => {
    onStop(resolve, () => exitNow(exitCodes.interrupted));
  });
  await told;
  await ui.close();
  return exitCodes.done;
});

/** The folder may stand alone. */
export const command: CliCommand = {
  definition: uiDefinition,
  main(argv) {
    const at = argv.findIndex(
      (word, i) => !word.startsWith("-") && !isValue(argv[i - 1]) && !/\.ya?ml$/i.test(word),
    );
    return page.main(at < 0 ? argv : [...argv.slice(0, at), "--folder", ...argv.slice(at)]);
  },
};

/** Whether the word behind this one is its value. */
function isValue(before: string | undefined): boolean {
  const field = Object.entries(uiDefinition.fields).find(([key]) => flagName(key) === before)?.[1];
  return field !== undefined && field.kind !== "switch";
}

export interface OpenPage {
  /** To be opened in a browser: with the key where there is one, in a part that no browser sends. */
  readonly address: string;
  close(): Promise<void>;
}

/** Opens the server. UsageError where others could reach it without a key. */
export async function openPage(
  options: Pick<UiOptions, "folder" | "host" | "port" | "apiKey" | "read"> & { readonly beside?: string },
  terminal: Terminal,
): Promise<OpenPage> {
  const apiKey = options.apiKey ?? (process.env.LOWRANK_API_KEY || undefined);
  if (!loopback.has(options.host) && apiKey === undefined) {
    throw new UsageError(
      `--host ${options.host} can be reached by others: give --api-key (or LOWRANK_API_KEY), or listen on 127.0.0.1.`,
    );
  }
  const { startUi } = await import("../ui/ui-server.ts");
  const { readPage } = await import("../ui/page-files.ts");
  const ui = await startUi({
    ...{ folder: options.folder, host: options.host, port: options.port, apiKey },
    ...{ read: options.read ?? [], beside: options.beside, page: readPage() },
    onFault: (error) => terminal.warn(describeError(error).message),
  });
  const key = apiKey === undefined ? "" : `#key=${encodeURIComponent(apiKey)}`;
  return { address: `${ui.url}/${key}`, close: () => ui.close() };
}
