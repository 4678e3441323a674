// Calls every kernel once on operands from standard input and writes the results to standard output, all as floats: what
// tests/kernels/test_aarch64.py runs under qemu with the library that wheels for aarch64 carry.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

struct ScanShape {
  int batch, length, channels;
  long bc_stride, z_stride;
};
struct ConvShape {
  int batch, length, channels;
  long x_stride;
};

extern "C" {
int rmeeto_lanes();
int rmeeto_scan_forward(const ScanShape*, const float* const*, int, float, float*, int);
int rmeeto_scan_backward(const ScanShape*, const float* const*, int, const float*, float, float* const*, int);
int rmeeto_conv_forward(const ConvShape*, const float*, const float*, const float*, float*, int);
int rmeeto_conv_backward(const ConvShape*, const float*, const float*, const float*, const float*, float*, float*, int);
int rmeeto_add_norm_forward(const float*, const float*, const float*, long, int, float, float*, float*, float*, int);
int rmeeto_add_norm_backward(const float*, const float*, const float*, const float*, const float*, long, int, float*, float*, int);
int rmeeto_match(const float*, long, long, long, long, long, long, int32_t*, int32_t*, int32_t*, int);
int rmeeto_merge_add_norm(const float*, const float*, const float*, const int32_t*, const int32_t*, const int32_t*, const float*,
                          long, long, long, long, long, float, float*, float*, float*, int);
}

typedef std::vector<float> Floats;

static Floats read(long count) {
  Floats values(count);
  if (std::fread(values.data(), sizeof(float), count, stdin) != (size_t)count) std::exit(2);
  return values;
}
static void write(const Floats& values) { std::fwrite(values.data(), sizeof(float), values.size(), stdout); }
static void write(const std::vector<int32_t>& values) { write(Floats(values.begin(), values.end())); }
static void check(int code) {
  if (code) std::exit(3);
}

int main(int count, char** words) {
  if (count != 7) return 1;
  const int B = std::atoi(words[1]), L = std::atoi(words[2]), D = std::atoi(words[3]), N = std::atoi(words[4]);
  const int r = std::atoi(words[5]), threads = std::atoi(words[6]);
  const long BLD = (long)B * L * D, BLN = (long)B * L * N;
  const float eps = 1e-5f, scale = 0.5f;
  write(Floats(1, rmeeto_lanes()));

  const Floats u = read(2 * BLD), dt = read(2 * BLD), A = read(2 * D * N), b = read(2 * BLN), c = read(2 * BLN);
  const Floats skip = read(2 * D), z = read(BLD), bias = read(2 * D), dout = read(BLD);
  const ScanShape shape = {B, L, D, N, D};
  const float* in[] = {u.data(), dt.data(), A.data(), b.data(), c.data(), skip.data(), z.data(), bias.data()};
  Floats out(BLD);
  check(rmeeto_scan_forward(&shape, in, N, scale, out.data(), threads));
  write(out);
  Floats du(2 * BLD), ddt(2 * BLD), dA((long)B * 2 * D * N), dB(2 * BLN), dC(2 * BLN), dD(B * 2 * D), dz(BLD), dbias(B * 2 * D);
  float* grad[] = {du.data(), ddt.data(), dA.data(), dB.data(), dC.data(), dD.data(), dz.data(), dbias.data()};
  check(rmeeto_scan_backward(&shape, in, N, dout.data(), scale, grad, threads));
  for (const Floats* part : {&du, &ddt, &dA, &dB, &dC, &dD, &dz, &dbias}) write(*part);

  const Floats taps = read(2 * D * 4);
  const ConvShape wide = {B, L, D, D};
  Floats convolved(2 * BLD), dx(BLD), dtaps((long)B * 2 * D * 5);
  check(rmeeto_conv_forward(&wide, z.data(), taps.data(), bias.data(), convolved.data(), threads));
  check(rmeeto_conv_backward(&wide, z.data(), taps.data(), bias.data(), u.data(), dx.data(), dtaps.data(), threads));
  write(convolved), write(dx), write(dtaps);

  const Floats hidden = read(BLD), residual = read(BLD), weight = read(D);
  Floats total(BLD), rstd(B * L), normed(BLD), din(BLD), dweight((long)threads * D);
  check(rmeeto_add_norm_forward(hidden.data(), residual.data(), weight.data(), B * L, D, eps, total.data(), rstd.data(), normed.data(), threads));
  check(rmeeto_add_norm_backward(dout.data(), z.data(), total.data(), rstd.data(), weight.data(), B * L, D, din.data(), dweight.data(), threads));
  write(normed), write(din), write(dweight);

  const int left = L - r;
  std::vector<int32_t> survivors(B * left), merged(B * r), slots(B * r);
  check(rmeeto_match(hidden.data(), B, L, D, L / 2, (L - r) / 2, r, survivors.data(), merged.data(), slots.data(), threads));
  write(survivors), write(merged), write(slots);
  Floats joined((long)B * left * D), sums((long)B * left * D), sizes(B * left);
  check(rmeeto_merge_add_norm(hidden.data(), residual.data(), nullptr, survivors.data(), merged.data(), slots.data(), weight.data(), B, L, left, r,
                              D, eps, joined.data(), sums.data(), sizes.data(), threads));
  write(joined), write(sums), write(sizes);
  return 0;
}
