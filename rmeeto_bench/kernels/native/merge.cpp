// The paper's merge (see ../merge/reference.py): who merges with whom, and the merge folded into add + RMSNorm.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "vector.h"

namespace {

// Dot products of row a with four rows b of length n (a multiple of W).
inline void four_dots(const float* a, const float* b, long stride, long n, float* out) {
  Vec s0 = {}, s1 = {}, s2 = {}, s3 = {};
  for (long f = 0; f < n; f += W) {
    const Vec v = load(a + f);
    s0 += v * load(b + f);
    s1 += v * load(b + stride + f);
    s2 += v * load(b + 2 * stride + f);
    s3 += v * load(b + 3 * stride + f);
  }
  out[0] = sum(s0), out[1] = sum(s1), out[2] = sum(s2), out[3] = sum(s3);
}

// Rows of the patches of one image at unit length, zero-padded to `width` channels; a zero row stays zero.
void unit_rows(const float* metric, long patches, long channels, long cls, long width, float* unit) {
  for (long p = 0; p < patches; ++p) {
    const float* from = metric + (p + (p >= cls)) * channels;
    float* to = unit + p * width;
    Vec squares = {};
    for (long c = 0; c < channels; c += W) {
      const int lanes = channels - c < W ? channels - c : W;
      const Vec v = load(from + c, lanes);
      squares += v * v;
      store(to + c, v);
    }
    const float norm = std::sqrt(sum(squares));
    const float scale = norm > 0 ? 1.0f / norm : 0.0f;
    for (long c = 0; c < width; c += W) store(to + c, load(to + c) * scale);
  }
}

}  // namespace

extern "C" {

// metric [B, L, C] -> survivors [B, L - r], merged [B, r] (closest pair first), slots [B, r]. Patches are indexed without
// the class token at row cls, which moves to row `moved`; even ones are sources. Ties go to the lowest index; NaN loses.
void rmeeto_match(const float* metric, long batch, long length, long channels, long cls, long moved, long r, int32_t* survivors,
                  int32_t* merged, int32_t* slots, int threads) {
  const long patches = length - 1, sources = (patches + 1) / 2, targets = patches / 2, left = length - r;
  const long width = (channels + W - 1) / W * W, rows = patches + 8;  // four_dots may read past the last target
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> unit(rows * width, 0.0f), best(sources);
    std::vector<long> nearest(sources), order(sources), place(patches);
    std::vector<char> gone(patches);
#pragma omp for schedule(static)
    for (long image = 0; image < batch; ++image) {
      unit_rows(metric + image * length * channels, patches, channels, cls, width, unit.data());
      for (long s = 0; s < sources; ++s) {
        best[s] = -std::numeric_limits<float>::infinity(), nearest[s] = 0;
        for (long t = 0; t < targets; t += 4) {
          float scores[4];
          four_dots(&unit[2 * s * width], &unit[(2 * t + 1) * width], 2 * width, width, scores);
          for (long k = 0; k < 4 && t + k < targets; ++k)
            if (scores[k] > best[s]) best[s] = scores[k], nearest[s] = t + k;
        }
      }
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return best[a] > best[b]; });
      std::fill(gone.begin(), gone.end(), 0);
      for (long k = 0; k < r; ++k) gone[2 * order[k]] = 1;
      long slot = 0;
      for (long p = 0; p < patches; ++p) {
        if (slot == moved) survivors[image * left + slot++] = cls;
        place[p] = slot;
        if (!gone[p]) survivors[image * left + slot++] = p + (p >= cls);
      }
      if (slot == moved) survivors[image * left + slot] = cls;
      for (long k = 0; k < r; ++k) {
        const long source = 2 * order[k];
        merged[image * r + k] = source + (source >= cls);
        slots[image * r + k] = place[2 * nearest[order[k]] + 1];
      }
    }
  }
}

// hidden, residual [B, L, C], size [B, L] or null for ones -> out, total [B, left, C], new_size [B, left].
// total = size-weighted mean of (hidden + residual) over each group, out = its RMSNorm.
void rmeeto_merge_add_norm(const float* hidden, const float* residual, const float* size, const int32_t* survivors,
                           const int32_t* merged, const int32_t* slots, const float* weight, long batch, long length, long left,
                           long r, long channels, float eps, float* out, float* total, float* new_size, int threads) {
  std::vector<int32_t> first(batch * left, -1), next(batch * r, -1);  // per output row, the merged rows in their order
  for (long image = 0; image < batch; ++image)
    for (long k = r - 1; k >= 0; --k) {
      int32_t& head = first[image * left + slots[image * r + k]];
      next[image * r + k] = head, head = k;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long at = 0; at < batch * left; ++at) {
    const long image = at / left, own = image * length + survivors[at];
    const float old = size ? size[own] : 1.0f;
    float group = old;
    for (int32_t k = first[at]; k >= 0; k = next[image * r + k])
      group += size ? size[image * length + merged[image * r + k]] : 1.0f;
    new_size[at] = group;
    Vec squares = {};
    for (long c = 0; c < channels; c += W) {
      const int lanes = channels - c < W ? channels - c : W;
      Vec v = load(hidden + own * channels + c, lanes) + load(residual + own * channels + c, lanes);
      if (first[at] >= 0) {  // a token that gains nothing is copied bit for bit
        v *= old;
        for (int32_t k = first[at]; k >= 0; k = next[image * r + k]) {
          const long row = image * length + merged[image * r + k];
          const Vec other = load(hidden + row * channels + c, lanes) + load(residual + row * channels + c, lanes);
          v += other * (size ? size[row] : 1.0f);
        }
        v /= group;
      }
      store(total + at * channels + c, v, lanes);
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / channels + eps);
    for (long c = 0; c < channels; c += W) {
      const int lanes = channels - c < W ? channels - c : W;
      store(out + at * channels + c, load(total + at * channels + c, lanes) * scale * load(weight + c, lanes), lanes);
    }
  }
}
}
