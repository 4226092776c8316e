// Which tile each product takes, as measured on a device with the model's own weights. Measuring: tuning.ts; the tiles, and
// the order in which places count them: tiles.ts.

/** What a product's speed depends on beside its rows: how B is stored, which way it is read, and its size. */
export interface ProductKind {
  /** "4-bit", or B's dtype. */
  readonly form: string;
  /** B is [k, n]: the product of a gradient. */
  readonly transposed: boolean;
  readonly n: number;
  readonly k: number;
}

/** A, C and B's other side of products that are measured have so many rows; far fewer go unmeasured. */
export const tunedRows = 1024;
export const fewestTunedRows = 256;

/** What has been measured: the fastest tile of each kind of product by its place, for all kinds of B the nearest one's. */
export class TileChoices {
  private readonly measured = new Map<
    string,
    { readonly n: number; readonly k: number; readonly place: number }[]
  >();
  /** By form and direction, then n, then k: a step asks for the same few over and over. */
  private readonly known = new Map<string, Map<number, Map<number, number | undefined>>>();
  private everywhere: number | undefined;

  constructor(places: ReadonlyMap<string, number> = new Map()) {
    for (const [key, place] of places) {
      const [, family, n, k] = /^(.+) (\d+)x(\d+)$/.exec(key) ?? [];
      if (family === undefined) continue;
      const kinds = this.measured.get(family) ?? [];
      kinds.push({ n: Number(n), k: Number(k), place });
      this.measured.set(family, kinds);
    }
  }

  /** One place for every product: for measuring it. */
  static forced(place: number): TileChoices {
    const choices = new TileChoices();
    choices.everywhere = place;
    return choices;
  }

  static key({ form, transposed, n, k }: ProductKind): string {
    return `${familyOf(form, transposed)} ${n}x${k}`;
  }

  /** The place of the tile for a product, by the nearest kind that was measured, by factors; undefined without any. */
  of(form: string, transposed: boolean, m: number, n: number, k: number): number | undefined {
    if (this.everywhere !== undefined) return this.everywhere;
    if (m < fewestTunedRows || this.measured.size === 0) return undefined;
    const family = familyOf(form, transposed);
    let byN = this.known.get(family);
    if (!byN) this.known.set(family, (byN = new Map()));
    let byK = byN.get(n);
    if (!byK) byN.set(n, (byK = new Map()));
    if (!byK.has(k)) byK.set(k, this.nearest(family, n, k));
    return byK.get(k);
  }

  private nearest(family: string, n: number, k: number): number | undefined {
    let least = Number.POSITIVE_INFINITY;
    let place: number | undefined;
    for (const kind of this.measured.get(family) ?? []) {
      const distance = Math.abs(Math.log(kind.n / n)) + Math.abs(Math.log(kind.k / k));
      if (distance < least) [least, place] = [distance, kind.place];
    }
    return place;
  }
}

const families = new Map<string, readonly [string, string]>();
function familyOf(form: string, transposed: boolean): string {
  let names = families.get(form);
  if (!names) families.set(form, (names = [`${form} forward`, `${form} gradient`]));
  return names[transposed ? 1 : 0];
}
