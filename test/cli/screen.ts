// A terminal that writes to strings, for tests of what commands print.

import { createTerminal, type Output, type Terminal } from "../../src/cli/terminal.ts";

export interface Screen {
  readonly terminal: Terminal;
  stdout(): string;
  stderr(): string;
}

export function screen(
  options: { json?: boolean; tty?: boolean; env?: Record<string, string> } = {},
): Screen {
  const written = { out: "", err: "" };
  const stream = (name: "out" | "err"): Output => ({
    isTTY: options.tty ?? false,
    columns: 80,
    write: (text) => void (written[name] += text),
  });
  const terminal = createTerminal(options.json ?? false, stream("out"), stream("err"), options.env ?? {});
  return { terminal, stdout: () => written.out, stderr: () => written.err };
}
