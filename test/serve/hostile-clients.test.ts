// Clients that mean a server harm, or know no better: each gets the right status, and nothing that is sent makes it fall.

import { mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import OpenAI, { type APIError } from "openai";
import { describe, expect, it } from "vitest";
import { engine, faults, limits, post, preparers, root, server, startServer } from "./served.ts";

describe("a hostile client", () => {
  it("gets the right status and breaks nothing", async () => {
    const chat = "/v1/chat/completions";
    const status = async (response: Promise<Response>) => (await response).status;
    for (const body of [
      "",
      "{",
      "null",
      "[]",
      '"x"',
      "{}",
      '{"model":1}',
      '{"__proto__":{"a":1}}',
      "[".repeat(9000),
    ])
      expect(await status(post(chat, body)), body.slice(0, 20)).toBe(400);
    expect(await status(post(chat, Uint8Array.from([0xff, 0xfe, 0x7b])))).toBe(400);
    // Told while the body still comes, which is passed over: the next request on the connection is whole.
    for (let i = 0; i < 5; i++) {
      expect(await status(post(chat, `"${"x".repeat(30_000 + 900_000 * i)}"`))).toBe(413);
      expect(await status(fetch(`${server.url}/v1/models`))).toBe(200);
    }
    expect(await status(post(chat, "{}", { "Content-Type": "text/plain" }))).toBe(415);
    for (const name of [
      "../../etc/passwd",
      "..%2f..",
      "/etc",
      "red/../blue",
      "C:\\x",
      "red\0",
      "__proto__",
      "constructor",
    ]) {
      const body = JSON.stringify({ model: name, messages: [{ role: "user", content: "x" }] });
      expect(await status(post(chat, body)), name).toBe(404);
      expect(await status(fetch(`${server.url}/v1/models/${encodeURIComponent(name)}`)), name).toBe(404);
    }
    expect(await status(fetch(`${server.url}/v1/nothing`))).toBe(404);
    expect(await status(fetch(`${server.url}${chat}`))).toBe(404);
    expect(await status(fetch(`${server.url}/healthz`))).toBe(200);
  });

  it("cannot reach us under another name, nor send a body without end", async () => {
    const raw = (text: string) =>
      new Promise<string>((resolve) => {
        const socket = connect(Number(new URL(server.url).port), "127.0.0.1", () => socket.write(text));
        let answer = "";
        socket.on("data", (data) => {
          answer += data.toString();
          socket.end();
        });
        socket.on("close", () => resolve(answer));
        socket.on("error", () => resolve(answer));
      });
    expect(await raw("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")).toContain(
      " 403 ",
    );
    const head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect(await raw(`${head}${`${(5000).toString(16)}\r\n${"x".repeat(5000)}\r\n`.repeat(8)}`)).toContain(
      " 413 ",
    );
    expect(await raw("GARBAGE\r\n\r\n")).toContain("400");
  });

  it("that goes away in the middle of its body is no fault, and no 500", async () => {
    const [host, port] = ["127.0.0.1", Number(new URL(server.url).port)];
    const count = async (status: number) => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      const line = `lowrank_requests_total{route="/v1/completions",status="${status}"} `;
      return Number(
        text
          .split("\n")
          .find((each) => each.startsWith(line))
          ?.slice(line.length) ?? 0,
      );
    };
    const before = await count(499);
    for (let i = 0; i < 3; i++) {
      await new Promise<void>((resolve) => {
        const socket = connect(port, host, () => {
          socket.write(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
            () => setTimeout(() => socket.destroy(), 20),
          );
        });
        socket.on("close", () => resolve());
      });
    }
    await expect.poll(() => count(499)).toBe(before + 3);
    expect(await count(500)).toBe(0);
    expect(faults).toEqual([]);
  });

  it("hears of a broken adapter without the folders of the machine", async () => {
    mkdirSync(join(root, "shelf", "broken"));
    writeFileSync(join(root, "shelf", "broken", "adapter_config.json"), "{");
    mkdirSync(join(root, "shelf", "bare"));
    for (const name of ["broken", "bare"]) {
      const response = await post("/v1/load_lora_adapter", JSON.stringify({ lora_name: name }));
      const { message } = ((await response.json()) as { error: { message: string } }).error;
      expect(response.status).toBe(400);
      expect(message).toContain("adapter_config.json");
      expect(message).not.toContain(root);
    }
  });

  it("gets short answers to long mistakes", async () => {
    const key = "k".repeat(5000);
    const response = await post(
      "/v1/chat/completions",
      JSON.stringify({
        model: "base",
        messages: [{ role: "user", content: "x" }],
        chat_template_kwargs: { [key]: 1 },
      }),
    );
    expect(response.status).toBe(400);
    expect((await response.text()).length).toBeLessThan(1000);
  });

  it("needs the key where there is one", async () => {
    const locked = await startServer({ engine, preparers }, { ...limits, apiKey: "right" });
    const ask = (key: string) =>
      new OpenAI({ baseURL: `${locked.url}/v1`, apiKey: key, maxRetries: 0 }).models.list();
    await expect(ask("wrong")).rejects.toThrow(/401/);
    expect((await ask("right")).data).toHaveLength(3);
    for (const scheme of ["bearer", "BEARER", "Bearer "])
      expect(
        (await fetch(`${locked.url}/v1/models`, { headers: { Authorization: `${scheme} right` } })).status,
      ).toBe(200);
    expect(
      (await fetch(`${locked.url}/v1/models`, { headers: { Authorization: "Basic right" } })).status,
    ).toBe(401);
    expect((await fetch(`${locked.url}/metrics`)).status).toBe(401);
    expect((await fetch(`${locked.url}/healthz`)).status).toBe(200);
    await locked.close(100);
  });

  it("is held to the limits of requests and time, and a closing server ends in order", async () => {
    const small = await startServer({ engine, preparers }, { ...limits, maxRequests: 1, timeoutSeconds: 1 });
    const asker = new OpenAI({ baseURL: `${small.url}/v1`, apiKey: "x", maxRetries: 0 });
    const ask = () =>
      asker.completions.create({ model: "base", prompt: "one", max_tokens: 64, temperature: 0 });
    const results = await Promise.allSettled([ask(), ask(), ask()]);
    expect(results.filter((result) => result.status === "fulfilled").length).toBeGreaterThanOrEqual(1);
    const refused = results.filter((result) => result.status === "rejected");
    for (const { reason } of refused) expect((reason as APIError).status).toBe(429);
    // The limit is told before a body is read: this one never comes.
    const busy = ask();
    await expect.poll(() => small.inFlight, { interval: 1 }).toBe(1);
    const head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n";
    const unread = await new Promise<string>((resolve) => {
      const socket = connect(Number(new URL(small.url).port), "127.0.0.1", () => socket.write(head));
      socket.on("data", (data) => {
        resolve(data.toString());
        socket.destroy();
      });
    });
    expect(unread).toMatch(/^HTTP\/1.1 429 /);
    await busy;
    const last = ask();
    await expect.poll(() => small.inFlight, { interval: 1 }).toBe(1);
    const closing = small.close(10_000);
    expect((await last).choices).toHaveLength(1);
    await closing;
    await expect(ask()).rejects.toThrow();
  });
});
