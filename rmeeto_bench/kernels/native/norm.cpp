// Residual add + RMSNorm (see ../add_norm/reference.py). One task is one token.
#include <cmath>

#include "vector.h"

extern "C" {

// hidden, residual [T, C] -> total = hidden + residual, rstd [T], out = total * rstd * weight. residual may be null.
void rmeeto_add_norm_forward(const float* hidden, const float* residual, const float* weight, long tokens, int channels,
                             float eps, float* total, float* rstd, float* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < tokens; ++t) {
    const long row = t * channels;
    Vec squares = {};
    for (int c = 0; c < channels; c += W) {
      const int lanes = channels - c < W ? channels - c : W;
      Vec v = load(hidden + row + c, lanes);
      if (residual) v += load(residual + row + c, lanes);
      store(total + row + c, v, lanes);
      squares += v * v;
    }
    const float r = rstd[t] = 1.0f / std::sqrt(sum(squares) / channels + eps);
    for (int c = 0; c < channels; c += W) {
      const int lanes = channels - c < W ? channels - c : W;
      store(out + row + c, load(total + row + c, lanes) * r * load(weight + c, lanes), lanes);
    }
  }
}

// dout, dtotal [T, C] -> din [T, C] (the gradient of hidden and of residual alike), dweight [threads, C] (partial sums, zeroed by the caller)
void rmeeto_add_norm_backward(const float* dout, const float* dtotal, const float* total, const float* rstd,
                              const float* weight, long tokens, int channels, float* din, float* dweight, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; ++part) {
    float* partial = dweight + (long)part * channels;
    for (long t = tokens * part / threads; t < tokens * (part + 1) / threads; ++t) {
      const long row = t * channels;
      Vec dot = {};
      for (int c = 0; c < channels; c += W) {
        const int lanes = channels - c < W ? channels - c : W;
        const Vec g = load(dout + row + c, lanes), v = load(total + row + c, lanes);
        dot += g * load(weight + c, lanes) * v;
        store(partial + c, load(partial + c, lanes) + g * v * rstd[t], lanes);
      }
      const float shift = sum(dot) / channels * rstd[t] * rstd[t];
      for (int c = 0; c < channels; c += W) {
        const int lanes = channels - c < W ? channels - c : W;
        const Vec g = load(dout + row + c, lanes) * load(weight + c, lanes);
        const Vec v = (g - load(total + row + c, lanes) * shift) * rstd[t];
        store(din + row + c, v + load(dtotal + row + c, lanes), lanes);
      }
    }
  }
}
}
