/** What a shared library says of itself. */
export interface BinaryFacts {
  readonly format: "elf" | "mach-o" | "pe";
  readonly machine: string;
  readonly needs: readonly string[];
  readonly exports: readonly string[];
  /** The newest version of glibc whose symbols it needs; empty without any. */
  readonly glibc: string;
  /** The oldest macOS that may load it; Mach-O's alone, as the signature is. */
  readonly minimumMacos?: string;
  readonly isSigned?: boolean;
}
export declare function inspectBinary(bytes: Uint8Array): BinaryFacts;
