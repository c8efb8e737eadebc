# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The only extension: checked arrays in, one nogil call of a C kernel, error code to exception."""

import os

from libc.stdint cimport int32_t, uint8_t


cdef extern from "wbcprof.h" nogil:
    int WBC_OK
    int WBC_OUT_OF_MEMORY

    int WBC_SIGNATURE_BLOCK
    int WBC_MAX_POINTS

    ctypedef enum wbc_nonlinearity:
        WBC_SIGMOID, WBC_TANH, WBC_RECTIFIED, WBC_SOFT_THRESHOLD

    ctypedef struct wbc_encode_pool:
        const uint8_t *bytes
        const float *floats
        const float *pixel_table
        int n_images, height, width, channels
        int patch, step, rows, columns
        const int32_t *cell_of_row
        const int32_t *cell_of_column
        int pool_columns, n_pool_cells
        int cell, dilation, taps, tile
        const float *input_transforms
        const float *output_transforms
        int n_features
        const float *projection
        int n_signatures
        const float *filters
        const float *colour
        const float *offset
        const float *gain
        const float *threshold
        wbc_nonlinearity nonlinearity
        float contrast_epsilon
        float *shift
        float *sum
        float *square
        float *max
        float *active

    ctypedef struct wbc_kernels:
        const char *name
        int (*encode_pool)(const wbc_encode_pool *job, int n_threads) noexcept nogil

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


if os.environ.get("WBCPROF_INSTRUCTION_SET"):
    cap_instruction_set(os.environ["WBCPROF_INSTRUCTION_SET"])


SIGNATURE_BLOCK = WBC_SIGNATURE_BLOCK
MAX_POINTS = WBC_MAX_POINTS
NONLINEARITIES = {
    "sigmoid": WBC_SIGMOID,
    "tanh": WBC_TANH,
    "rectified": WBC_RECTIFIED,
    "soft_threshold": WBC_SOFT_THRESHOLD,
}


def encode_pool(
    images,  # IN (n, height, width, channels) uint8 or float32
    const float[::1] pixel_table,  # IN (256,)
    int patch,
    int step,
    const int32_t[::1] cell_of_row,  # IN (rows,)
    const int32_t[::1] cell_of_column,  # IN (columns,)
    int pool_columns,
    int cell,
    int dilation,
    int taps,
    int tile,
    const float[:, :, ::1] input_transforms,  # IN (tile, points, points)
    const float[:, :, ::1] output_transforms,  # IN (tile, tile, points)
    const float[:, ::1] projection,  # IN (cell * cell * channels, n_features padded to 16s) or None
    const float[:, :, :, ::1] filters,  # IN (blocks, points * points, n_features, SIGNATURE_BLOCK)
    const float[:, ::1] colour,  # IN (n_signatures, channels)
    const float[::1] offset,  # IN (n_signatures,), as the next two
    const float[::1] gain,
    const float[::1] threshold,
    str nonlinearity,
    float contrast_epsilon,
    int n_pool_cells,
    float[:, :, ::1] shift,  # OUT (n, n_pool_cells, n_signatures) or None, as the rest
    float[:, :, ::1] sum,
    float[:, :, ::1] square,
    float[:, :, ::1] max,
    float[:, :, ::1] active,
    int n_threads,
):
    """Statistics of the codes of every image's windows; see encode_pool.c for the meaning."""
    cdef wbc_encode_pool job
    cdef const uint8_t[:, :, :, ::1] bytes_view
    cdef const float[:, :, :, ::1] floats_view
    job.bytes = NULL
    job.floats = NULL
    if images.dtype.kind == "u":
        bytes_view = images
        job.bytes = &bytes_view[0, 0, 0, 0]
    else:
        floats_view = images
        job.floats = &floats_view[0, 0, 0, 0]
    job.pixel_table = &pixel_table[0]
    job.n_images, job.height, job.width, job.channels = images.shape
    job.patch, job.step = patch, step
    job.rows = <int>cell_of_row.shape[0]
    job.columns = <int>cell_of_column.shape[0]
    job.cell_of_row = &cell_of_row[0]
    job.cell_of_column = &cell_of_column[0]
    job.pool_columns = pool_columns
    job.n_pool_cells = n_pool_cells
    job.cell, job.dilation, job.taps, job.tile = cell, dilation, taps, tile
    job.input_transforms = &input_transforms[0, 0, 0]
    job.output_transforms = &output_transforms[0, 0, 0]
    job.projection = NULL if projection is None else &projection[0, 0]
    job.n_features = <int>filters.shape[2]
    job.n_signatures = <int>offset.shape[0]
    job.filters = &filters[0, 0, 0, 0]
    job.colour = &colour[0, 0]
    job.offset = &offset[0]
    job.gain = &gain[0]
    job.threshold = &threshold[0]
    job.nonlinearity = NONLINEARITIES[nonlinearity]
    job.contrast_epsilon = contrast_epsilon
    job.shift = NULL if shift is None else &shift[0, 0, 0]
    job.sum = NULL if sum is None else &sum[0, 0, 0]
    job.square = NULL if square is None else &square[0, 0, 0]
    job.max = NULL if max is None else &max[0, 0, 0]
    job.active = NULL if active is None else &active[0, 0, 0]
    cdef int status
    with nogil:
        status = wbc_active().encode_pool(&job, n_threads)
    if status == WBC_OUT_OF_MEMORY:
        raise MemoryError(f"encode_pool: no memory for the scratch of {n_threads} threads")
