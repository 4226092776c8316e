// Rotary position embedding, both ways, in place and not, of whole heads and of their first elements. Its gradient is
// checked together with attention's (attention.ts).

import { type Call, casesOf, type KernelSpec, speedOf } from "./case.ts";

const call = (
  [t, heads, headDim, rotary]: readonly [number, number, number, number],
  direction: 1 | -1,
  p = 23,
): Call<"rope"> => ({
  sizes: { t, heads, headDim, half: rotary / 2, p },
  given: { direction },
  make: (s) => ({
    positions: s.ints(
      [t],
      Array.from({ length: t }, (_, i) => (i * 5) % p),
    ),
  }),
});

export const rope: KernelSpec = {
  name: "rope",
  cases: casesOf(
    "rope",
    (
      [
        [0, 2, 8, 8],
        [1, 1, 2, 2],
        [5, 3, 6, 6],
        [19, 4, 64, 64],
        [7, 2, 80, 80],
        [5, 3, 6, 4],
        [9, 2, 5, 2],
        [19, 4, 64, 16],
        [11, 2, 80, 60],
      ] as const
    ).flatMap((sizes) => [call(sizes, 1), call(sizes, -1)]),
  ),
  speed: speedOf("rope", [
    call([512, 9, 64, 64], 1, 512),
    call([512, 3, 64, 64], -1, 512),
    call([512, 32, 80, 32], 1, 512),
  ]),
  threads: casesOf("rope", [call([150, 5, 64, 64], 1)]),
};
