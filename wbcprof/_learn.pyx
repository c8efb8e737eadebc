# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The loops of learning, on SciPy's BLAS: statistics of sparse codes, exact steps of signatures."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t
from libc.string cimport memset

from cython.parallel cimport prange

from wbcprof._blas cimport (
    add_row, add_rows, copy_row, norm_of_row, rows_times_matrix, scale_row
)


cdef enum:
    COLUMN_CHUNK = 128  # what a thread takes at a time: fixed, so that no bit depends on threads
    SIGNATURE_CHUNK = 64
    ROW_CHUNK = 16


cdef void gradient_columns(
    const float *signatures, const float *A, const float *C, int h, int m, int size, int column,
    float *gradient
) noexcept nogil:
    """Columns of C - A B from `column` on, of `size` rows."""
    cdef int k, width = min(<int>COLUMN_CHUNK, m - column)
    for k in range(size):
        copy_row(C + <Py_ssize_t>k * m + column, width, gradient + <Py_ssize_t>k * m + column)
    rows_times_matrix(
        -1, A, h, size, signatures + column, m, h, width, 1, gradient + column, m)


cdef int must_fit(bint fits, str name) except -1:
    """As in _core: of other shapes, arrays would be read, or written, past their ends."""
    if not fits:
        raise ValueError(f"shapes or values of what is given to {name} do not fit")
    return 0


cdef bint are_codes(
    const int32_t[::1] start, const int32_t[::1] index, const float[::1] value, Py_ssize_t n,
    Py_ssize_t h
) noexcept nogil:
    """Whether they are those of n patches by h signatures."""
    cdef Py_ssize_t i
    if start.shape[0] != n + 1 or index.shape[0] != value.shape[0]:
        return False
    if start[0] < 0 or start[n] > index.shape[0]:
        return False
    for i in range(n):
        if start[i] > start[i + 1]:
            return False
    for i in range(index.shape[0]):
        if not 0 <= index[i] < h:
            return False
    return True


def update_signatures(
    float[:, ::1] signatures,  # IN, OUT (h, m) B
    const float[:, ::1] A,     # IN (h, h)
    const float[:, ::1] C,     # IN (h, m)
    float[:, ::1] gradient,    # scratch (block, m): the rows of a block are taken together
    float[:, ::1] moved,       # scratch (block, m)
    int n_threads,
):
    """One sweep of block coordinate descent over the rows of B; see `reference`."""
    cdef int h = <int>signatures.shape[0], m = <int>signatures.shape[1]
    cdef int block = <int>gradient.shape[0], n_chunks = (m + COLUMN_CHUNK - 1) // COLUMN_CHUNK
    cdef int turn, start, size, chunk, j, k
    cdef float norm
    must_fit(
        h > 0 and m > 0 and block > 0 and n_threads > 0
        and A.shape[0] == A.shape[1] == C.shape[0] == h and C.shape[1] == m
        and moved.shape[0] == block and gradient.shape[1] == moved.shape[1] == m,
        "update_signatures")
    for turn in range((h + block - 1) // block):
        with nogil:
            start = turn * block
            size = min(block, h - start)
            for chunk in prange(n_chunks, num_threads=n_threads, schedule="dynamic"):
                gradient_columns(
                    &signatures[0, 0], &A[start, 0], &C[start, 0], h, m, size,
                    chunk * COLUMN_CHUNK, &gradient[0, 0])
            for k in range(size):
                j = start + k
                if not A[j, j] > 0:
                    memset(&moved[k, 0], 0, m * sizeof(float))
                    continue
                copy_row(&gradient[k, 0], m, &moved[k, 0])
                add_row(A[j, j], &signatures[j, 0], m, &moved[k, 0])
                if k > 0:
                    add_rows(-1, &A[j, start], &moved[0, 0], k, m, &moved[k, 0])
                norm = norm_of_row(&moved[k, 0], m)
                if not norm > 0:
                    memset(&moved[k, 0], 0, m * sizeof(float))
                    continue
                scale_row(1 / norm, &moved[k, 0], m)
                copy_row(&moved[k, 0], m, &gradient[k, 0])
                add_row(-1, &signatures[j, 0], m, &moved[k, 0])
                copy_row(&gradient[k, 0], m, &signatures[j, 0])
        PyErr_CheckSignals()


def add_statistics(
    const int32_t[::1] start,    # IN (n + 1,) CSR codes Z
    const int32_t[::1] index,
    const float[::1] value,
    const float[:, ::1] patches,  # IN (n, m) X
    float[:, ::1] A,              # IN, OUT (h, h) += Z' Z
    float[:, ::1] C,              # IN, OUT (h, m) += Z' X
    int n_threads,
):
    """Take sparse codes into the statistics; a thread owns the rows of a chunk of signatures."""
    cdef int n = <int>patches.shape[0], m = <int>patches.shape[1], h = <int>A.shape[0]
    cdef int chunk, i, j, s, t, n_chunks = (h + SIGNATURE_CHUNK - 1) // SIGNATURE_CHUNK
    must_fit(
        n_threads > 0 and A.shape[1] == C.shape[0] == h and C.shape[1] == m
        and are_codes(start, index, value, n, h),
        "add_statistics")
    if index.shape[0] == 0:
        return
    for chunk in prange(n_chunks, nogil=True, num_threads=n_threads, schedule="dynamic"):
        for i in range(n):
            for s in range(start[i], start[i + 1]):
                j = index[s]
                if j // SIGNATURE_CHUNK == chunk:
                    for t in range(start[i], start[i + 1]):
                        A[j, index[t]] += value[s] * value[t]
                    add_row(value[s], &patches[i, 0], m, &C[j, 0])


def subtract_rebuilt(
    const int32_t[::1] start,       # IN (n + 1,) CSR codes Z
    const int32_t[::1] index,
    const float[::1] value,
    const float[:, ::1] signatures,  # IN (h, m) B
    float[:, ::1] rows,              # IN, OUT (n, m) -= Z B
    int n_threads,
):
    """Residual of sparse codes."""
    cdef int n = <int>rows.shape[0], m = <int>rows.shape[1]
    cdef int chunk, i, s, n_chunks = (n + ROW_CHUNK - 1) // ROW_CHUNK
    must_fit(
        n_threads > 0 and signatures.shape[1] == m
        and are_codes(start, index, value, n, signatures.shape[0]),
        "subtract_rebuilt")
    if index.shape[0] == 0:
        return
    for chunk in prange(n_chunks, nogil=True, num_threads=n_threads, schedule="dynamic"):
        for i in range(chunk * ROW_CHUNK, min(n, (chunk + 1) * ROW_CHUNK)):
            for s in range(start[i], start[i + 1]):
                add_row(-value[s], &signatures[index[s], 0], m, &rows[i, 0])
