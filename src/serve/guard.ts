// Who may ask a server on this machine at all. A web page of a stranger runs in the user's own browser, so listening on
// loopback keeps nobody out: the name that was asked for (Host) and the page that asks (Origin, Sec-Fetch-Site) are looked
// at, or a key. What answers refuse: server.ts, ui/ui-server.ts.

import { createHash, timingSafeEqual } from "node:crypto";

/** Compares hashes, so that neither content nor length of a key shows in the time taken. */
export function sameText(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) => createHash("sha256").update(text).digest()) as [Buffer, Buffer];
  return timingSafeEqual(x, y);
}

/** Whether an Authorization header carries the key. */
export function carriesKey(authorization: string | undefined, key: string): boolean {
  return sameText(/^bearer +(.+)$/i.exec(authorization ?? "")?.[1] ?? "", key);
}

/** A web page could point its own name at 127.0.0.1 and talk to us from a browser. */
export function isLoopbackName(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i.test(host);
}

/** What browsers say of where a request comes from; all absent where it is no browser's. */
export interface RequestSource {
  readonly host: string | undefined;
  readonly origin: string | undefined;
  /** The header Sec-Fetch-Site. */
  readonly site: string | undefined;
}

/** Whether another site's page asks: one of another port of this machine is another site's too. */
export function isForeign({ host, origin, site }: RequestSource): boolean {
  if (site !== undefined && site !== "same-origin" && site !== "none") return true;
  if (origin === undefined) return false;
  try {
    const { protocol, host: from } = new URL(origin);
    return protocol !== "http:" || from !== new URL(`http://${host}`).host;
  } catch {
    return true;
  }
}
