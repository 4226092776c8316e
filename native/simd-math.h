// exp, exp2, tanh, the logistic function and the normal distribution on f32 vectors, within 1-2 units in the last place
// where the result is not subnormal. The polynomials are minimax fits in relative error, made for this file.
// Not here: loads, stores and plain arithmetic (simd.h).
#pragma once
#include "simd.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

/** Adding and taking away 1.5 * 2^23 rounds to the nearest integer (ties to even) for |x| < 2^22. */
constexpr float kRounder = 12582912.0f;

/** p * 2^n for integral n in [-280, 254], p near 1. */
LOWRANK_INLINE Vec scaleByPowerOfTwo(Vec p, Vec n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // In two steps, since 2^n itself may be subnormal or too large.
  const IntVec exponent = __builtin_convertvector(n, IntVec);
  const IntVec half = exponent >> 1;
  const Vec first = (Vec)((half + 127) << 23);
  const Vec second = (Vec)((exponent - half + 127) << 23);
  return p * first * second;
#endif
}

/** e^x. 0 below -104, infinity above 88.8; NaN stays NaN. */
LOWRANK_INLINE Vec exponential(Vec x) {
  x = minimum(broadcast(89.0f), maximum(broadcast(-105.0f), x));
  const Vec n = multiplyAdd(x, broadcast(1.44269504089f), broadcast(kRounder)) - kRounder;
  // ln 2 in two parts; n times the first is exact (Cody & Waite 1980).
  Vec r = multiplyAdd(n, broadcast(-0.693359375f), x);
  r = multiplyAdd(n, broadcast(2.12194440055e-4f), r);
  Vec q = broadcast(0.0013814318226650357f);
  q = multiplyAdd(q, r, broadcast(0.008368851616978645f));
  q = multiplyAdd(q, r, broadcast(0.041668400168418884f));
  q = multiplyAdd(q, r, broadcast(0.1666651964187622f));
  q = multiplyAdd(q, r, broadcast(0.4999999403953552f));
  const Vec p = multiplyAdd(q, r * r, r) + 1.0f;
  return scaleByPowerOfTwo(p, n);
}

/** 2^x. 0 below -150, infinity from 128; NaN stays NaN. */
LOWRANK_INLINE Vec exponentialBase2(Vec x) {
  x = minimum(broadcast(129.0f), maximum(broadcast(-151.0f), x));
  const Vec n = (x + kRounder) - kRounder;
  const Vec r = x - n;
  Vec p = broadcast(0.00015353152411989868f);
  p = multiplyAdd(p, r, broadcast(0.0013399133458733559f));
  p = multiplyAdd(p, r, broadcast(0.009618439711630344f));
  p = multiplyAdd(p, r, broadcast(0.05550331994891167f));
  p = multiplyAdd(p, r, broadcast(0.24022647738456726f));
  p = multiplyAdd(p, r, broadcast(0.6931471824645996f));
  p = multiplyAdd(p, r, broadcast(1.0f));
  return scaleByPowerOfTwo(p, n);
}

/** 1 / (1 + e^-x), and one minus it without cancellation. */
struct Logistic {
  Vec value, rest;
};
LOWRANK_INLINE Logistic logistic(Vec x) {
  // Held at e^87 so that e * value stays finite; the value is below 2e-38 there.
  const Vec e = exponential(minimum(broadcast(87.0f), -x));
  const Vec value = 1.0f / (1.0f + e);
  return {value, e * value};
}

/** tanh x: a series near 0, where 1 - 2 / (e^2x + 1) loses what is small. */
LOWRANK_INLINE Vec hyperbolicTangent(Vec x) {
  const Vec magnitude = x < 0.0f ? -x : x;
  const Vec far = 1.0f - 2.0f / (1.0f + exponential(magnitude * 2.0f));
  const Vec square = x * x;
  Vec near = broadcast(-1382.0f / 155925);
  near = multiplyAdd(near, square, broadcast(62.0f / 2835));
  near = multiplyAdd(near, square, broadcast(-17.0f / 315));
  near = multiplyAdd(near, square, broadcast(2.0f / 15));
  near = multiplyAdd(near, square, broadcast(-1.0f / 3));
  near = multiplyAdd(near * square, x, x);
  return magnitude < 0.35f ? near : x < 0.0f ? -far : far;
}

/** The normal distribution function, (1 + erf(x / sqrt 2)) / 2, and its density, exp(-x^2 / 2) / sqrt(2 pi). */
struct Normal {
  Vec cumulative, density;
};
LOWRANK_INLINE Normal normalDistribution(Vec x) {
  // erfc(z) = exp(-z^2) g(t), t = 1 / (1 + 0.3 z), z = |x| / sqrt 2; g fitted on z in [0, 10] to 2e-8.
  x = minimum(broadcast(20.0f), maximum(broadcast(-20.0f), x));
  const Vec magnitude = x < 0.0f ? -x : x;
  const Vec t = 1.0f / multiplyAdd(magnitude, broadcast(0.3f * 0.70710678118654752f), broadcast(1.0f));
  Vec g = broadcast(-0.1295231431722641f);
  g = multiplyAdd(g, t, broadcast(0.4855644106864929f));
  g = multiplyAdd(g, t, broadcast(-0.5122807621955872f));
  g = multiplyAdd(g, t, broadcast(0.5477232933044434f));
  g = multiplyAdd(g, t, broadcast(-0.09465313702821732f));
  g = multiplyAdd(g, t, broadcast(0.21492716670036316f));
  g = multiplyAdd(g, t, broadcast(0.14833885431289673f));
  g = multiplyAdd(g, t, broadcast(0.17071527242660522f));
  g = multiplyAdd(g, t, broadcast(0.1691880077123642f));
  g = g * t;
  // The square's rounding error is put back, else it grows to x^2 / 2 units in the last place.
  const Vec square = x * x;
  const Vec error = multiplyAdd(x, x, -square);
  const Vec decay = exponential(square * -0.5f);
  const Vec exact = multiplyAdd(decay * -0.5f, error, decay);
  const Vec upper = exact * g * 0.5f;
  return {x < 0.0f ? upper : 1.0f - upper, exact * 0.3989422804014327f};
}

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
