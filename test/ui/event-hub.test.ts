// What pages are told as it happens: all of it, once, and after a lost connection what came in the meantime.

import { describe, expect, it } from "vitest";
import type { LiveEvent, RunSummary } from "../../src/ui/api.ts";
import { EventHub } from "../../src/ui/event-hub.ts";

const table = { step: [], series: {} };
const metricsOf = (id: string): LiveEvent => ({
  type: "metrics",
  id,
  train: table,
  eval: table,
  forget: table,
});
const runNamed = (id: string): LiveEvent => ({ type: "run", run: { id } as RunSummary });

/** Events that a stream has ready, each with its id. */
async function readyOf(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  count: number,
): Promise<{ id: string; event: LiveEvent }[]> {
  const found: { id: string; event: LiveEvent }[] = [];
  while (found.length < count) {
    const { value, done } = await reader.read();
    if (done) break;
    const [, id, data] = /\nid: (\S+)\ndata: (.*)\n\n$/.exec(new TextDecoder().decode(value)) ?? [];
    found.push({ id: id!, event: JSON.parse(data!) });
  }
  return found;
}

describe("a page that listens", () => {
  it("hears of every run, and of metrics those of the runs it named", async () => {
    const hub = new EventHub(() => {});
    const reader = hub.listen(new Set(["a"]), undefined).getReader();
    for (const event of [
      runNamed("b"),
      metricsOf("b"),
      metricsOf("a"),
      { type: "rewind", id: "b", step: 1 } as const,
    ])
      hub.tell(event);
    hub.tell({ type: "removed", id: "b" });
    const heard = await readyOf(reader, 4);
    expect(heard.map(({ event }) => event.type)).toEqual(["hello", "run", "metrics", "removed"]);
    expect(heard[2]?.event).toMatchObject({ id: "a" });
    await reader.cancel();
  });

  it("that comes back hears what it missed, or that this is not known any more", async () => {
    const hub = new EventHub(() => {});
    const first = hub.listen(new Set(), undefined).getReader();
    hub.tell(runNamed("a"));
    const heard = await readyOf(first, 2);
    await first.cancel();
    hub.tell(runNamed("b"));
    hub.tell(runNamed("c"));
    const again = await readyOf(hub.listen(new Set(), heard[1]!.id).getReader(), 3);
    expect(again.map(({ event }) => ("run" in event ? event.run.id : event))).toEqual([
      { type: "hello", resumed: true },
      "b",
      "c",
    ]);

    const others = ["", "nonsense", "00000000-1", `${heard[1]!.id}999`];
    for (const after of others)
      expect((await readyOf(hub.listen(new Set(), after).getReader(), 1))[0]?.event).toMatchObject({
        resumed: false,
      });
    for (let i = 0; i < 5000; i++) hub.tell(runNamed(String(i)));
    const late = await readyOf(hub.listen(new Set(), heard[1]!.id).getReader(), 1);
    expect(late[0]?.event).toEqual({ type: "hello", resumed: false });
  });

  it("begins and ends the looking, and is one of a few", async () => {
    const told: boolean[] = [];
    const hub = new EventHub((some) => told.push(some));
    const readers = Array.from({ length: 32 }, () => hub.listen(new Set(["a"]), undefined).getReader());
    expect(() => hub.listen(new Set(), undefined)).toThrow(/pages listen already/);
    expect([told, [...hub.watched]]).toEqual([[true], ["a"]]);
    for (const reader of readers) await reader.cancel();
    expect(told).toEqual([true, false]);
    expect(hub.listening).toBe(0);
  });

  it("is let go when it does not read", () => {
    const hub = new EventHub(() => {});
    hub.listen(new Set(["a"]), undefined);
    const step = Array.from({ length: 20_000 }, (_, i) => 1e6 + i);
    const heavy: LiveEvent = {
      type: "metrics",
      id: "a",
      train: { step, series: { loss: { mean: step } } },
      eval: table,
      forget: table,
    };
    for (let i = 0; i < 40 && hub.listening > 0; i++) hub.tell(heavy);
    expect(hub.listening).toBe(0);
  });
});
