// Vectors as wide as the instruction set has them, and the elementary functions the kernels need, in the compiler's own
// vector types: one source for AVX-512, AVX2, SSE2 and NEON, without intrinsics to keep in step.
// A task takes a block of 16 channels, one cache line, whatever the width: V vectors of W lanes.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;  // SSE2, NEON, and whatever the compiler makes of it elsewhere
#endif
constexpr int BLOCK = 16;
constexpr int V = BLOCK / W;

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t IVec __attribute__((vector_size(4 * W)));

struct Block {
  Vec v[V];
};

#define EACH_VECTOR _Pragma("GCC unroll 4") for (int v = 0; v < V; ++v)

static inline Vec splat(float x) { return x - Vec{}; }
static inline Vec loadu(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void storeu(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// The last block of a tensor may have fewer than 16 channels: its lanes beyond them are zeros and are never written.
static inline Block load(const float* p, int lanes) {
  Block b;
  if (__builtin_expect(lanes == BLOCK, 1)) {
    EACH_VECTOR b.v[v] = loadu(p + v * W);
  } else {
    float padded[BLOCK] = {};
    std::memcpy(padded, p, 4 * lanes);
    EACH_VECTOR b.v[v] = loadu(padded + v * W);
  }
  return b;
}
static inline void store(float* p, const Block& b, int lanes) {
  if (__builtin_expect(lanes == BLOCK, 1)) {
    EACH_VECTOR storeu(p + v * W, b.v[v]);
  } else {
    float padded[BLOCK];
    EACH_VECTOR storeu(padded + v * W, b.v[v]);
    std::memcpy(p, padded, 4 * lanes);
  }
}
static inline Block gather(const float* p, long stride, int lanes) {
  float values[BLOCK] = {};
  for (int i = 0; i < lanes; ++i) values[i] = p[i * stride];
  return load(values, BLOCK);
}

static inline float sum(Vec x) {  // halves onto halves: as few dependent additions as lanes have bits
  float values[W];
  storeu(values, x);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  return values[0];
}
static inline float sum(const Block& b) {
  Vec total = b.v[0];
  for (int v = 1; v < V; ++v) total += b.v[v];
  return sum(total);
}

// The larger of x and low, both negative or -0: as integers their order is the other way round, and one instruction.
static inline Vec floor_of_negative(Vec x, float low) {
  const IVec bits = (IVec)x, limit = (IVec)splat(low);
  return (Vec)(bits < limit ? bits : limit);
}
static inline Vec abs(Vec x) { return (Vec)((IVec)x & 0x7fffffff); }

constexpr float LOG2E = 1.44269504088896341f;

// 2^(x y) for x y negative or -0: round to the nearest integer with the magic constant 1.5 * 2^23, take the polynomial of the
// rest in [-0.5, 0.5], add the integer to the exponent bits. Degree 5 is the least that fp32 allows: its relative error is
// 9.2e-8 (3/4 of the spacing of floats), of degree 4 it would be 2e-5. It is 1 at 0, or decays near 1 would drift.
// Ten instructions with FMA, eight of them for the multipliers' ports. Below 2^-126 the exponent would wrap: where that
// can happen CLAMP costs two more and gives 2^-126 (of NaN, too: callers have it elsewhere in their results).
template <bool CLAMP>
static inline Vec exp2_of_product(Vec x, Vec y) {
  constexpr float magic = 12582912.0f;
  Vec shifted, f;
  if (CLAMP) {
    const Vec product = floor_of_negative(x * y, -126.0f);
    shifted = product + magic;
    f = product - (shifted - magic);
  } else {
    shifted = x * y + magic;
    f = x * y - (shifted - magic);
  }
  Vec p = f * 1.3264652392e-3f + 9.6715113244e-3f;
  p = p * f + 5.5507339628e-2f;
  p = p * f + 2.4022242124e-1f;
  p = p * f + 6.9314697753e-1f;
  p = p * f + 1.0f;
  return (Vec)((IVec)p + ((IVec)shifted << 23));
}

// e^-|x|, the one exponential that softplus and sigmoid need: it neither overflows nor loses digits.
static inline Vec exp_minus_abs(Vec x) { return exp2_of_product<true>(abs(x), splat(-LOG2E)); }

static inline Vec sigmoid(Vec x) {
  const Vec e = exp_minus_abs(x);
  return (x < 0.0f ? e : splat(1.0f)) / (1.0f + e);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), as torch also where it is the identity (x > 20). log1p(e) is e times a
// polynomial on [0, 1] with relative error 3e-8, so the relative error is small for very negative x, too.
static inline Vec softplus(Vec x) {
  const Vec e = exp_minus_abs(x);
  Vec p = e * 5.2326943021e-3f - 2.9505238927e-2f;
  p = p * e + 7.8225952118e-2f;
  p = p * e - 1.3663245814e-1f;
  p = p * e + 1.9106006769e-1f;
  p = p * e - 2.4842982216e-1f;
  p = p * e + 3.3319096808e-1f;
  p = p * e - 4.9999493140e-1f;
  p = p * e + 1.0f;
  return (x < 0.0f ? Vec{} : x) + p * e;
}
