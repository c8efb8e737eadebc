/* The register-blocked product of encode_pool.c and correlate.c: TILES rows (tiles, patches) at a
 * time, against a block of signatures whose filters stay in the second-level cache. */
#ifndef WBC_MULTIPLY_H
#define WBC_MULTIPLY_H

#include "simd.h"

#include <stddef.h>

#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = WBC_SIGNATURE_BLOCK };

static inline int smaller(int a, int b) { return a < b ? a : b; }

enum {
    LINE_FLOATS = 16,       /* of a cache line */
    PREFETCH_FEATURES = 64, /* filters this far ahead, and the next values: a tenth faster */
};

/* products[tile * stride + signature] = sum over features of
 *     values[feature / WIDTH][tile][feature % WIDTH] * filters[feature][signature]
 * for n of TILES tiles and the signatures of two vectors. */
INLINE void multiply(int n, int n_features, const float *values, const float *filters,
                     float *products, size_t stride)
{
    vec sum[TILES][2];
    for (int tile = 0; tile < n; tile++)
        sum[tile][0] = sum[tile][1] = vec_set(0);
    for (int feature = 0; feature < n_features; feature += WIDTH) {
        const int end = smaller(n_features - feature, WIDTH);
        for (int lane = 0; lane < end; lane++, values++, filters += BLOCK) {
            for (int i = 0; i < 2 * WIDTH; i += LINE_FLOATS)
                __builtin_prefetch(filters + PREFETCH_FEATURES * BLOCK + i);
            __builtin_prefetch(values + TILES * WIDTH + lane * (WIDTH - 1));
            const vec left = vec_load(filters), right = vec_load(filters + WIDTH);
#pragma GCC unroll 16
            for (int tile = 0; tile < n; tile++) {
                const vec value = vec_set(values[tile * WIDTH]);
                sum[tile][0] = vec_fma(value, left, sum[tile][0]);
                sum[tile][1] = vec_fma(value, right, sum[tile][1]);
            }
        }
        values += (TILES - 1) * WIDTH;
    }
    for (int tile = 0; tile < n; tile++) {
        vec_store(products + tile * stride, sum[tile][0]);
        vec_store(products + tile * stride + WIDTH, sum[tile][1]);
    }
}

/* The same for BLOCK signatures. */
static void multiply_block(int n, int n_features, const float *values, const float *filters,
                           float *products, size_t stride)
{
    for (int i = 0; i < BLOCK; i += 2 * WIDTH)
        switch (n) {
#define CASE(N)                                                                 \
    case N:                                                                     \
        if (N <= TILES)                                                         \
            multiply(N, n_features, values, filters + i, products + i, stride); \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
            CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16)
#undef CASE
        }
}

#endif
