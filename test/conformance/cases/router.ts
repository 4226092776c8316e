// A mixture's router, the order of its tokens, the sum of its experts' answers, and their activation.

import {
  expertActivation as activationOp,
  combineExperts as combineOp,
  route,
} from "../../../src/autograd/ops/experts.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import { type Call, casesOf, type GradientCase, type KernelSpec, speedOf } from "./case.ts";
import { choices, ordered } from "./routed-rows.ts";

/** Tokens, experts, and how many of them a token goes to. */
const shapes = [
  [0, 4, 2],
  [1, 4, 1],
  [3, 5, 5],
  [17, 8, 2],
  [40, 33, 4],
  [130, 128, 8],
] as const;

const both = [true, false] as const;

/** Equal logits are common among the first tokens: whole numbers. */
const logitsOf = (s: Stage, t: number, experts: number) => {
  const random = new Random(4, 4);
  return s.values(
    [t, experts],
    Float32Array.from({ length: t * experts }, (_, i) =>
      i < 4 * experts ? random.nextInt(3) : 6 * random.nextFloat() - 3,
    ),
  );
};

const routerCalls = (list: readonly (readonly [number, number, number])[]): Call<"router">[] =>
  list.flatMap(([t, experts, k]) =>
    both.map((normalized) => ({
      sizes: { t, experts, k },
      given: { normalized },
      make: (s: Stage) => ({ logits: logitsOf(s, t, experts) }),
    })),
  );

/** Made ready: chosen and slots are no operands that random numbers would do for. */
const withChosen = (t: number, experts: number, k: number) => (s: Stage) => ({
  chosen: s.ints([t, k], choices(t, experts, k)),
});
const withSlots = (t: number, experts: number, k: number) => (s: Stage) => ({
  slots: s.ints([t, k], ordered(choices(t, experts, k), experts, k).slots),
});

export const router: KernelSpec = {
  name: "router",
  cases: casesOf(
    "router",
    routerCalls(shapes).map((call) => ({
      ...call,
      make: (s: Stage) => ({
        ...call.make!(s),
        chosen: s.ints([call.sizes.t!, call.sizes.k!], new Array(call.sizes.t! * call.sizes.k!).fill(7)),
      }),
    })),
  ),
  gradients: both.map(
    (normalized): GradientCase => ({
      name: `router ${normalized ? "normalized" : "over all"}`,
      inputs: [[5, 6]],
      build: (_s, tape, [logits]) => route(tape, logits!, 3, normalized).weights,
    }),
  ),
  speed: speedOf("router", [
    {
      sizes: { t: 512, experts: 128, k: 8 },
      given: { normalized: true },
      make: (s) => ({ chosen: s.ints([512, 8], new Array(4096).fill(0)) }),
    },
  ]),
  threads: casesOf("router", [
    {
      sizes: { t: 300, experts: 65, k: 6 },
      given: { normalized: false },
      make: (s) => ({ chosen: s.ints([300, 6], new Array(1800).fill(0)) }),
    },
  ]),
};

const backwardCalls = (list: readonly (readonly [number, number, number])[]): Call<"routerBackward">[] =>
  list.flatMap(([t, experts, k]) =>
    both.map((normalized) => ({
      sizes: { t, experts, k },
      given: { normalized },
      make: withChosen(t, experts, k),
    })),
  );

export const routerBackward: KernelSpec = {
  name: "routerBackward",
  cases: casesOf("routerBackward", backwardCalls(shapes)),
  speed: speedOf("routerBackward", backwardCalls([[512, 128, 8]])),
  threads: casesOf("routerBackward", backwardCalls([[300, 65, 6]])),
};

const sortCalls = (list: readonly (readonly [number, number, number])[]): Call<"sortByExpert">[] =>
  list.map(([t, experts, k]) => ({
    sizes: { t, k, bounds: experts + 1 },
    make: (s) => ({
      chosen: s.ints([t, k], choices(t, experts, k)),
      offsets: s.ints([experts + 1], new Array(experts + 1).fill(5)),
      slots: s.ints([t, k], new Array(t * k).fill(5)),
      tokens: s.ints([t, k], new Array(t * k).fill(5)),
    }),
  }));

export const sortByExpert: KernelSpec = {
  name: "sortByExpert",
  cases: casesOf("sortByExpert", sortCalls([...shapes, [9, 300, 3]]), { exact: true }),
  speed: speedOf("sortByExpert", sortCalls([[512, 128, 8]])),
  threads: casesOf("sortByExpert", sortCalls([[300, 65, 6]])),
};

/** Tokens, experts, k and width. */
const combineShapes = [
  [0, 4, 2, 8],
  [1, 4, 1, 3],
  [3, 5, 5, 17],
  [17, 8, 2, 64],
  [40, 33, 4, 130],
  [9, 128, 8, 2049],
] as const;

const combineCalls = (
  list: readonly (readonly [number, number, number, number])[],
): Call<"combineExperts" | "combineExpertsBackward">[] =>
  list.map(([t, experts, k, c]) => ({ sizes: { t, k, c, m: t * k }, make: withSlots(t, experts, k) }));

export const combineExperts: KernelSpec = {
  name: "combineExperts",
  cases: casesOf("combineExperts", combineCalls(combineShapes) as Call<"combineExperts">[]),
  gradients: [
    {
      name: "combineExperts with residual",
      inputs: [
        [6, 4],
        [3, 5],
        [3, 4],
      ],
      build: (_s, tape, [z, logits, residual]) =>
        combineOp(tape, z!, route(tape, logits!, 2, true), residual!),
    },
  ],
  speed: speedOf("combineExperts", combineCalls([[512, 128, 8, 2048]]) as Call<"combineExperts">[]),
  threads: casesOf("combineExperts", combineCalls([[150, 33, 4, 260]]) as Call<"combineExperts">[]),
};

export const combineExpertsBackward: KernelSpec = {
  name: "combineExpertsBackward",
  cases: casesOf("combineExpertsBackward", combineCalls(combineShapes) as Call<"combineExpertsBackward">[], {
    product: true,
  }),
  speed: speedOf(
    "combineExpertsBackward",
    combineCalls([[512, 128, 8, 2048]]) as Call<"combineExpertsBackward">[],
  ),
  threads: casesOf(
    "combineExpertsBackward",
    combineCalls([[150, 33, 4, 260]]) as Call<"combineExpertsBackward">[],
  ),
};

/** gpt-oss' numbers, and none. */
const kinds = [
  { activation: "silu", limit: 0, alpha: 0 },
  { activation: "gelu", limit: 0, alpha: 0 },
  { activation: "geluTanh", limit: 0, alpha: 0 },
  { activation: "silu", limit: 7, alpha: 1.702 },
] as const;

const activationCalls: Call<"expertActivation" | "expertActivationBackward">[] = (
  [
    [0, 3],
    [1, 1],
    [3, 17],
    [5, 64],
    [33, 96],
  ] as const
).flatMap(([n, f]) => kinds.map((given) => ({ sizes: { n, f }, given, bound: 9 })));
const large: Call<"expertActivation" | "expertActivationBackward"> = {
  sizes: { n: 4096, f: 768 },
  given: kinds[0],
};
const shared: Call<"expertActivation" | "expertActivationBackward"> = {
  sizes: { n: 300, f: 333 },
  given: kinds[3],
};

export const expertActivation: KernelSpec = {
  name: "expertActivation",
  cases: casesOf("expertActivation", activationCalls as Call<"expertActivation">[]),
  gradients: kinds.map(
    (kind): GradientCase => ({
      name: `expertActivation ${kind.activation}${kind.limit > 0 ? " clamped" : ""}`,
      inputs: [[3, 10]],
      // Some of the numbers, within +-1, are beyond the limit.
      build: (_s, tape, [x]) => activationOp(tape, kind.limit > 0 ? { ...kind, limit: 0.6 } : kind, x!),
    }),
  ),
  speed: speedOf("expertActivation", [large as Call<"expertActivation">]),
  threads: casesOf("expertActivation", [shared as Call<"expertActivation">]),
};

export const expertActivationBackward: KernelSpec = {
  name: "expertActivationBackward",
  cases: casesOf("expertActivationBackward", activationCalls as Call<"expertActivationBackward">[]),
  speed: speedOf("expertActivationBackward", [large as Call<"expertActivationBackward">]),
  threads: casesOf("expertActivationBackward", [shared as Call<"expertActivationBackward">]),
};
