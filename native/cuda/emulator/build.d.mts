export const emulatorPath: string;
/** Builds what is out of date; undefined where there is no compiler, or it fails. */
export function buildEmulator(): Promise<string | undefined>;
