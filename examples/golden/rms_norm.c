/* The backward pass of rms_norm.py in C, compared with golden vectors:

     manual-grad golden export rms_norm.py:rms_norm --input x=6x5 --input gamma=5 --dtype float32 --out golden.safetensors
     cc -O2 rms_norm.c -lm -o rms_norm && ./rms_norm golden.safetensors mine.safetensors
     manual-grad golden compare golden.safetensors mine.safetensors --function rms_norm.py:rms_norm

   With -DFORGET_THE_NORM it forgets that the norm depends on x, and the comparison says so. */
#include <math.h>
#include "safetensors.h"

static void rms_norm_bwd(long N, long D, const float *x, const float *gamma, const float *dout, float *dx,
                         float *dgamma) {
  for (long n = 0; n < N; n++) {
    float squares = 0, product = 0;
    for (long d = 0; d < D; d++) {
      squares += x[n * D + d] * x[n * D + d];
      product += gamma[d] * dout[n * D + d] * x[n * D + d];
    }
    float r = 1 / sqrtf(squares / D + 1e-6f);
#ifdef FORGET_THE_NORM
    product = 0;
#endif
    for (long d = 0; d < D; d++) {
      dx[n * D + d] = r * (gamma[d] * dout[n * D + d] - x[n * D + d] * r * r * product / D);
      dgamma[d] += dout[n * D + d] * x[n * D + d] * r;
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 3) { fprintf(stderr, "usage: rms_norm golden.safetensors mine.safetensors\n"); return 2; }
  long shape[2], D;
  float *x = read_float32(argv[1], "in/x", 2, shape);
  float *gamma = read_float32(argv[1], "in/gamma", 1, &D);
  float *dout = read_float32(argv[1], "dout", 2, shape);
  float *dx = calloc(shape[0] * D, 4), *dgamma = calloc(D, 4);
  rms_norm_bwd(shape[0], D, x, gamma, dout, dx, dgamma);
  write_float32(argv[2], "grad/x", dx, shape[0], D, "grad/gamma", dgamma, D);
  return 0;
}
