// Bidirectional selective scan, token-major, both directions of one image in one task (see ../selective_scan/reference.py).
// The N states of W channels live in registers; time is sequential; direction 1 runs from the last token to the first.
#include <vector>

#include "vector.h"

namespace {

struct Shape {
  int batch, length, channels;
  long bc_stride;  // floats between two tokens of B and C (they are column ranges of x_proj's output)
  long z_stride;   // floats between two tokens of z (a column range of in_proj's output)
};

struct Inputs {  // u, dt [2, B, L, D]; A [2, D, N], negative; B, C [2, B, L, N]; D, dt_bias [2, D]; z [B, L, D]
  const float *u, *dt, *A, *B, *C, *D, *z, *dt_bias;
};

template <int N>
struct Channels {  // what one direction needs of W channels
  Vec A[N], D, bias;
  Channels(const Inputs& in, int channels, int direction, int d, int lanes) {
    const long row = (long)direction * channels + d;
    D = load(in.D + row, lanes);
    bias = load(in.dt_bias + row, lanes);
    for (int n = 0; n < N; ++n) {
      Vec a = {};
      for (int i = 0; i < lanes; ++i) a[i] = in.A[(row + i) * N + n];
      A[n] = a * LOG2E;
    }
  }
};

template <int N>
void scan_direction(const Shape& s, const Inputs& in, int b, int direction, int d, int lanes, Vec* y) {
  const Channels<N> c(in, s.channels, direction, d, lanes);
  const long image = (long)direction * s.batch + b;
  const float* u = in.u + image * s.length * s.channels + d;
  const float* dt = in.dt + image * s.length * s.channels + d;
  const float* B = in.B + image * s.length * s.bc_stride;
  const float* C = in.C + image * s.length * s.bc_stride;
  Vec h[N] = {};
  for (int i = 0; i < s.length; ++i) {
    const int t = direction ? s.length - 1 - i : i;
    const Vec ut = load(u + (long)t * s.channels, lanes);
    const Vec delta = softplus(load(dt + (long)t * s.channels, lanes) + c.bias);
    const Vec delta_u = delta * ut;
    const float *Bt = B + t * s.bc_stride, *Ct = C + t * s.bc_stride;
    Vec out = c.D * ut;
    for (int n = 0; n < N; ++n) {
      h[n] = exp2(delta * c.A[n]) * h[n] + delta_u * Bt[n];
      out += h[n] * Ct[n];
    }
    y[t] += out;
  }
}

template <int N>
void forward(const Shape& s, const Inputs& in, float scale, float* out, int threads) {
  const int blocks = (s.channels + W - 1) / W;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int task = 0; task < s.batch * blocks; ++task) {
    const int b = task / blocks, d = task % blocks * W;
    const int lanes = s.channels - d < W ? s.channels - d : W;
    std::vector<Vec> y(s.length);
    scan_direction<N>(s, in, b, 0, d, lanes, y.data());
    scan_direction<N>(s, in, b, 1, d, lanes, y.data());
    for (int t = 0; t < s.length; ++t) {
      const Vec z = load(in.z + ((long)b * s.length + t) * s.z_stride + d, lanes);
      store(out + ((long)b * s.length + t) * s.channels + d, scale * y[t] * z * sigmoid(z), lanes);
    }
  }
}

struct Gradients {  // the shapes of the inputs; A, D and dt_bias per image: [B, 2, D, N], [B, 2, D], [B, 2, D]
  float *u, *dt, *A, *B, *C, *D, *z, *dt_bias;
};

// What the backward of one image and direction keeps: states after each token, and lane-wise sums of dB and dC. Each
// thread reuses its own from call to call: fresh memory would cost more page faults than the scan costs time.
struct Scratch {
  std::vector<Vec> h, dB, dC, delta, g;
  void reset(int length, int states) {
    const size_t cells = (size_t)length * states;
    h.resize(cells);
    dB.assign(cells, Vec{});
    dC.assign(cells, Vec{});
    delta.resize(length);
    g.resize(length);
  }
};

// One direction of W channels backwards: recompute the states, then run time against the scan's direction.
// g is the gradient of this direction's ungated output; dz collects both directions.
template <int N>
void backward_direction(const Shape& s, const Inputs& in, const Gradients& grad, int b, int direction, int d, int lanes,
                        Scratch& w, Vec* y) {
  const Channels<N> c(in, s.channels, direction, d, lanes);
  const long image = (long)direction * s.batch + b, first = image * s.length;
  const float *B = in.B + first * s.bc_stride, *C = in.C + first * s.bc_stride;
  Vec h[N] = {};
  for (int i = 0; i < s.length; ++i) {
    const int t = direction ? s.length - 1 - i : i;
    const Vec ut = load(in.u + (first + t) * s.channels + d, lanes);
    const Vec delta = w.delta[t] = softplus(load(in.dt + (first + t) * s.channels + d, lanes) + c.bias);
    const Vec delta_u = delta * ut;
    const float *Bt = B + t * s.bc_stride, *Ct = C + t * s.bc_stride;
    Vec out = c.D * ut;
    for (int n = 0; n < N; ++n) {
      h[n] = exp2(delta * c.A[n]) * h[n] + delta_u * Bt[n];
      w.h[(long)i * N + n] = h[n];
      out += h[n] * Ct[n];
    }
    y[t] += out;
  }
  Vec dh[N] = {}, dA[N] = {}, dD = {}, dbias = {};
  for (int i = s.length - 1; i >= 0; --i) {
    const int t = direction ? s.length - 1 - i : i;
    const long at = (first + t) * s.channels + d;
    const Vec ut = load(in.u + at, lanes), delta = w.delta[t], g = w.g[t];
    const float *Bt = B + t * s.bc_stride, *Ct = C + t * s.bc_stride;
    Vec from_input = {}, from_decay = {};  // sum_n dh B and sum_n dh a h_prev A
    for (int n = 0; n < N; ++n) {
      const Vec a = exp2(delta * c.A[n]);
      const Vec now = w.h[(long)i * N + n];
      const Vec before = i ? w.h[(long)(i - 1) * N + n] : Vec{};
      const Vec dn = dh[n] + g * Ct[n];
      w.dC[(long)t * N + n] += g * now;
      w.dB[(long)t * N + n] += dn * (delta * ut);
      from_input += dn * Bt[n];
      const Vec decay = dn * a * before;
      from_decay += decay * c.A[n];
      dA[n] += decay * delta;
      dh[n] = dn * a;
    }
    dD += g * ut;
    const Vec ddelta = from_input * ut + from_decay * (1.0f / LOG2E);
    // d softplus = 1 - exp(-softplus), exact also where softplus is the identity
    const Vec ddt = ddelta * (1.0f - exp2(-LOG2E * delta));
    dbias += ddt;
    store(grad.u + at, g * c.D + from_input * delta, lanes);
    store(grad.dt + at, ddt, lanes);
  }
  const long row = ((long)b * 2 + direction) * s.channels + d;
  store(grad.D + row, dD, lanes);
  store(grad.dt_bias + row, dbias, lanes);
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < lanes; ++i) grad.A[(row + i) * N + n] = dA[n][i];
}

template <int N>
void backward(const Shape& s, const Inputs& in, const float* dout, float scale, const Gradients& grad, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int b = 0; b < s.batch; ++b) {
    static thread_local Scratch w[2];
    static thread_local std::vector<Vec> y;
    for (Scratch& scratch : w) scratch.reset(s.length, N);
    y.resize(s.length);
    for (int d = 0; d < s.channels; d += W) {
      const int lanes = s.channels - d < W ? s.channels - d : W;
      for (int t = 0; t < s.length; ++t) {
        const long token = (long)b * s.length + t;
        const Vec z = load(in.z + token * s.z_stride + d, lanes);
        y[t] = Vec{};
        w[0].g[t] = w[1].g[t] = scale * load(dout + token * s.channels + d, lanes) * z * sigmoid(z);
      }
      for (int direction = 0; direction < 2; ++direction)
        backward_direction<N>(s, in, grad, b, direction, d, lanes, w[direction], y.data());
      for (int t = 0; t < s.length; ++t) {
        const long token = (long)b * s.length + t;
        const Vec z = load(in.z + token * s.z_stride + d, lanes), gate = sigmoid(z);
        const Vec slope = gate * (1.0f + z * (1.0f - gate));
        store(grad.z + token * s.channels + d, scale * load(dout + token * s.channels + d, lanes) * y[t] * slope, lanes);
      }
    }
    for (int direction = 0; direction < 2; ++direction)
      for (long i = 0; i < (long)s.length * N; ++i) {
        const long at = ((long)direction * s.batch + b) * s.length * N + i;
        grad.B[at] = sum(w[direction].dB[i]);
        grad.C[at] = sum(w[direction].dC[i]);
      }
  }
}

}  // namespace

extern "C" {

// Both return 0, or 1 for a number of states that has no instance (the caller then takes another backend).
int rmeeto_scan_forward(const Shape* s, const Inputs* in, int states, float scale, float* out, int threads) {
  switch (states) {
    case 4: forward<4>(*s, *in, scale, out, threads); return 0;
    case 8: forward<8>(*s, *in, scale, out, threads); return 0;
    case 16: forward<16>(*s, *in, scale, out, threads); return 0;
    default: return 1;
  }
}

int rmeeto_scan_backward(const Shape* s, const Inputs* in, int states, const float* dout, float scale,
                         const Gradients* grad, int threads) {
  switch (states) {
    case 4: backward<4>(*s, *in, dout, scale, *grad, threads); return 0;
    case 8: backward<8>(*s, *in, dout, scale, *grad, threads); return 0;
    case 16: backward<16>(*s, *in, dout, scale, *grad, threads); return 0;
    default: return 1;
  }
}
}
