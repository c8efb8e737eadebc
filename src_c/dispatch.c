/* Run-time choice of the instruction set: start with the scalar row, climb while the CPU allows. */
#include "wbcprof.h"

#include <string.h>

extern const wbc_kernels wbc_kernels_scalar;
#ifdef WBC_HAVE_AVX2
extern const wbc_kernels wbc_kernels_avx2, wbc_kernels_avx512;
#endif
#ifdef WBC_HAVE_NEON
extern const wbc_kernels wbc_kernels_neon;
#endif

enum { MAX_LEVELS = 4 };
static const wbc_kernels *levels[MAX_LEVELS + 1];
static const wbc_kernels *active;

/* Exactly the features that the libraries are compiled for. Runs once, when the module loads. */
__attribute__((constructor)) static void detect(void)
{
    int n = 0;
    levels[n++] = &wbc_kernels_scalar;
#ifdef WBC_HAVE_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        levels[n++] = &wbc_kernels_avx2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
            levels[n++] = &wbc_kernels_avx512;
    }
#endif
#ifdef WBC_HAVE_NEON
    levels[n++] = &wbc_kernels_neon;
#endif
    active = levels[n - 1];
}

const wbc_kernels *wbc_active(void)
{
    return active;
}

const char *wbc_level_name(int index)
{
    return levels[index] ? levels[index]->name : NULL;
}

int wbc_cap(const char *name)
{
    for (int i = 0; levels[i]; i++)
        if (strcmp(levels[i]->name, name) == 0) {
            active = levels[i];
            return 0;
        }
    return -1;
}
