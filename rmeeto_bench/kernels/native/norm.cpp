// Residual add + RMSNorm (see ../add_norm/reference.py). It does two instructions per load: memory bounds it.
#include <algorithm>
#include <cmath>

#include "tasks.h"
#include "vector.h"

namespace {

constexpr long FLOATS = 8192;  // of the tokens that a task takes: smaller tasks wait for each other's turn at the counter

// Calls body(c, lanes) for every block of channels.
template <class Body>
inline void each_block(int channels, const Body& body) {
  for (int c = 0; c < channels; c += BLOCK) body(c, std::min(BLOCK, channels - c));
}

}  // namespace

extern "C" {

// hidden, residual [T, C] -> total = hidden + residual, rstd [T], out = total * rstd * weight. residual may be null.
int rmeeto_add_norm_forward(const float* hidden, const float* residual, const float* weight, long tokens, int channels,
                            float eps, float* total, float* rstd, float* out, int threads) {
  const long rows = std::max(1L, FLOATS / channels);
  each_task((tokens + rows - 1) / rows, threads, [&](long task) {
    for (long t = task * rows; t < std::min(tokens, (task + 1) * rows); ++t) {
      const long row = t * channels;
      Block squares = {};
      each_block(channels, [&](int c, int lanes) {
        Block value = load(hidden + row + c, lanes);
        if (residual) {
          const Block other = load(residual + row + c, lanes);
          EACH_VECTOR value.v[v] += other.v[v];
        }
        store(total + row + c, value, lanes);
        EACH_VECTOR squares.v[v] += value.v[v] * value.v[v];
      });
      const float r = rstd[t] = 1.0f / std::sqrt(sum(squares) / channels + eps);
      each_block(channels, [&](int c, int lanes) {
        Block value = load(total + row + c, lanes);
        const Block w = load(weight + c, lanes);
        EACH_VECTOR value.v[v] *= r * w.v[v];
        store(out + row + c, value, lanes);
      });
    }
  });
  return 0;
}

// dout, dtotal [T, C] -> din [T, C] (the gradient of hidden and of residual), dweight [parts, C] (partial sums, zeroed by
// the caller)
int rmeeto_add_norm_backward(const float* dout, const float* dtotal, const float* total, const float* rstd,
                             const float* weight, long tokens, int channels, float* din, float* dweight, int threads) {
  each_task(threads, threads, [&](long part) {
    float* partial = dweight + part * channels;
    for (long t = tokens * part / threads; t < tokens * (part + 1) / threads; ++t) {
      const long row = t * channels;
      Block dot = {};
      each_block(channels, [&](int c, int lanes) {
        const Block g = load(dout + row + c, lanes), value = load(total + row + c, lanes), w = load(weight + c, lanes);
        Block sums = load(partial + c, lanes);
        EACH_VECTOR {
          dot.v[v] += g.v[v] * w.v[v] * value.v[v];
          sums.v[v] += g.v[v] * value.v[v] * rstd[t];
        }
        store(partial + c, sums, lanes);
      });
      const float shift = sum(dot) / channels * rstd[t] * rstd[t];
      each_block(channels, [&](int c, int lanes) {
        const Block g = load(dout + row + c, lanes), w = load(weight + c, lanes), value = load(total + row + c, lanes);
        Block result = load(dtotal + row + c, lanes);
        EACH_VECTOR result.v[v] += (g.v[v] * w.v[v] - value.v[v] * shift) * rstd[t];
        store(din + row + c, result, lanes);
      });
    }
  });
  return 0;
}
}
