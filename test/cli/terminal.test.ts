// Streams, colour, exit codes, progress, plot and numbers as people read them.

import { describe, expect, it } from "vitest";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatLoss,
  formatTable,
  shellQuote,
} from "../../src/cli/format.ts";
import { lossPlot } from "../../src/cli/plot.ts";
import { trackProgress } from "../../src/cli/progress.ts";
import { describeError } from "../../src/cli/terminal.ts";
import { BugError, UsageError, UserError } from "../../src/util/errors.ts";
import { screen } from "./screen.ts";

const escapeCode = "\x1b[";

describe("terminal", () => {
  it("puts results on stdout and the story on stderr", () => {
    const { terminal, stdout, stderr } = screen();
    terminal.print("result");
    terminal.note("note");
    terminal.warn("care");
    expect(stdout()).toBe("result\n");
    expect(stderr()).toBe("note\nwarning: care\n");
  });

  it("under --json leaves stdout to the document", () => {
    const { terminal, stdout } = screen({ json: true });
    terminal.print("text");
    terminal.note("note");
    terminal.document({ loss: 1 });
    expect(JSON.parse(stdout())).toEqual({ loss: 1 });
  });

  it.each([
    [{ tty: true }, true],
    [{ tty: false }, false],
    [{ tty: true, env: { NO_COLOR: "1" } }, false],
    [{ tty: false, env: { FORCE_COLOR: "1" } }, true],
    [{ tty: true, env: { NO_COLOR: "1", FORCE_COLOR: "1" } }, false],
    [{ tty: true, env: { TERM: "dumb" } }, false],
  ])("%o colours: %s", (options, colours) => {
    const { terminal, stderr } = screen(options);
    terminal.warn("care");
    expect(stderr().includes(escapeCode)).toBe(colours);
    expect(terminal.style("bold", "x").includes(escapeCode)).toBe(colours);
  });

  it("keeps the live line below what is printed over it", () => {
    const { terminal, stderr, stdout } = screen({ tty: true, env: { NO_COLOR: "1" } });
    terminal.status("50%");
    terminal.note("saved");
    terminal.print("result");
    terminal.status("");
    const erase = "\r\x1b[2K";
    expect(stderr()).toBe(`50%${erase}saved\n50%${erase}50%${erase}`);
    expect(stdout()).toBe("result\n");
  });
});

describe("errors", () => {
  it.each([
    [new UserError("a"), 1],
    [new UsageError("a"), 2],
    [new BugError("a"), 3],
    [new TypeError("a"), 3],
    ["thrown text", 3],
  ])("%s exits with %i", (error, code) => {
    expect(describeError(error).code).toBe(code);
  });

  it("calls a limit on addresses the user's, and says how to live with it", () => {
    const error = new RangeError("WebAssembly.instantiate(): Out of memory: Cannot allocate Wasm memory");
    const { code, message } = describeError(error);
    expect(code).toBe(1);
    expect(message).toMatch(/ulimit -v.*--disable-wasm-trap-handler/);
  });

  it("calls too many open files the user's", () => {
    const error = Object.assign(new Error("EMFILE: too many open files, open 'x'"), { code: "EMFILE" });
    expect(describeError(error)).toMatchObject({ code: 1, message: expect.stringContaining("ulimit -n") });
  });

  it("shows a stack and asks for a report only for faults of ours", () => {
    expect(describeError(new UserError("no file")).message).toBe("no file");
    // What a file says of itself may not steer the terminal that tells of it, nor fill it.
    expect(describeError(new UserError("a\x1b[31m\x07\u202eb\n\tc é")).message).toBe(
      "a\\u{1b}[31m\\u{7}\\u{202e}b\n\tc é",
    );
    expect(describeError(new UserError("x".repeat(1 << 20))).message.length).toBeLessThan(10_000);
    expect(describeError(new BugError("odd")).message).toMatch(/odd[\s\S]*at [\s\S]*report/);
  });
});

describe("progress", () => {
  const updates = (tty: boolean) => {
    const { terminal, stderr } = screen({ tty, env: { NO_COLOR: "1" } });
    let clock = 0;
    const progress = trackProgress(terminal, 1, 100, () => clock);
    for (let step = 1; step <= 100; step++) {
      clock += 1000;
      progress.update({ step, loss: 2, tokensPerSecond: 312 });
    }
    progress.end();
    return stderr();
  };

  it("prints a plain line now and then where nobody watches", () => {
    const lines = updates(false).trimEnd().split("\n");
    expect(lines.length).toBeGreaterThan(15);
    expect(lines.length).toBeLessThan(25);
    expect(lines[0]).toBe("step   1/100  loss 2.0000  312 tokens/s  1m 39s left");
    expect(lines.at(-1)).toMatch(/^step 100\/100 .* took 1m 40s$/);
  });

  it("redraws one line on a screen, never wider than it", () => {
    const text = updates(true);
    expect(text).not.toContain("\n");
    for (const line of text.split("\r\x1b[2K")) expect(line.length).toBeLessThan(80);
  });
});

describe("plot", () => {
  it("draws a falling curve within its width", () => {
    const points = Array.from({ length: 500 }, (_, i) => ({ step: i + 1, loss: 4 * Math.exp(-i / 100) + 1 }));
    const text = lossPlot(points, 80)!;
    expect(text).toContain("loss by step");
    expect(text).toContain("500");
    for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(84);
  });

  it("draws nothing from too little, a flat line or NaN", () => {
    expect(lossPlot([], 80)).toBeUndefined();
    expect(lossPlot([{ step: 1, loss: 1 }], 80)).toBeUndefined();
    expect(
      lossPlot(
        [1, 2, 3].map((step) => ({ step, loss: 1 })),
        80,
      ),
    ).toBeUndefined();
    expect(
      lossPlot(
        [1, 2, 3].map((step) => ({ step, loss: Number.NaN })),
        80,
      ),
    ).toBeUndefined();
  });
});

describe("format", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [999_999, "1.00 MB"],
    [24e9, "24.0 GB"],
    [107.8e9, "108 GB"],
  ])("%d bytes are %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [40, "40ms"],
    [4200, "4.2s"],
    [59_700, "1m 0s"],
    [252_000, "4m 12s"],
    [7_380_000, "2h 3m"],
    [200_000_000, "2d 7h"],
    [Number.POSITIVE_INFINITY, "unknown"],
  ])("%d ms are %s", (ms, text) => expect(formatDuration(ms)).toBe(text));

  it("shortens counts and losses", () => {
    expect(formatCount(19_988_480)).toBe("20.0M");
    expect(formatCount(640)).toBe("640");
    expect(formatLoss(1.23456)).toBe("1.2346");
    expect(formatLoss(0.00001234)).toBe("1.23e-5");
  });

  it("lays out a table with numbers to the right", () => {
    const text = formatTable(
      ["method", "bytes"],
      [
        ["lora", "9 GB"],
        ["full", "112 GB"],
      ],
    );
    expect(text.split("\n")).toEqual([
      "method   bytes",
      "------  ------",
      "lora      9 GB",
      "full    112 GB",
    ]);
  });

  it("quotes what a shell would split", () => {
    expect(shellQuote("runs/first")).toBe("runs/first");
    expect(shellQuote("it's here")).toBe(`'it'\\''s here'`);
  });
});
