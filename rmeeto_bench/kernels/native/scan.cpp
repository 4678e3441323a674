// Bidirectional selective scan, token-major, both directions of one image in one task (see ../selective_scan/reference.py).
// Time is sequential; direction 1 runs from the last token to the first.
//
// What bounds the inner loop (`step`): per vector of one state it has 13 arithmetic instructions with FMA, ten of them on
// the two ports that multiply, so five cycles at best; the exponential is ten of the 13. States and decay rates are in L1
// by design and not in registers, which AVX2 does not have enough of: per vector that is two loads and one store beside
// the FMAs, and B and C of a token are broadcast once for the whole block of channels.
#include <algorithm>
#include <vector>

#include "tasks.h"
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
struct Channels {  // what one direction needs of a block of channels
  Block A[N], D, bias;
  Block steepest;  // the most negative A of each channel
  Channels(const Inputs& in, int channels, int direction, int d, int lanes) {
    const long row = (long)direction * channels + d;
    D = load(in.D + row, lanes);
    bias = load(in.dt_bias + row, lanes);
    for (int n = 0; n < N; ++n) {
      A[n] = gather(in.A + row * N + n, N, lanes);
      EACH_VECTOR A[n].v[v] *= LOG2E;
      EACH_VECTOR steepest.v[v] = n && steepest.v[v] < A[n].v[v] ? steepest.v[v] : A[n].v[v];
    }
  }
};

// One direction of one image for a block of channels: where its rows are, and its tokens in the order of the scan.
template <int N>
struct Run {
  const Shape& s;
  const Inputs& in;
  int direction, d, lanes;
  long first;  // row of token 0 in [2, B, L]
  Channels<N> c;
  Run(const Shape& s, const Inputs& in, int b, int direction, int d)
      : s(s), in(in), direction(direction), d(d), lanes(std::min(BLOCK, s.channels - d)),
        first(((long)direction * s.batch + b) * s.length), c(in, s.channels, direction, d, lanes) {}
  int token(int i) const { return direction ? s.length - 1 - i : i; }
  long at(int t) const { return (first + t) * s.channels + d; }
  const float* B(int t) const { return in.B + (first + t) * s.bc_stride; }
  const float* C(int t) const { return in.C + (first + t) * s.bc_stride; }

  // softplus of every step into delta, by token. Whether a decay below 2^-126 can occur, that is, whether to clamp.
  bool steps(Block* delta) const {
    Block longest = {};
    for (int t = 0; t < s.length; ++t) {
      const Block dt = load(in.dt + at(t), lanes);
      EACH_VECTOR {
        const Vec value = delta[t].v[v] = softplus(dt.v[v] + c.bias.v[v]);
        longest.v[v] = longest.v[v] < value ? value : longest.v[v];
      }
    }
    IVec steep = {};
    EACH_VECTOR steep |= ~(longest.v[v] * c.steepest.v[v] > -125.0f);
    int any = 0;
    for (int i = 0; i < W; ++i) any |= steep[i];
    return any;
  }
};

// One token: the states h (in L1) go one step on. Returns sum_n C h.
template <int N, bool CLAMP>
inline Block step(const Channels<N>& c, const Block& delta, const Block& u, const float* B, const float* C, Block* h) {
  Block delta_u, even = {}, odd = {};  // two sums, so that additions need not wait for each other
  EACH_VECTOR delta_u.v[v] = delta.v[v] * u.v[v];
  const auto state = [&](int n, Block& out) {
    EACH_VECTOR {
      const Vec now = exp2_of_product<CLAMP>(delta.v[v], c.A[n].v[v]) * h[n].v[v] + delta_u.v[v] * B[n];
      h[n].v[v] = now;
      out.v[v] += now * C[n];
    }
  };
  for (int n = 0; n < N; n += 2) state(n, even), state(n + 1, odd);
  EACH_VECTOR even.v[v] += odd.v[v];
  return even;
}

// Calls sink(t, y) with the ungated output of every token, in the order of the scan.
template <int N, bool CLAMP, class Sink>
void scan(const Run<N>& run, const Block* delta, const Sink& sink) {
  Block h[N] = {};
  for (int i = 0; i < run.s.length; ++i) {
    const int t = run.token(i);
    const Block u = load(run.in.u + run.at(t), run.lanes);
    Block y = step<N, CLAMP>(run.c, delta[t], u, run.B(t), run.C(t), h);
    EACH_VECTOR y.v[v] += run.c.D.v[v] * u.v[v];
    sink(t, y);
  }
}

template <int N, class Sink>
void scan(const Run<N>& run, Block* delta, const Sink& sink) {
  if (run.steps(delta)) scan<N, true>(run, delta, sink);
  else scan<N, false>(run, delta, sink);
}

template <int N>
void forward(const Shape& s, const Inputs& in, float scale, float* out, int threads) {
  const int blocks = (s.channels + BLOCK - 1) / BLOCK;
  each_task((long)s.batch * blocks, threads, [&](long task) {
    const int b = task / blocks, d = task % blocks * BLOCK;
    static thread_local std::vector<Block> delta, y;
    delta.resize(s.length);
    y.resize(s.length);
    scan(Run<N>(s, in, b, 0, d), delta.data(), [&](int t, const Block& value) { y[t] = value; });
    const Run<N> run(s, in, b, 1, d);
    scan(run, delta.data(), [&](int t, const Block& value) {
      const long token = (long)b * s.length + t;
      Block z = load(in.z + token * s.z_stride + d, run.lanes);
      EACH_VECTOR z.v[v] = scale * (y[t].v[v] + value.v[v]) * (z.v[v] * sigmoid(z.v[v]));
      store(out + token * s.channels + d, z, run.lanes);
    });
  });
}

struct Gradients {  // the shapes of the inputs; A, D and dt_bias per image: [B, 2, D, N], [B, 2, D], [B, 2, D]
  float *u, *dt, *A, *B, *C, *D, *z, *dt_bias;
};

constexpr int CHUNK = 8;  // tokens whose states and decays are kept at once: 16 KB of L1 for 16 states

// What the backward of one image and direction keeps: every CHUNK-th state, and lane-wise sums of dB and dC over the
// blocks of channels. Each thread reuses its own from call to call: fresh memory costs more page faults than the scan.
struct Scratch {
  std::vector<Block> start, delta, g;
  std::vector<Vec> dB, dC;
  void reset(int length, int states) {
    start.resize((size_t)(length / CHUNK + 1) * states);
    delta.resize(length);
    g.resize(length);
    dB.assign((size_t)length * states, Vec{});
    dC.assign((size_t)length * states, Vec{});
  }
};

template <int N>
struct Adjoint {  // what flows back through the tokens of one block of channels
  Block dh[N] = {}, dA[N] = {}, dD = {}, dbias = {};
};

// One token backwards: `before` and `now` are its states, `a` its decays, g the gradient of the ungated output.
template <int N>
inline void step_back(const Run<N>& run, const Gradients& grad, int t, const Block* before, const Block* now, const Block* a,
                      Scratch& w, Adjoint<N>& back) {
  const Block u = load(run.in.u + run.at(t), run.lanes), dt = load(run.in.dt + run.at(t), run.lanes);
  const Block &delta = w.delta[t], &g = w.g[t];
  const float *B = run.B(t), *C = run.C(t);
  Block delta_u, from_input = {}, from_decay = {};  // sum_n dh B and sum_n dh a h_before A
  EACH_VECTOR delta_u.v[v] = delta.v[v] * u.v[v];
  for (int n = 0; n < N; ++n) {
    Vec dC = w.dC[(long)t * N + n], dB = w.dB[(long)t * N + n];
    EACH_VECTOR {
      const Vec dn = back.dh[n].v[v] + g.v[v] * C[n];
      dC += g.v[v] * now[n].v[v];
      dB += dn * delta_u.v[v];
      from_input.v[v] += dn * B[n];
      const Vec passed = back.dh[n].v[v] = dn * a[n].v[v];
      const Vec decay = passed * before[n].v[v];
      from_decay.v[v] += decay * run.c.A[n].v[v];
      back.dA[n].v[v] += decay * delta.v[v];
    }
    w.dC[(long)t * N + n] = dC, w.dB[(long)t * N + n] = dB;
  }
  Block du, ddt;
  EACH_VECTOR {
    back.dD.v[v] += g.v[v] * u.v[v];
    du.v[v] = g.v[v] * run.c.D.v[v] + from_input.v[v] * delta.v[v];
    // The slope of softplus from its argument: 1 - e^-delta would lose it where delta is small.
    const Vec slope = sigmoid(dt.v[v] + run.c.bias.v[v]);
    ddt.v[v] = (from_input.v[v] * u.v[v] + from_decay.v[v] * (1.0f / LOG2E)) * slope;
    back.dbias.v[v] += ddt.v[v];
  }
  store(grad.u + run.at(t), du, run.lanes);
  store(grad.dt + run.at(t), ddt, run.lanes);
}

// One direction of a block of channels backwards: chunk by chunk from the last, states and decays computed again.
template <int N, bool CLAMP>
void backward_chunks(const Run<N>& run, const Gradients& grad, Scratch& w, Adjoint<N>& back) {
  Block a[CHUNK][N], h[CHUNK + 1][N];
  for (int chunk = (run.s.length - 1) / CHUNK; chunk >= 0; --chunk) {
    const int first = chunk * CHUNK, count = std::min(CHUNK, run.s.length - first);
    std::copy_n(&w.start[(long)chunk * N], N, h[0]);
    for (int i = 0; i < count; ++i) {
      const int t = run.token(first + i);
      const Block u = load(run.in.u + run.at(t), run.lanes);
      const float* B = run.B(t);
      for (int n = 0; n < N; ++n) EACH_VECTOR {
          const Vec decay = a[i][n].v[v] = exp2_of_product<CLAMP>(w.delta[t].v[v], run.c.A[n].v[v]);
          h[i + 1][n].v[v] = decay * h[i][n].v[v] + w.delta[t].v[v] * u.v[v] * B[n];
        }
    }
    for (int i = count - 1; i >= 0; --i) step_back(run, grad, run.token(first + i), h[i], h[i + 1], a[i], w, back);
  }
}

// The forward of one direction again, to have y, which the gradient of z needs, and the state before each chunk.
template <int N, bool CLAMP, class Sink>
void restart(const Run<N>& run, Scratch& w, const Sink& sink) {
  Block h[N] = {};
  for (int i = 0; i < run.s.length; ++i) {
    if (i % CHUNK == 0) std::copy_n(h, N, &w.start[(long)i / CHUNK * N]);
    const int t = run.token(i);
    const Block u = load(run.in.u + run.at(t), run.lanes);
    Block y = step<N, CLAMP>(run.c, w.delta[t], u, run.B(t), run.C(t), h);
    EACH_VECTOR y.v[v] += run.c.D.v[v] * u.v[v];
    sink(t, y);
  }
}

template <int N>
void backward_block(const Run<N>& run, const float* dout, float scale, const Gradients& grad, int b, Scratch& w) {
  const Shape& s = run.s;
  Adjoint<N> back;
  const bool clamp = run.steps(w.delta.data());
  // Direction 0 leaves its y in the gradient of z, direction 1 makes the gradient of it.
  const auto gate = [&](int t, const Block& y) {
    const long token = (long)b * s.length + t;
    float* dz = grad.z + token * s.channels + run.d;
    const Block z = load(run.in.z + token * s.z_stride + run.d, run.lanes);
    const Block upstream = load(dout + token * s.channels + run.d, run.lanes);
    Block value = y;
    const Block other = run.direction ? load(dz, run.lanes) : Block{};
    EACH_VECTOR {
      const Vec open = sigmoid(z.v[v]), up = scale * upstream.v[v];
      w.g[t].v[v] = up * (z.v[v] * open);
      if (run.direction) value.v[v] = up * (value.v[v] + other.v[v]) * (open * (1.0f + z.v[v] * (1.0f - open)));
    }
    store(dz, value, run.lanes);
  };
  if (clamp) {
    restart<N, true>(run, w, gate);
    backward_chunks<N, true>(run, grad, w, back);
  } else {
    restart<N, false>(run, w, gate);
    backward_chunks<N, false>(run, grad, w, back);
  }
  const long row = ((long)b * 2 + run.direction) * s.channels + run.d;
  store(grad.D + row, back.dD, run.lanes);
  store(grad.dt_bias + row, back.dbias, run.lanes);
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < run.lanes; ++i) grad.A[(row + i) * N + n] = back.dA[n].v[i / W][i % W];
}

template <int N>
void backward(const Shape& s, const Inputs& in, const float* dout, float scale, const Gradients& grad, int threads) {
  each_task(s.batch, threads, [&](long b) {
    static thread_local Scratch w;
    for (int direction = 0; direction < 2; ++direction) {
      w.reset(s.length, N);
      for (int d = 0; d < s.channels; d += BLOCK) backward_block(Run<N>(s, in, b, direction, d), dout, scale, grad, b, w);
      for (long i = 0; i < (long)s.length * N; ++i) {
        const long at = ((long)direction * s.batch + b) * s.length * N + i;
        grad.B[at] = sum(w.dB[i]);
        grad.C[at] = sum(w.dC[i]);
      }
    }
  });
}

}  // namespace

extern "C" {

// Both return 0, or 1 for a number of states that has no instance.
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
