/* How a long kernel call ends early. */
#ifndef WBC_INTERRUPT_H
#define WBC_INTERRUPT_H

#include "wbcprof.h"

#include <omp.h>

static const double ASK_EVERY = 0.1; /* seconds */

/* Of one call of a kernel, shared by its threads. */
typedef struct {
    wbc_interrupted interrupted;
    double next; /* when the calling thread asks again */
    int stopped;
} patience;

static inline patience start_patience(wbc_interrupted interrupted)
{
    return (patience){.interrupted = interrupted, .next = omp_get_wtime() + ASK_EVERY};
}

/* Whether to skip the work that is left; for every thread to ask before each piece of work. */
static inline int out_of_patience(patience *p, int is_caller)
{
    if (is_caller && omp_get_wtime() >= p->next) {
        if (p->interrupted())
            __atomic_store_n(&p->stopped, 1, __ATOMIC_RELAXED);
        p->next = omp_get_wtime() + ASK_EVERY;
    }
    return __atomic_load_n(&p->stopped, __ATOMIC_RELAXED);
}

static inline int end_patience(const patience *p)
{
    return p->stopped ? WBC_INTERRUPTED : WBC_OK;
}

#endif
