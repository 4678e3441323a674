// Depthwise causal convolution (width 4) + SiLU for both directions in one pass (see ../causal_conv1d/reference.py).
// Direction 1 is the causal convolution of the reversed sequence, that is, an anti-causal one in token order.
//
// A block's column of x is copied once between zeros, so that no token is special. Per vector and direction there are four
// FMAs and, for SiLU, 15 instructions and a division: the division (five cycles on AVX2) and the exponential bound it.
#include <algorithm>
#include <vector>

#include "tasks.h"
#include "vector.h"

namespace {

constexpr int K = 4;

struct Shape {
  int batch, length, channels;
  long x_stride;  // floats between two tokens of x (a column range of in_proj's output)
};

struct Taps {
  Block w[K], bias;
  Taps(const float* weight, const float* b, int channels, int direction, int d, int lanes) {
    const long row = (long)direction * channels + d;
    bias = load(b + row, lanes);
    for (int k = 0; k < K; ++k) w[k] = gather(weight + row * K + k, K, lanes);
  }
};

// A column of length tokens between K - 1 zero tokens on each side.
struct Column {
  std::vector<Block> rows;
  Block* reset(int length) {
    rows.assign(length + 2 * (K - 1), Block{});
    return rows.data() + K - 1;
  }
};

// Token t sees t - distance (direction 0) or t + distance (direction 1) through tap K - 1 - distance.
inline int source(int distance, int direction) { return direction ? distance : -distance; }

inline Block convolve(const Block* x, const Taps& taps, int direction) {
  Block sum = taps.bias;
  for (int distance = 0; distance < K; ++distance)
    EACH_VECTOR sum.v[v] += taps.w[K - 1 - distance].v[v] * x[source(distance, direction)].v[v];
  return sum;
}

Block* column_of(const Shape& s, const float* x, int b, int d, int lanes, Column& column) {
  Block* rows = column.reset(s.length);
  for (int t = 0; t < s.length; ++t) rows[t] = load(x + ((long)b * s.length + t) * s.x_stride + d, lanes);
  return rows;
}

}  // namespace

extern "C" {

// x [B, L, D], weight [2, D, 4], bias [2, D] -> u [2, B, L, D]
int rmeeto_conv_forward(const Shape* shape, const float* x, const float* weight, const float* bias, float* u, int threads) {
  const Shape& s = *shape;
  const int blocks = (s.channels + BLOCK - 1) / BLOCK;
  each_task((long)s.batch * blocks, threads, [&](long task) {
    static thread_local Column column;
    const int b = task / blocks, d = task % blocks * BLOCK, lanes = std::min(BLOCK, s.channels - d);
    const Block* rows = column_of(s, x, b, d, lanes, column);
    for (int direction = 0; direction < 2; ++direction) {
      const Taps taps(weight, bias, s.channels, direction, d, lanes);
      float* out = u + ((long)direction * s.batch + b) * s.length * s.channels + d;
      for (int t = 0; t < s.length; ++t) {
        Block value = convolve(rows + t, taps, direction);
        EACH_VECTOR value.v[v] *= sigmoid(value.v[v]);
        store(out + (long)t * s.channels, value, lanes);
      }
    }
  });
  return 0;
}

// du [2, B, L, D] -> dx [B, L, D] and, per image, dtaps [B, 2, D, 5] (four taps, then the bias)
int rmeeto_conv_backward(const Shape* shape, const float* x, const float* weight, const float* bias, const float* du,
                         float* dx, float* dtaps, int threads) {
  const Shape& s = *shape;
  const int blocks = (s.channels + BLOCK - 1) / BLOCK;
  each_task((long)s.batch * blocks, threads, [&](long task) {
    static thread_local Column column, sums, results;
    const int b = task / blocks, d = task % blocks * BLOCK, lanes = std::min(BLOCK, s.channels - d);
    const Block* rows = column_of(s, x, b, d, lanes, column);
    Block* dv = sums.reset(s.length);
    Block* total = results.reset(s.length);
    for (int direction = 0; direction < 2; ++direction) {
      const Taps taps(weight, bias, s.channels, direction, d, lanes);
      const float* g = du + ((long)direction * s.batch + b) * s.length * s.channels + d;
      Block dw[K + 1] = {};  // four taps, then the bias
      for (int t = 0; t < s.length; ++t) {
        const Block value = convolve(rows + t, taps, direction), up = load(g + (long)t * s.channels, lanes);
        EACH_VECTOR {
          const Vec gate = sigmoid(value.v[v]);
          const Vec slope = dv[t].v[v] = up.v[v] * gate * (1.0f + value.v[v] * (1.0f - gate));
          dw[K].v[v] += slope;
          for (int distance = 0; distance < K; ++distance)
            dw[K - 1 - distance].v[v] += slope * rows[t + source(distance, direction)].v[v];
        }
      }
      for (int t = 0; t < s.length; ++t)
        for (int distance = 0; distance < K; ++distance)
          EACH_VECTOR total[t].v[v] += taps.w[K - 1 - distance].v[v] * dv[t - source(distance, direction)].v[v];
      float* to = dtaps + (((long)b * 2 + direction) * s.channels + d) * (K + 1);
      for (int i = 0; i < lanes; ++i)
        for (int k = 0; k <= K; ++k) to[i * (K + 1) + k] = dw[k].v[i / W][i % W];
    }
    for (int t = 0; t < s.length; ++t) store(dx + ((long)b * s.length + t) * s.channels + d, total[t], lanes);
  });
  return 0;
}
}
