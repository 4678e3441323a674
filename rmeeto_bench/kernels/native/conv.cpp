// Depthwise causal convolution (width 4) + SiLU for both directions in one pass (see ../causal_conv1d/reference.py).
// Direction 1 is the causal convolution of the reversed sequence, that is, an anti-causal one in token order.
#include "vector.h"

namespace {

constexpr int K = 4;

struct Shape {
  int batch, length, channels;
  long x_stride;  // floats between two tokens of x (a column range of in_proj's output)
};

struct Taps {
  Vec w[K], bias;
  Taps(const float* weight, const float* b, int channels, int direction, int d, int lanes) {
    const long row = (long)direction * channels + d;
    bias = load(b + row, lanes);
    for (int k = 0; k < K; ++k) {
      w[k] = Vec{};
      for (int i = 0; i < lanes; ++i) w[k][i] = weight[(row + i) * K + k];
    }
  }
};

// Token t sees t - distance (direction 0) or t + distance (direction 1) through tap K - 1 - distance.
inline int source(int t, int distance, int direction) { return direction ? t + distance : t - distance; }

inline Vec convolve(const Shape& s, const float* x, const Taps& taps, int t, int direction, int lanes) {
  Vec v = taps.bias;
  for (int distance = 0; distance < K; ++distance) {
    const int from = source(t, distance, direction);
    if (from >= 0 && from < s.length) v += taps.w[K - 1 - distance] * load(x + from * s.x_stride, lanes);
  }
  return v;
}

}  // namespace

extern "C" {

// x [B, L, D], weight [2, D, 4], bias [2, D] -> u [2, B, L, D]
void rmeeto_conv_forward(const Shape* shape, const float* x, const float* weight, const float* bias, float* u, int threads) {
  const Shape& s = *shape;
  const int blocks = (s.channels + W - 1) / W;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int task = 0; task < s.batch * blocks; ++task) {
    const int b = task / blocks, d = task % blocks * W;
    const int lanes = s.channels - d < W ? s.channels - d : W;
    const float* image = x + (long)b * s.length * s.x_stride + d;
    for (int direction = 0; direction < 2; ++direction) {
      const Taps taps(weight, bias, s.channels, direction, d, lanes);
      float* out = u + ((long)direction * s.batch + b) * s.length * s.channels + d;
      for (int t = 0; t < s.length; ++t) {
        const Vec v = convolve(s, image, taps, t, direction, lanes);
        store(out + (long)t * s.channels, v * sigmoid(v), lanes);
      }
    }
  }
}

// du [2, B, L, D] -> dx [B, L, D] and, per image, dtaps [B, 2, D, 5] (four taps, then the bias)
void rmeeto_conv_backward(const Shape* shape, const float* x, const float* weight, const float* bias, const float* du,
                          float* dx, float* dtaps, int threads) {
  const Shape& s = *shape;
  const int blocks = (s.channels + W - 1) / W;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int task = 0; task < s.batch * blocks; ++task) {
    const int b = task / blocks, d = task % blocks * W;
    const int lanes = s.channels - d < W ? s.channels - d : W;
    const float* image = x + (long)b * s.length * s.x_stride + d;
    float* out = dx + (long)b * s.length * s.channels + d;
    for (int t = 0; t < s.length; ++t) store(out + (long)t * s.channels, Vec{}, lanes);
    for (int direction = 0; direction < 2; ++direction) {
      const Taps taps(weight, bias, s.channels, direction, d, lanes);
      const float* g = du + ((long)direction * s.batch + b) * s.length * s.channels + d;
      Vec dw[K] = {}, dbias = {};
      for (int t = 0; t < s.length; ++t) {
        const Vec v = convolve(s, image, taps, t, direction, lanes), gate = sigmoid(v);
        const Vec dv = load(g + (long)t * s.channels, lanes) * gate * (1.0f + v * (1.0f - gate));
        dbias += dv;
        for (int distance = 0; distance < K; ++distance) {
          const int from = source(t, distance, direction);
          if (from < 0 || from >= s.length) continue;
          const int k = K - 1 - distance;
          dw[k] += dv * load(image + from * s.x_stride, lanes);
          store(out + (long)from * s.channels, load(out + (long)from * s.channels, lanes) + dv * taps.w[k], lanes);
        }
      }
      float* rows = dtaps + (((long)b * 2 + direction) * s.channels + d) * (K + 1);
      for (int i = 0; i < lanes; ++i) {
        for (int k = 0; k < K; ++k) rows[i * (K + 1) + k] = dw[k][i];
        rows[i * (K + 1) + K] = dbias[i];
      }
    }
  }
}
}
