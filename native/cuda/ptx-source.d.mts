/** Files of kernels/ without their ending. */
export function kernelFiles(): string[];
export function ptxPath(file: string): string;
/** SHA-256 of what a kernel file is made from. */
export function sourceHash(file: string): string;
/** What its .ptx says that it was made from; undefined where there is none. */
export function statedHash(file: string): string | undefined;
