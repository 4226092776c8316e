import type { BinaryFacts } from "./inspect-binary.d.mts";

export declare function addonProblem(name: string, facts: BinaryFacts): string;
export declare function writePackage(folder: string, name: string, addon: string, made: object): void;
export declare function pack(folder: string, out: string): string;
export declare function packLowrank(out: string): string;
