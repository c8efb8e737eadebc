# cython: language_level=3
"""BLAS for C-contiguous rows; Fortran order stays in here."""

from scipy.linalg.cython_blas cimport saxpy, scopy, sgemm, sgemv, snrm2, sscal


cdef inline void rows_times_matrix(
    float alpha, const float *a, int lda, int n, const float *b, int ldb, int k, int width,
    float beta, float *out, int ldo
) noexcept nogil:
    """out[n, width] = alpha a[n, k] b[k, width] + beta out, rows being lda, ldb and ldo apart."""
    sgemm(
        b"N", b"N", &width, &n, &k, &alpha, <float *>b, &ldb, <float *>a, &lda, &beta, out, &ldo)


cdef inline void add_rows(
    float alpha, const float *weights, const float *rows, int k, int m, float *out
) noexcept nogil:
    """out[m] += alpha weights[k] rows[k, m]."""
    cdef int one = 1
    cdef float keep = 1
    sgemv(b"N", &m, &k, &alpha, <float *>rows, &m, <float *>weights, &one, &keep, out, &one)


cdef inline void add_row(float alpha, const float *row, int m, float *out) noexcept nogil:
    """out[m] += alpha row[m]."""
    cdef int one = 1
    saxpy(&m, &alpha, <float *>row, &one, out, &one)


cdef inline void copy_row(const float *row, int m, float *out) noexcept nogil:
    cdef int one = 1
    scopy(&m, <float *>row, &one, out, &one)


cdef inline void scale_row(float alpha, float *row, int m) noexcept nogil:
    cdef int one = 1
    sscal(&m, &alpha, row, &one)


cdef inline float norm_of_row(const float *row, int m) noexcept nogil:
    cdef int one = 1
    return snrm2(&m, <float *>row, &one)
