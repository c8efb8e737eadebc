# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The only extension: checked arrays in, one nogil call of a C kernel, error code to exception."""

cdef extern from "wbcprof.h" nogil:
    int WBC_OK
    int WBC_OUT_OF_MEMORY

    ctypedef struct wbc_kernels:
        const char *name

    const wbc_kernels *wbc_active()
    const char *wbc_level_name(int index)
    int wbc_cap(const char *name)


def instruction_set():
    """Name of the instruction set in use."""
    return wbc_active().name.decode()


def instruction_sets():
    """Names of the instruction sets that this machine can run, slowest first."""
    names = []
    while wbc_level_name(<int>len(names)) != NULL:
        names.append(wbc_level_name(<int>len(names)).decode())
    return names


def cap_instruction_set(str name):
    """Run the kernels of the instruction set `name` from now on."""
    cdef bytes encoded = name.encode()
    if wbc_cap(encoded) != 0:
        raise ValueError(f"instruction set must be one of {instruction_sets()}, got {name!r}")


# ---- sparse codes ----

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy

from wbcprof._blas cimport rows_times_rows

cdef extern from "wbcprof.h" nogil:
    int WBC_ACTIVE_SET
    int WBC_GREEDY

    ctypedef struct wbc_lasso:
        const float *gram
        int h
        int ld
        float alpha
        int positive
        int strategy
        float tol
        int max_iter
        int max_active
        int n_threads

    ctypedef struct wbc_sparse_kernels "wbc_kernels":
        int (*sparse_code)(
            const wbc_lasso *problem, int n, const float *q, const double *energy,
            const int64_t *start, const int32_t *start_index, const float *start_value,
            int32_t *index, float *value, int32_t *count, float *gap) noexcept nogil


def rows_product(
    const float[:, ::1] a,  # IN (n, m)
    const float[:, ::1] b,  # IN (h, m)
    float[:, ::1] out,      # OUT (n, at least h)
    float alpha=1.0,
    float beta=0.0,
):
    """out[:, :h] = alpha a b' + beta out[:, :h]."""
    cdef int n = <int>a.shape[0], h = <int>b.shape[0], m = <int>a.shape[1], ld = <int>out.shape[1]
    if n == 0 or h == 0 or m == 0:
        return
    with nogil:
        rows_times_rows(alpha, &a[0, 0], n, &b[0, 0], h, m, beta, &out[0, 0], ld)


def sparse_code(
    const float[:, ::1] gram,    # IN (h, ld)
    const float[:, ::1] linear,  # IN (n, ld)
    const double[::1] energy,    # IN (n,)
    const int64_t[::1] start,    # IN (n + 1,) CSR warm start, or None
    const int32_t[::1] start_index,
    const float[::1] start_value,
    int32_t[:, ::1] index,       # OUT (n, h)
    float[:, ::1] value,         # OUT (n, h)
    int32_t[::1] count,          # OUT (n,)
    float[::1] gap,              # OUT (n,)
    float alpha,
    bint positive,
    bint greedy,
    float tol,
    int max_iter,
    int max_active,
    int n_threads,
):
    """Codes of one tile of signals; see sparse_code.c."""
    cdef int status, n = <int>linear.shape[0]
    cdef const int64_t *start_pointer = NULL
    cdef const int32_t *index_pointer = NULL
    cdef const float *value_pointer = NULL
    cdef wbc_lasso problem
    if n == 0:
        return
    if start is not None and start_index.shape[0] > 0:
        start_pointer = &start[0]
        index_pointer = &start_index[0]
        value_pointer = &start_value[0]
    problem.gram = &gram[0, 0]
    problem.h = <int>gram.shape[0]
    problem.ld = <int>gram.shape[1]
    problem.alpha = alpha
    problem.positive = positive
    problem.strategy = WBC_GREEDY if greedy else WBC_ACTIVE_SET
    problem.tol = tol
    problem.max_iter = max_iter
    problem.max_active = max_active
    problem.n_threads = n_threads
    with nogil:
        status = (<const wbc_sparse_kernels *>wbc_active()).sparse_code(
            &problem, n, &linear[0, 0], &energy[0], start_pointer, index_pointer, value_pointer,
            &index[0, 0], &value[0, 0], &count[0], &gap[0])
    if status == WBC_OUT_OF_MEMORY:
        raise MemoryError("no memory for the scratch of sparse_code")


def pack_rows(
    const int32_t[:, ::1] index,  # IN (n, h)
    const float[:, ::1] value,    # IN (n, h)
    const int32_t[::1] count,     # IN (n,)
    int32_t[::1] packed_index,    # OUT (sum of count,)
    float[::1] packed_value,      # OUT (sum of count,)
):
    """The first count[i] entries of each row, one row after the other."""
    cdef Py_ssize_t i, at = 0
    if packed_index.shape[0] == 0:
        return
    with nogil:
        for i in range(count.shape[0]):
            if count[i] > 0:
                memcpy(&packed_index[at], &index[i, 0], count[i] * sizeof(int32_t))
                memcpy(&packed_value[at], &value[i, 0], count[i] * sizeof(float))
                at += count[i]
