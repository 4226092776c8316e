// The only place that writes to the process's streams and makes exit codes. stdout carries the result (under --json
// one JSON document, or one a line, and nothing else); stderr carries the story: notes, warnings, progress, errors.
// Not here: how numbers look (format.ts), what a command says (one file a command).

import { setTimeout as sleep } from "node:timers/promises";
import { styleText } from "node:util";
import { launchOf } from "../distributed/launch.node.ts";
import { UsageError, UserError } from "../util/errors.ts";
import { outliveTerminal } from "./signals.ts";

export const exitCodes = { done: 0, userError: 1, usageError: 2, bug: 3, interrupted: 130 } as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export type Style = "bold" | "dim" | "red" | "yellow" | "green" | "cyan";

/** What the terminal needs of a stream. */
export interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface Terminal {
  /** Whether --json is on: results are documents, not text. */
  readonly json: boolean;
  /** Whether progress may redraw its line. */
  readonly live: boolean;
  /** Columns of the line that progress is drawn on. */
  readonly columns: number;
  /** The result, as text: stdout, or stderr under --json. */
  print(text: string): void;
  /** The result, as one line of JSON on stdout. */
  document(value: unknown): void;
  /** Text straight to stdout without a line end, for streams of tokens. */
  stream(text: string): void;
  /** A note on stderr. */
  note(text: string): void;
  warn(text: string): void;
  /** Replaces the live line at the bottom of stderr; does nothing where there is none. "" removes it. */
  status(text: string): void;
  style(style: Style, text: string): string;
}

export function createTerminal(
  json: boolean,
  stdout: Output = process.stdout,
  stderr: Output = process.stderr,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Terminal {
  const live = stderr.isTTY === true && env.TERM !== "dumb" && !env.CI;
  const columns = stderr.columns ?? 80;
  const noteColor = wantsColor(stderr, env);
  const resultColor = noteColor && wantsColor(stdout, env);
  const story = (color: boolean, style: Style, text: string) =>
    color ? styleText(style, text, { validateStream: false }) : text;

  let statusLine = "";
  const erase = () => (statusLine === "" ? "" : "\r\x1b[2K");
  const tell = (text: string) => void stderr.write(`${erase()}${text}\n${statusLine}`);
  return {
    json,
    live,
    columns,
    print(text) {
      if (json) return tell(text);
      // The live line stands on the same screen as stdout as a rule: lift it, print, draw it again.
      if (statusLine !== "") stderr.write(erase());
      stdout.write(`${text}\n`);
      if (statusLine !== "") stderr.write(statusLine);
    },
    document: (value) => void stdout.write(`${JSON.stringify(value)}\n`),
    stream: (text) => void stdout.write(text),
    note: tell,
    warn: (text) => tell(`${story(noteColor, "yellow", "warning:")} ${harmless(text)}`),
    status(text) {
      if (!live) return;
      stderr.write(`${erase()}${text}`);
      statusLine = text;
    },
    style: (style, text) => story(resultColor, style, text),
  };
}

/** NO_COLOR wins, then FORCE_COLOR, then whether a person watches. See no-color.org. */
function wantsColor(stream: Output, env: Readonly<Record<string, string | undefined>>): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== "0";
  return stream.isTTY === true && env.TERM !== "dumb";
}

/** Messages name what stands in files that anyone may have written: nothing of it may steer the terminal or fill it. */
function harmless(message: string): string {
  const shown = message.length > longestMessage ? `${message.slice(0, longestMessage)}...` : message;
  return shown.replace(/[^\P{Cc}\n\t]|\p{Bidi_Control}/gu, escaped);
}

function escaped(character: string): string {
  return `\\u{${character.codePointAt(0)!.toString(16)}}`;
}

const longestMessage = 8000;

/** What an error means to the caller, and what a person should read about it. */
export function describeError(error: unknown): { readonly code: ExitCode; readonly message: string } {
  if (error instanceof UsageError) return { code: exitCodes.usageError, message: harmless(error.message) };
  if (error instanceof UserError) return { code: exitCodes.userError, message: harmless(error.message) };
  if (error instanceof RangeError && /WebAssembly.*out of memory/i.test(error.message)) {
    // Node's own HTTP code is WebAssembly, which reserves gigabytes of addresses it never uses.
    const message =
      "the address space of this process is limited (`ulimit -v`) to less than what Node reserves for WebAssembly; raise the limit, or set NODE_OPTIONS=--disable-wasm-trap-handler";
    return { code: exitCodes.userError, message };
  }
  const { code, message: reason } = (error ?? {}) as NodeJS.ErrnoException;
  if (code === "EMFILE" || code === "ENFILE") {
    const message = `too many files are open for this process (${reason}); raise the limit with \`ulimit -n 1024\``;
    return { code: exitCodes.userError, message };
  }
  const stack = error instanceof Error ? (error.stack ?? `${error.name}: ${error.message}`) : String(error);
  const report =
    "This is a fault inside lowrank, not of yours. Please report it with the lines above and your command line;\n" +
    "README.md says where.";
  return { code: exitCodes.bug, message: `${stack}\n\n${report}` };
}

/**
 * Runs a command and ends the process with its exit code, errors told on stderr. What becomes of the streams changes
 * neither the work nor the code: a reader may go away (`| head`, a `tee` that Ctrl-C ended), a log's disk may be full.
 */
export async function runToExit(command: () => Promise<ExitCode>): Promise<void> {
  outliveTerminal();
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  process.stdout.once("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE" || error.code === "EIO") return;
    createTerminal(true).warn(
      `the result cannot be written to stdout (${error.code}); what was made on disk is whole`,
    );
  });
  const fail = (error: unknown): ExitCode => {
    const { code, message } = describeError(error);
    const terminal = createTerminal(true);
    const label = wantsColor(process.stderr, process.env)
      ? styleText("red", "error:", { validateStream: false })
      : "error:";
    terminal.note(`${label} ${message}`);
    return code;
  };
  process.on("uncaughtException", (error) => process.exit(fail(error)));
  const code = await command().catch(async (error) => {
    // What is wrong with a command line is wrong on every rank that was given it: the first says so.
    const rank = launchOf()?.rank ?? 0;
    if (!(error instanceof UsageError) || rank === 0) return fail(error);
    await sleep(500);
    return exitCodes.usageError;
  });
  // Written output first, then an end that no open handle (a device's polling, a socket) can delay.
  await Promise.all([process.stdout, process.stderr].map(flushed));
  process.exit(code);
}

/** Resolves when what was written is out, or never will be. */
function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write("", () => resolve()));
}

/** Ends the process at once, as a second Ctrl-C asks. */
export function exitNow(code: ExitCode): never {
  process.stderr.write("\n");
  process.exit(code);
}
