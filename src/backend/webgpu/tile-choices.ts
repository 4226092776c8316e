// Which tile each kernel takes at which size, as measured on a device. Measuring: tuning.ts; the tiles: tiles.ts.

/** Kernels whose tiles are measured. */
export type TiledKernelName = "gemm" | "gemm-matrix";

/** Sides of the square products that are measured; a product goes by the side nearest to its own, by factors. */
export const tunedSides = [512, 1024, 2048, 4096] as const;

/** What has been measured: the fastest tile, by its place in the kernel's list, of each kernel and side. */
export class TileChoices {
  constructor(readonly places: ReadonlyMap<string, number> = new Map()) {}

  static key(kernel: TiledKernelName, side: number): string {
    return `${kernel} ${side}`;
  }

  of(kernel: TiledKernelName, m: number, n: number): number | undefined {
    const sides = Math.log2(m * n) / 2;
    const distance = (side: number) => Math.abs(Math.log2(side) - sides);
    const nearest = tunedSides.reduce((best, side) => (distance(side) < distance(best) ? side : best));
    return this.places.get(TileChoices.key(kernel, nearest));
  }
}
