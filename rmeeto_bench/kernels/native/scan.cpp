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

// What the forward leaves for the backward, or nulls: y [B, L, D], both directions before the gate, and the states before
// every CHUNK tokens in scan order, [B, channel blocks, 2, chunks, N, W].
struct Kept {
  float *y, *states;
};

constexpr int CHUNK = 8;  // tokens whose states and decays the backward holds in the first-level cache

inline int blocks_of(const Shape& s) { return (s.channels + W - 1) / W; }
inline int chunks_of(const Shape& s) { return (s.length + CHUNK - 1) / CHUNK; }
inline int lanes_of(const Shape& s, int block) {
  const int left = s.channels - block * W;
  return left < W ? left : W;
}

template <int N>
struct Channels {  // what one direction needs of W channels; A is scaled for exp2
  Vec A[N], D, bias;
};

template <int N>
std::vector<Channels<N>> all_channels(const Shape& s, const Inputs& in) {  // [2, blocks]
  std::vector<Channels<N>> all;
  for (int direction = 0; direction < 2; ++direction)
    for (int block = 0; block < blocks_of(s); ++block) {
      const int lanes = lanes_of(s, block);
      const long row = (long)direction * s.channels + block * W;
      Channels<N> c;
      c.D = load(in.D + row, lanes);
      c.bias = load(in.dt_bias + row, lanes);
      for (int n = 0; n < N; ++n) {
        Vec a = {};
        for (int i = 0; i < lanes; ++i) a[i] = in.A[(row + i) * N + n];
        c.A[n] = a * LOG2E;
      }
      all.push_back(c);
    }
  return all;
}

template <int N>
void scan_direction(const Shape& s, const Inputs& in, const Channels<N>& c, int b, int direction, int block, float* states,
                    Vec* y) {
  const int lanes = lanes_of(s, block), d = block * W;
  const long image = (long)direction * s.batch + b;
  const float* u = in.u + image * s.length * s.channels + d;
  const float* dt = in.dt + image * s.length * s.channels + d;
  const float* B = in.B + image * s.length * s.bc_stride;
  const float* C = in.C + image * s.length * s.bc_stride;
  Vec h[N] = {};
  for (int i = 0; i < s.length; ++i) {
    const int t = direction ? s.length - 1 - i : i;
    if (states && i % CHUNK == 0)
      for (int n = 0; n < N; ++n) store(states + ((long)(i / CHUNK) * N + n) * W, h[n]);
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
void forward(const Shape& s, const Inputs& in, float scale, float* out, const Kept& kept, int threads) {
  const int blocks = blocks_of(s);
  const auto channels = all_channels<N>(s, in);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int task = 0; task < s.batch * blocks; ++task) {
    const int b = task / blocks, block = task % blocks, d = block * W, lanes = lanes_of(s, block);
    std::vector<Vec> y(s.length);
    for (int direction = 0; direction < 2; ++direction) {
      float* states = kept.states ? kept.states + ((long)task * 2 + direction) * chunks_of(s) * N * W : nullptr;
      scan_direction<N>(s, in, channels[direction * blocks + block], b, direction, block, states, y.data());
    }
    for (int t = 0; t < s.length; ++t) {
      const long token = (long)b * s.length + t;
      const Vec z = load(in.z + token * s.z_stride + d, lanes);
      if (kept.y) store(kept.y + token * s.channels + d, y[t], lanes);
      store(out + token * s.channels + d, scale * y[t] * z * sigmoid(z), lanes);
    }
  }
}

struct Gradients {  // the shapes of the inputs; A, D and dt_bias per image: [B, 2, D, N], [B, 2, D], [B, 2, D]
  float *u, *dt, *A, *B, *C, *D, *z, *dt_bias;
};

// What the backward of one image holds. Each thread reuses its own from call to call: fresh memory would cost more page
// faults than the scan costs time.
template <int N>
struct Scratch {
  Vec a[CHUNK * N], h[(CHUNK + 1) * N], delta[CHUNK], u[CHUNK];  // of one chunk and channel block; h[i] before token i
  Vec dB[CHUNK * N], dC[CHUNK * N];                             // lane-wise sums over the channel blocks, by token
  std::vector<Vec> g;                                           // [L, blocks], gradient of the ungated output
  std::vector<Vec> dh, dA, dD, dbias;                           // [blocks, N] or [blocks], of the direction in hand
  void reset(int length, int blocks) {
    g.resize((size_t)length * blocks);
    for (auto* cells : {&dh, &dA}) cells->assign((size_t)blocks * N, Vec{});
    for (auto* cells : {&dD, &dbias}) cells->assign(blocks, Vec{});
  }
};

// Tokens [begin, end) in scan order of W channels backwards: states and decays again from the kept state, then time reversed.
template <int N>
void backward_chunk(const Shape& s, const Inputs& in, const Gradients& grad, const Channels<N>& c, const float* states,
                    int b, int direction, int block, int begin, int end, Scratch<N>& w) {
  const int lanes = lanes_of(s, block), d = block * W, blocks = blocks_of(s);
  const long image = (long)direction * s.batch + b, first = image * s.length;
  const float *B = in.B + first * s.bc_stride, *C = in.C + first * s.bc_stride;
  const int lowest = direction ? s.length - end : begin;
  Vec h[N];
  for (int n = 0; n < N; ++n) w.h[n] = h[n] = load(states + (long)n * W);
  for (int i = 0; i < end - begin; ++i) {
    const int t = direction ? s.length - 1 - begin - i : begin + i;
    const long at = (first + t) * s.channels + d;
    const Vec ut = w.u[i] = load(in.u + at, lanes);
    const Vec delta = w.delta[i] = softplus(load(in.dt + at, lanes) + c.bias);
    const Vec delta_u = delta * ut;
    const float* Bt = B + t * s.bc_stride;
    for (int n = 0; n < N; ++n) {
      const Vec a = w.a[i * N + n] = exp2(delta * c.A[n]);
      w.h[(i + 1) * N + n] = h[n] = a * h[n] + delta_u * Bt[n];
    }
  }
  Vec dh[N], dA[N], dD = w.dD[block], dbias = w.dbias[block];
  for (int n = 0; n < N; ++n) dh[n] = w.dh[block * N + n], dA[n] = w.dA[block * N + n];
  for (int i = end - begin - 1; i >= 0; --i) {
    const int t = direction ? s.length - 1 - begin - i : begin + i;
    const long at = (first + t) * s.channels + d;
    const Vec ut = w.u[i], delta = w.delta[i], g = w.g[(long)t * blocks + block], delta_u = delta * ut;
    const float *Bt = B + t * s.bc_stride, *Ct = C + t * s.bc_stride;
    Vec *dB = w.dB + (t - lowest) * N, *dC = w.dC + (t - lowest) * N;
    Vec from_input = {}, from_decay = {};  // sum_n dh B and sum_n dh a h_prev A
    for (int n = 0; n < N; ++n) {
      const Vec dn = dh[n] + g * Ct[n];
      dC[n] += g * w.h[(i + 1) * N + n];
      dB[n] += dn * delta_u;
      from_input += dn * Bt[n];
      dh[n] = dn * w.a[i * N + n];
      const Vec decay = dh[n] * w.h[i * N + n];
      from_decay += decay * c.A[n];
      dA[n] += decay * delta;
    }
    dD += g * ut;
    const Vec ddelta = from_input * ut + from_decay * (1.0f / LOG2E);
    // d softplus = 1 - exp(-softplus), exact also where softplus is the identity
    const Vec ddt = ddelta * (1.0f - exp2(-LOG2E * delta));
    dbias += ddt;
    store(grad.u + at, g * c.D + from_input * delta, lanes);
    store(grad.dt + at, ddt, lanes);
  }
  for (int n = 0; n < N; ++n) w.dh[block * N + n] = dh[n], w.dA[block * N + n] = dA[n];
  w.dD[block] = dD;
  w.dbias[block] = dbias;
}

template <int N>
void backward_direction(const Shape& s, const Inputs& in, const Gradients& grad, const Channels<N>* channels,
                        const float* states, int b, int direction, Scratch<N>& w) {
  const int blocks = blocks_of(s), chunks = chunks_of(s);
  w.reset(s.length, blocks);
  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int begin = chunk * CHUNK, end = begin + CHUNK < s.length ? begin + CHUNK : s.length;
    for (int i = 0; i < CHUNK * N; ++i) w.dB[i] = w.dC[i] = Vec{};
    for (int block = 0; block < blocks; ++block) {
      const float* from = states + ((((long)b * blocks + block) * 2 + direction) * chunks + chunk) * N * W;
      backward_chunk<N>(s, in, grad, channels[block], from, b, direction, block, begin, end, w);
    }
    const long token = ((long)direction * s.batch + b) * s.length + (direction ? s.length - end : begin);
    for (int cell = 0; cell < (end - begin) * N; cell += W) {
      const int left = (end - begin) * N - cell;
      store(grad.B + token * N + cell, sums(w.dB + cell), left < W ? left : W);
      store(grad.C + token * N + cell, sums(w.dC + cell), left < W ? left : W);
    }
  }
  for (int block = 0; block < blocks; ++block) {
    const int lanes = lanes_of(s, block);
    const long row = ((long)b * 2 + direction) * s.channels + block * W;
    store(grad.D + row, w.dD[block], lanes);
    store(grad.dt_bias + row, w.dbias[block], lanes);
    for (int n = 0; n < N; ++n)
      for (int i = 0; i < lanes; ++i) grad.A[(row + i) * N + n] = w.dA[block * N + n][i];
  }
}

template <int N>
void backward(const Shape& s, const Inputs& in, const Kept& kept, const float* dout, float scale, const Gradients& grad,
              int threads) {
  const int blocks = blocks_of(s);
  const auto channels = all_channels<N>(s, in);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int b = 0; b < s.batch; ++b) {
    static thread_local Scratch<N> w;
    w.reset(s.length, blocks);
    for (int t = 0; t < s.length; ++t)
      for (int block = 0; block < blocks; ++block) {
        const int lanes = lanes_of(s, block), d = block * W;
        const long token = (long)b * s.length + t;
        const Vec z = load(in.z + token * s.z_stride + d, lanes), gate = sigmoid(z);
        const Vec dy = scale * load(dout + token * s.channels + d, lanes);
        w.g[(long)t * blocks + block] = dy * z * gate;
        const Vec slope = gate * (1.0f + z * (1.0f - gate));
        store(grad.z + token * s.channels + d, dy * load(kept.y + token * s.channels + d, lanes) * slope, lanes);
      }
    for (int direction = 0; direction < 2; ++direction)
      backward_direction<N>(s, in, grad, channels.data() + direction * blocks, kept.states, b, direction, w);
  }
}

}  // namespace

extern "C" {

int rmeeto_scan_chunk() { return CHUNK; }

// Both return 0, or 1 for a number of states that has no instance (the caller then takes another backend).
int rmeeto_scan_forward(const Shape* s, const Inputs* in, int states, float scale, float* out, const Kept* kept, int threads) {
  switch (states) {
    case 4: forward<4>(*s, *in, scale, out, *kept, threads); return 0;
    case 8: forward<8>(*s, *in, scale, out, *kept, threads); return 0;
    case 16: forward<16>(*s, *in, scale, out, *kept, threads); return 0;
    default: return 1;
  }
}

int rmeeto_scan_backward(const Shape* s, const Inputs* in, int states, const Kept* kept, const float* dout, float scale,
                         const Gradients* grad, int threads) {
  switch (states) {
    case 4: backward<4>(*s, *in, *kept, dout, scale, *grad, threads); return 0;
    case 8: backward<8>(*s, *in, *kept, dout, scale, *grad, threads); return 0;
    case 16: backward<16>(*s, *in, *kept, dout, scale, *grad, threads); return 0;
    default: return 1;
  }
}
}
