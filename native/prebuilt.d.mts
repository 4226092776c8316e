/** What prebuilt.mjs has for the CPU backend. */
export interface Prebuilt {
  readonly name: string;
  readonly path: string;
  readonly manifest: {
    readonly version?: string;
    readonly lowrank?: { readonly sources: string; readonly sha256: string };
  };
}
export const platforms: Readonly<
  Record<string, { readonly os: string; readonly cpu: string; readonly libc?: string }>
>;
export function packageOfThisMachine(): string | undefined;
export function findPrebuilt(name?: string): Prebuilt | undefined;
export function foreignPackages(): string;
export function ownVersion(): string;
export function quickProblem(prebuilt: Prebuilt): string;
export function problemOf(prebuilt: Prebuilt): string;
export function sourceDigest(): string;
