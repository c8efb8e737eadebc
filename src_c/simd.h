/* The few vector operations that the kernels need, on WIDTH floats or DOUBLE_WIDTH doubles:
 * all that they know of an instruction set.
 *
 * Types are those of the compiler's vector extension: + - * / & | ~ are element-wise, a > b is -1
 * where it holds and 0 elsewhere, a[k] is an element. TILES, at most 16, is the number of rows of
 * the register block of multiply.h.
 */
#ifndef WBC_SIMD_H
#define WBC_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(WBC_ISA_AVX512)
#include <immintrin.h>
enum { WIDTH = 16, TILES = 14 };
#elif defined(WBC_ISA_AVX2)
#include <immintrin.h>
enum { WIDTH = 8, TILES = 6 };
#elif defined(WBC_ISA_NEON)
#include <arm_neon.h>
enum { WIDTH = 4, TILES = 12 };
#else
enum { WIDTH = 4, TILES = 6 };
#endif
enum { DOUBLE_WIDTH = WIDTH / 2 };

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vec_int __attribute__((vector_size(4 * WIDTH)));
typedef double vec_double __attribute__((vector_size(4 * WIDTH)));
typedef float vec_half __attribute__((vector_size(2 * WIDTH)));

/* All elements a. */
static inline vec vec_set(float a) { return a - (vec){0}; }
static inline vec_double vec_double_set(double a) { return a - (vec_double){0}; }

/* a where the mask is -1, b where it is 0. */
static inline vec_int vec_choose(vec_int mask, vec_int a, vec_int b)
{
    return (mask & a) | (~mask & b);
}

/* ---- what the instruction sets have of their own ----
 *
 * fma is a * b + c, max is a where a > b and else b, min likewise. */

#if defined(WBC_ISA_AVX512)

static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec_double vec_double_fma(vec_double a, vec_double b, vec_double c)
{
    return _mm512_fmadd_pd(a, b, c);
}

#elif defined(WBC_ISA_AVX2)

static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline vec_double vec_double_fma(vec_double a, vec_double b, vec_double c)
{
    return _mm256_fmadd_pd(a, b, c);
}

#else

static inline vec vec_max(vec a, vec b) { return (vec)vec_choose(a > b, (vec_int)a, (vec_int)b); }
static inline vec vec_min(vec a, vec b) { return (vec)vec_choose(a < b, (vec_int)a, (vec_int)b); }
#if defined(WBC_ISA_NEON)
static inline vec vec_fma(vec a, vec b, vec c)
{
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
static inline vec_double vec_double_fma(vec_double a, vec_double b, vec_double c)
{
    return (vec_double)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
static inline vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
static inline vec_double vec_double_fma(vec_double a, vec_double b, vec_double c)
{
    return a * b + c;
}
#endif

#endif

/* ---- memory ---- */

static inline vec vec_load(const float *source)
{
    vec a;
    memcpy(&a, source, sizeof a);
    return a;
}

static inline void vec_store(float *target, vec a) { memcpy(target, &a, sizeof a); }

static inline vec_double vec_double_load(const double *source)
{
    vec_double a;
    memcpy(&a, source, sizeof a);
    return a;
}

static inline void vec_double_store(double *target, vec_double a) { memcpy(target, &a, sizeof a); }

/* DOUBLE_WIDTH floats as doubles, and back. */
static inline vec_double vec_double_widen(const float *source)
{
    vec_half a;
    memcpy(&a, source, sizeof a);
    return __builtin_convertvector(a, vec_double);
}

static inline void vec_double_narrow(float *target, vec_double a)
{
    const vec_half narrow = __builtin_convertvector(a, vec_half);
    memcpy(target, &narrow, sizeof narrow);
}

/* ---- functions ---- */

static inline vec vec_abs(vec a) { return (vec)((vec_int)a & 0x7fffffff); }

/* 1 where a > b, else 0. */
static inline vec vec_greater(vec a, vec b)
{
    return (vec)((vec_int)(a > b) & (vec_int)vec_set(1.0f));
}

/* Writes a[k] to value and first + k to index for every k with a[k] > b[k], without gaps; returns
 * how many. Both need room for WIDTH. */
static inline int vec_append_greater(vec a, vec b, int first, int32_t *index, float *value)
{
#if defined(WBC_ISA_AVX512)
    const __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i here = _mm512_add_epi32(_mm512_set1_epi32(first), place);
    const __mmask16 greater = _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
    _mm512_storeu_si512(index, _mm512_maskz_compress_epi32(greater, here));
    _mm512_storeu_ps(value, _mm512_maskz_compress_ps(greater, a));
    return __builtin_popcount(greater);
#else
    int n = 0;
    for (int k = 0; k < WIDTH; k++) {
        index[n] = first + k;
        value[n] = a[k];
        n += a[k] > b[k];
    }
    return n;
#endif
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
