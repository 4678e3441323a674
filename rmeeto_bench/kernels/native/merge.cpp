// The paper's merge (see ../merge/reference.py): who merges with whom, and the merge folded into add + RMSNorm.
//
// Matching is products of unit rows: tiles of two sources by four targets do eight FMAs per six loads, so the multipliers
// bound it. The merge itself reads and writes each token once: memory bounds it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tasks.h"
#include "vector.h"

namespace {

constexpr int SOURCES = 2, TARGETS = 4;  // of a tile: eight sums and six operands are what 16 registers hold

// Dot products of SOURCES rows a with TARGETS rows b of length n (a multiple of W), `stride` floats apart.
inline void tile(const float* a, const float* b, long stride, long n, float scores[SOURCES][TARGETS]) {
  Vec sums[SOURCES][TARGETS] = {};
  for (long f = 0; f < n; f += W) {
    Vec x[SOURCES];
#pragma GCC unroll 2
    for (int i = 0; i < SOURCES; ++i) x[i] = loadu(a + i * stride + f);
#pragma GCC unroll 4
    for (int k = 0; k < TARGETS; ++k) {
      const Vec y = loadu(b + k * stride + f);
#pragma GCC unroll 2
      for (int i = 0; i < SOURCES; ++i) sums[i][k] += x[i] * y;
    }
  }
  for (int i = 0; i < SOURCES; ++i)
    for (int k = 0; k < TARGETS; ++k) scores[i][k] = sum(sums[i][k]);
}

// Rows of the patches of one image at unit length, zero-padded to `width` channels; a zero row stays zero.
void unit_rows(const float* metric, long patches, long channels, long cls, long width, float* unit) {
  for (long p = 0; p < patches; ++p) {
    const float* from = metric + (p + (p >= cls)) * channels;
    float* to = unit + p * width;
    Block squares = {};
    for (long c = 0; c < channels; c += BLOCK) {
      const Block value = load(from + c, std::min<long>(BLOCK, channels - c));
      EACH_VECTOR squares.v[v] += value.v[v] * value.v[v];
      store(to + c, value, BLOCK);
    }
    const float norm = std::sqrt(sum(squares));
    const float scale = norm > 0 ? 1.0f / norm : 0.0f;
    for (long c = 0; c < width; c += W) storeu(to + c, loadu(to + c) * scale);
  }
}

struct Matching {  // what the matching of one image needs; each thread reuses its own
  std::vector<float> unit, best;
  std::vector<long> nearest, order, place;
  std::vector<char> gone;
};

}  // namespace

extern "C" {

// metric [B, L, C] -> survivors [B, L - r], merged [B, r] (closest pair first), slots [B, r]. Patches are indexed without
// the class token at row cls, which moves to row `moved`; even ones are sources. Ties go to the lowest index; NaN loses.
int rmeeto_match(const float* metric, long batch, long length, long channels, long cls, long moved, long r, int32_t* survivors,
                 int32_t* merged, int32_t* slots, int threads) {
  const long patches = length - 1, sources = (patches + 1) / 2, targets = patches / 2, left = length - r;
  const long width = (channels + BLOCK - 1) / BLOCK * BLOCK;
  const long rows = patches + 2 * (SOURCES + TARGETS);  // a tile may read past the last source or target
  each_task(batch, threads, [&](long image) {
    static thread_local Matching m;
    m.unit.assign(rows * width, 0.0f);
    m.best.assign(sources, -std::numeric_limits<float>::infinity());
    m.nearest.assign(sources, 0);
    unit_rows(metric + image * length * channels, patches, channels, cls, width, m.unit.data());
    for (long s = 0; s < sources; s += SOURCES)
      for (long t = 0; t < targets; t += TARGETS) {
        float scores[SOURCES][TARGETS];
        tile(&m.unit[2 * s * width], &m.unit[(2 * t + 1) * width], 2 * width, width, scores);
        for (long i = 0; i < SOURCES && s + i < sources; ++i)
          for (long k = 0; k < TARGETS && t + k < targets; ++k)
            if (scores[i][k] > m.best[s + i]) m.best[s + i] = scores[i][k], m.nearest[s + i] = t + k;
      }
    m.order.resize(sources);
    std::iota(m.order.begin(), m.order.end(), 0);
    std::stable_sort(m.order.begin(), m.order.end(), [&](long a, long b) { return m.best[a] > m.best[b]; });
    m.gone.assign(patches, 0);
    m.place.resize(patches);
    for (long k = 0; k < r; ++k) m.gone[2 * m.order[k]] = 1;
    long slot = 0;
    for (long p = 0; p < patches; ++p) {
      if (slot == moved) survivors[image * left + slot++] = cls;
      m.place[p] = slot;
      if (!m.gone[p]) survivors[image * left + slot++] = p + (p >= cls);
    }
    if (slot == moved) survivors[image * left + slot] = cls;
    for (long k = 0; k < r; ++k) {
      const long source = 2 * m.order[k];
      merged[image * r + k] = source + (source >= cls);
      slots[image * r + k] = m.place[2 * m.nearest[m.order[k]] + 1];
    }
  });
  return 0;
}

// hidden, residual [B, L, C], size [B, L] or null for ones -> out, total [B, left, C], new_size [B, left].
// total = size-weighted mean of (hidden + residual) over each group, out = its RMSNorm. Returns 2 for a row out of range.
int rmeeto_merge_add_norm(const float* hidden, const float* residual, const float* size, const int32_t* survivors,
                          const int32_t* merged, const int32_t* slots, const float* weight, long batch, long length, long left,
                          long r, long channels, float eps, float* out, float* total, float* new_size, int threads) {
  const auto within = [](const int32_t* rows, long count, long end) {
    return std::all_of(rows, rows + count, [&](int32_t row) { return row >= 0 && row < end; });
  };
  if (!within(survivors, batch * left, length) || !within(merged, batch * r, length) || !within(slots, batch * r, left)) return 2;
  each_task(batch, threads, [&](long image) {
    static thread_local std::vector<int32_t> first, next;  // per output row, the merged rows in their order
    first.assign(left, -1);
    next.resize(r);
    for (long k = r - 1; k >= 0; --k) {
      int32_t& head = first[slots[image * r + k]];
      next[k] = head, head = k;
    }
    const auto own_size = [&](long row) { return size ? size[row] : 1.0f; };
    const auto sum_of = [&](long row, long c, int lanes) {
      Block value = load(hidden + row * channels + c, lanes);
      const Block other = load(residual + row * channels + c, lanes);
      EACH_VECTOR value.v[v] += other.v[v];
      return value;
    };
    for (long i = 0; i < left; ++i) {
      const long at = image * left + i, own = image * length + survivors[at];
      const float old = own_size(own);
      float group = old;
      for (int32_t k = first[i]; k >= 0; k = next[k]) group += own_size(image * length + merged[image * r + k]);
      new_size[at] = group;
      Block squares = {};
      for (long c = 0; c < channels; c += BLOCK) {
        const int lanes = std::min<long>(BLOCK, channels - c);
        Block value = sum_of(own, c, lanes);
        if (first[i] >= 0) {  // a token that gains nothing is copied bit for bit
          EACH_VECTOR value.v[v] *= old;
          for (int32_t k = first[i]; k >= 0; k = next[k]) {
            const long row = image * length + merged[image * r + k];
            const Block other = sum_of(row, c, lanes);
            EACH_VECTOR value.v[v] += other.v[v] * own_size(row);
          }
          EACH_VECTOR value.v[v] /= group;
        }
        store(total + at * channels + c, value, lanes);
        EACH_VECTOR squares.v[v] += value.v[v] * value.v[v];
      }
      const float scale = 1.0f / std::sqrt(sum(squares) / channels + eps);
      for (long c = 0; c < channels; c += BLOCK) {
        const int lanes = std::min<long>(BLOCK, channels - c);
        Block value = load(total + at * channels + c, lanes);
        const Block w = load(weight + c, lanes);
        EACH_VECTOR value.v[v] *= scale * w.v[v];
        store(out + at * channels + c, value, lanes);
      }
    }
  });
  return 0;
}
}
