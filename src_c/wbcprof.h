/* The C face of wbcprof: shapes, error codes and the table of kernels.
 *
 * Arrays are C-contiguous float32 unless said otherwise; the caller has checked every shape.
 * Kernels return WBC_OK or an error code, never print and never exit.
 */
#ifndef WBCPROF_H
#define WBCPROF_H

#include <stddef.h>
#include <stdint.h>

enum {
    WBC_OK = 0,
    WBC_OUT_OF_MEMORY = 1,
};

/* Many lassos that share one Gram matrix; the formula is in sparse_code.c. */
typedef struct {
    const float *gram; /* Q, h x ld, columns past h zero */
    int h, ld;         /* ld: h rounded up to a multiple of 16 */
    float alpha;
    int positive; /* codes >= 0 */
    int strategy; /* WBC_ACTIVE_SET or WBC_GREEDY */
    float tol;    /* relative duality gap to stop at */
    int max_iter; /* fresh gradients per signal */
    int max_active; /* largest active set, beyond it greedy takes over */
    int n_threads;
} wbc_lasso;

enum { WBC_ACTIVE_SET = 0, WBC_GREEDY = 1 };

/* One row of the table: everything that is compiled once per instruction set. */
typedef struct {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */

    /* Codes of n signals: linear terms q (n x ld) and energies |y|^2 (n), warm start in CSR form
     * (start NULL: from zero). Signal i gets count[i] non-zeros, by rising index, in
     * index[i*h ...] and value[i*h ...], and its relative duality gap in gap[i]. */
    int (*sparse_code)(const wbc_lasso *problem, int n, const float *q, const double *energy,
                       const int64_t *start, const int32_t *start_index, const float *start_value,
                       int32_t *index, float *value, int32_t *count, float *gap);
} wbc_kernels;

/* The kernels in use: the best that this CPU runs, or the level set by wbc_cap. */
const wbc_kernels *wbc_active(void);

/* Names of the levels that this CPU can run, slowest first; NULL past the last. */
const char *wbc_level_name(int index);

/* Use the level called `name`; returns 0, or -1 where this CPU or build has no such level. */
int wbc_cap(const char *name);

#endif
