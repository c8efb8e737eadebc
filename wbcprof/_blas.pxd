# cython: language_level=3
"""BLAS for C-contiguous rows; Fortran order stays in here."""

from scipy.linalg.cython_blas cimport sgemm


cdef inline void rows_times_rows(
    float alpha, const float *a, int n, const float *b, int h, int m, float beta, float *out, int ld
) noexcept nogil:
    """out[n, h] = alpha a[n, m] b[h, m]' + beta out, rows of `out` being `ld` apart."""
    sgemm(b"T", b"N", &h, &n, &m, &alpha, <float *>b, &m, <float *>a, &m, &beta, out, &ld)
