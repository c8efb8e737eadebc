/* The few vector operations that the kernels need: 16, 8 or 4 floats wide.
 *
 * Types are those of the compiler's vector extension, so + - * / are element-wise operators.
 * WIDTH is the length of a vec, TILES the rows of the register block of encode_pool.c.
 */
#ifndef WBC_SIMD_H
#define WBC_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(WBC_ISA_AVX512)

#include <immintrin.h>
enum { WIDTH = 16, TILES = 14 };
#define MAX_TILES 14
typedef __m512 vec;
typedef int32_t vec_int __attribute__((vector_size(64)));
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec vec_set(float a) { return _mm512_set1_ps(a); }

#elif defined(WBC_ISA_AVX2)

#include <immintrin.h>
enum { WIDTH = 8, TILES = 6 };
#define MAX_TILES 6
typedef __m256 vec;
typedef int32_t vec_int __attribute__((vector_size(32)));
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline vec vec_set(float a) { return _mm256_set1_ps(a); }

#else

typedef float vec __attribute__((vector_size(16)));
typedef int32_t vec_int __attribute__((vector_size(16)));
static inline vec vec_set(float a) { return (vec){a, a, a, a}; }
static inline vec vec_choose(vec_int mask, vec a, vec b)
{
    return (vec)((mask & (vec_int)a) | (~mask & (vec_int)b));
}
static inline vec vec_max(vec a, vec b) { return vec_choose(a > b, a, b); }
static inline vec vec_min(vec a, vec b) { return vec_choose(a < b, a, b); }
#if defined(WBC_ISA_NEON)
#include <arm_neon.h>
enum { WIDTH = 4, TILES = 12 };
#define MAX_TILES 12
static inline vec vec_fma(vec a, vec b, vec c)
{
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
enum { WIDTH = 4, TILES = 6 };
#define MAX_TILES 6
static inline vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
#endif

#endif

static inline vec vec_load(const float *source)
{
    vec a;
    memcpy(&a, source, sizeof a);
    return a;
}

static inline void vec_store(float *target, vec a) { memcpy(target, &a, sizeof a); }

/* 1 where a > b, else 0. */
static inline vec vec_greater(vec a, vec b)
{
    return (vec)((vec_int)(a > b) & (vec_int)vec_set(1.0f));
}

/* 2^a, relative error below 2e-7: 2^(a - n) by a polynomial, n added to the exponent.
 * Adding 1.5 * 2^23 rounds a to n and leaves n in the low bits. */
static inline vec vec_exp2(vec a)
{
    const vec rounder = vec_set(12582912.0f);
    a = vec_min(vec_max(a, vec_set(-126.0f)), vec_set(126.0f));
    const vec shifted = a + rounder;
    const vec f = a - (shifted - rounder);
    vec p = vec_set(1.32647204e-3f);
    p = vec_fma(p, f, vec_set(9.67151302e-3f));
    p = vec_fma(p, f, vec_set(5.55073378e-2f));
    p = vec_fma(p, f, vec_set(2.40222421e-1f));
    p = vec_fma(p, f, vec_set(6.93146978e-1f));
    p = vec_fma(p, f, vec_set(1.0f));
    return (vec)((vec_int)p + ((vec_int)shifted << 23));
}

#endif
