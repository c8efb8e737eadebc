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

/* One row of the table: everything that is compiled once per instruction set. */
typedef struct {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
} wbc_kernels;

/* The kernels in use: the best that this CPU runs, or the level set by wbc_cap. */
const wbc_kernels *wbc_active(void);

/* Names of the levels that this CPU can run, slowest first; NULL past the last. */
const char *wbc_level_name(int index);

/* Use the level called `name`; returns 0, or -1 where this CPU or build has no such level. */
int wbc_cap(const char *name);

#endif
