// Sixteen float lanes and the elementary functions the kernels need, in the compiler's own vector types:
// one source for AVX-512, AVX2 and NEON, and no intrinsics to keep in step.
#pragma once
#include <cstdint>
#include <cstring>

constexpr int W = 16;
typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t IVec __attribute__((vector_size(4 * W)));

static inline Vec splat(float x) { return x - Vec{}; }

// Channels come in blocks of W; the last block of a tensor may have fewer.
static inline Vec load(const float* p, int lanes = W) {
  Vec v = {};
  if (__builtin_expect(lanes == W, 1)) std::memcpy(&v, p, sizeof v);
  else std::memcpy(&v, p, 4 * lanes);
  return v;
}
static inline void store(float* p, Vec v, int lanes = W) {
  if (__builtin_expect(lanes == W, 1)) std::memcpy(p, &v, sizeof v);
  else std::memcpy(p, &v, 4 * lanes);
}
static inline float sum(Vec v) {
  float s = 0;
  for (int i = 0; i < W; ++i) s += v[i];
  return s;
}

// 2^x for x <= 127: round to the nearest integer with the magic constant 1.5 * 2^23, a degree-6 polynomial on
// [-0.5, 0.5] (relative error below 2e-7), then add the integer to the exponent bits. Below 2^-126 it returns 2^-126.
static inline Vec exp2(Vec x) {
  x = x < -126.0f ? splat(-126.0f) : x;
  const Vec shifted = x + 12582912.0f;
  const Vec f = x - (shifted - 12582912.0f);
  Vec p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  return (Vec)((IVec)p + ((IVec)shifted << 23));
}
constexpr float LOG2E = 1.44269504088896341f;
static inline Vec exp(Vec x) { return exp2((x > 88.0f ? splat(88.0f) : x) * LOG2E); }

static inline Vec log(Vec x) {  // x in [1, 2^127]
  IVec bits = (IVec)x - 0x3f3504f3;                          // centre the mantissa on [sqrt(1/2), sqrt(2))
  const IVec exponent = bits >> 23;
  const Vec m = (Vec)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
  Vec p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return __builtin_convertvector(exponent, Vec) * 0.693147180559945f + (m - 0.5f * m * m + p * m * m * m);
}

static inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// log(1 + e^x), the identity above 20 (as torch). Kahan's correction keeps the relative error for very negative x,
// where 1 + e^x has lost most of e^x.
static inline Vec softplus(Vec x) {
  const Vec e = exp(x > 20.0f ? splat(20.0f) : x);
  const Vec w = 1.0f + e;
  const Vec d = w - 1.0f;
  const Vec small = d == 0.0f ? e : log(w) * (e / (d == 0.0f ? splat(1.0f) : d));
  return x > 20.0f ? x : small;
}
