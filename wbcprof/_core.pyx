# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Checked arrays in, one nogil call of a C kernel, error code to exception. Needs no BLAS."""

import os
import warnings

from cython.dataclasses cimport dataclass
from libc.math cimport INFINITY, isfinite
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t
from libc.string cimport memcpy


cdef extern from "wbcprof.h" nogil:
    int WBC_OK
    int WBC_OUT_OF_MEMORY
    int WBC_INTERRUPTED

    ctypedef int (*wbc_interrupted)() noexcept nogil

    int WBC_SIGNATURE_BLOCK
    int WBC_MAX_POINTS

    ctypedef enum wbc_nonlinearity:
        WBC_SIGMOID, WBC_TANH, WBC_RECTIFIED, WBC_SOFT_THRESHOLD

    ctypedef struct wbc_statistics:
        float *shift
        float *sum
        float *square
        float *sum_lost
        float *active_lost
        float *square_lost
        float *max
        float *active

    ctypedef struct wbc_encode_pool:
        const uint8_t *bytes
        const float *floats
        const float *pixel_table
        int n_images, height, width, channels
        int patch, step, rows, columns
        const int32_t *part_of_window
        int n_parts
        int square, dilation, taps, tile
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
        wbc_statistics out

    ctypedef struct wbc_lasso:
        const float *gram
        int h, ld
        float alpha
        int positive, greedy
        float tol
        int max_iter
        int max_active

    ctypedef struct wbc_leukocyte:
        double lit_share
        uint8_t background[3]
        double background_share, clipped_share
        double area, y, x, others
        double density[3]

    ctypedef struct wbc_square:
        const uint8_t *image
        int height, width
        double y, x
        double scale
        const uint8_t *background
        const uint8_t *tables
        const int16_t *fade
        int white
        int side
        uint8_t *out

    ctypedef struct wbc_focus:
        uint8_t *cell
        int height, width
        const int16_t *fade
        double wanted, found

    ctypedef struct wbc_tile:
        const uint8_t *image
        size_t stride
        int factor, height, width

    ctypedef struct wbc_light:
        int rows, columns
        const int32_t *parts
        const int32_t *row
        const int32_t *row_weight
        const int32_t *column
        const int32_t *column_weight

    ctypedef struct wbc_found:
        double down, across, nucleus, area, stained, top, left, bottom, right

    ctypedef struct wbc_finder:
        int height, width
        const int16_t *density
        const int16_t *stained
        double unit
        int foreground
        double red_cells, level
        int n_densest, low
        double contrast, colour
        int32_t *nuclei
        int32_t *cells
        wbc_found *found

    ctypedef struct wbc_kernels:
        const char *name
        int (*encode_pool)(
            const wbc_encode_pool *job, int n_threads, wbc_interrupted interrupted) noexcept nogil
        int (*correlate)(
            int n, int m, const float *patches, int n_signatures, const float *signatures,
            float *out, wbc_interrupted interrupted) noexcept nogil
        int (*sparse_code)(
            const wbc_lasso *problem, int n, const float *q, const double *energy,
            int32_t *index, float *value, int32_t *count, float *gap,
            int n_threads, wbc_interrupted interrupted) noexcept nogil
        int (*find_leukocyte)(
            const uint8_t *image, int height, int width, wbc_leukocyte *found) noexcept nogil
        int (*resample_square)(const wbc_square *job) noexcept nogil
        int (*match_focus)(wbc_focus *job) noexcept nogil
        int (*measure_light)(
            const wbc_tile *tile, int n_parts, const int32_t *lefts, uint8_t *light) noexcept nogil
        int (*stain_field)(
            const wbc_tile *tile, const wbc_light *light, int16_t *density,
            int16_t *stained) noexcept nogil
        int (*find_leukocytes)(const wbc_finder *job, int *n_found) noexcept nogil

    const wbc_kernels *wbc_active()
    const char *wbc_level_name(int index)
    int wbc_cap(const char *name)


cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

    ctypedef struct PyInterpreterState
    PyInterpreterState *PyInterpreterState_Get()
    int64_t PyInterpreterState_GetID(PyInterpreterState *)


if PyInterpreterState_GetID(PyInterpreterState_Get()) != 0:
    raise ImportError(
        "wbcprof works in the main interpreter of a process alone, and this is a subinterpreter; "
        "use threads or processes")


cdef int interrupted() noexcept nogil:
    """Runs the handlers of signals that came in; true where one raised an exception."""
    with gil:
        return PyErr_CheckSignals()


cdef int check(int status, str kernel) except -1:
    """Error code to exception; that of an interrupt has been raised already."""
    if status == WBC_OUT_OF_MEMORY:
        raise MemoryError(f"no memory for the scratch of {kernel}")
    return -1 if status == WBC_INTERRUPTED else 0


cdef enum:
    MOST_THREADS = 1 << 16
    MOST_VALUES = 1 << 28   # of a row, a square, a tile: their places are counted in ints
    MOST_FACTOR = 2896      # of reduction, as leukocyte.c has it
    MOST_LIGHT = 5690       # 1024 log(255 + 4)
    MOST_STAINED = 16383    # below MOST_DENSITY of finder.c


cdef int must_fit(bint fits, str kernel) except -1:
    """Of others than a kernel takes, arrays would be read, or written, past their ends."""
    if not fits:
        raise ValueError(f"shapes or values of what is given to {kernel} do not fit")
    return 0


cdef bint lie_within(const int32_t *values, Py_ssize_t n, int32_t least, int32_t most) noexcept nogil:
    cdef int outside = 0
    cdef Py_ssize_t i
    for i in range(n):
        outside |= (values[i] < least) | (values[i] > most)
    return not outside


cdef bint is_stained(const int16_t *values, Py_ssize_t n) noexcept nogil:
    cdef int outside = 0
    cdef Py_ssize_t i
    for i in range(n):
        outside |= values[i] > MOST_STAINED
    return not outside


cdef bint end_in_zeros(const float[:, ::1] rows, Py_ssize_t h) noexcept nogil:
    """Whether columns from h on are zero."""
    cdef Py_ssize_t i, j
    for i in range(rows.shape[0]):
        for j in range(h, rows.shape[1]):
            if rows[i, j] != 0:
                return False
    return True


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
    if name not in instruction_sets() or wbc_cap(name.encode()) != 0:
        raise ValueError(f"instruction set must be one of {instruction_sets()}, got {name!r}")


if os.environ.get("WBCPROF_INSTRUCTION_SET"):
    try:
        cap_instruction_set(os.environ["WBCPROF_INSTRUCTION_SET"])
    except ValueError as error:  # an import that fails is a traceback in every command
        warnings.warn(
            f"WBCPROF_INSTRUCTION_SET is ignored: {error}", RuntimeWarning, stacklevel=2)


SIGNATURE_BLOCK = WBC_SIGNATURE_BLOCK
MAX_POINTS = WBC_MAX_POINTS
NONLINEARITIES = {
    "sigmoid": WBC_SIGMOID,
    "tanh": WBC_TANH,
    "rectified": WBC_RECTIFIED,
    "soft_threshold": WBC_SOFT_THRESHOLD,
}


@dataclass(repr=False, eq=False)
cdef class Filters:
    """W of windows of `patch` pixels, `step` apart, cut and transformed as one form asks."""

    cdef int patch, step
    cdef int square, dilation, taps, tile
    cdef const float[:, :, ::1] input_transforms   # (tile, points, points)
    cdef const float[:, :, ::1] output_transforms  # (tile, tile, points)
    cdef const float[:, ::1] projection  # (pixels of a square, n_features padded to 16s) or None
    cdef const float[:, :, :, ::1] filters  # (blocks, points * points, n_features, SIGNATURE_BLOCK)


@dataclass(repr=False, eq=False)
cdef class Units:
    """What becomes of W x: arrays over signatures, padded to whole blocks."""

    cdef const float[::1] offset, gain, threshold  # (n_signatures,)
    cdef const float[:, ::1] colour  # (n_signatures, channels): W of a window of that channel alone
    cdef str nonlinearity
    cdef object contrast_epsilon  # float or None
    cdef const float[::1] pixel_table  # (256,)


@dataclass(repr=False, eq=False)
cdef class Statistics:
    """Of the codes of each part, (n, n_parts, n_signatures) float32, None where nobody wants one;
    wbcprof.h says what each starts as."""

    cdef readonly object shift, sum, square
    cdef readonly object lost  # (3, n, n_parts, n_signatures): scratch, zeros; goes with square
    cdef readonly object max, active


cdef bint fits_form(Filters f, Py_ssize_t channels):
    """Whether the arrays of a form are as large as its numbers say."""
    cdef Py_ssize_t points = <Py_ssize_t>f.tile + f.taps - 1
    cdef Py_ssize_t n_features = f.filters.shape[2]
    cdef Py_ssize_t n_pixels = channels * f.square * f.square
    return (
        f.step > 0 and f.taps > 0 and f.tile > 0 and (f.taps > 1 or f.tile == 1)
        and points <= WBC_MAX_POINTS
        and 0 < f.square <= f.patch and 0 < f.dilation <= f.patch
        and f.input_transforms.shape[0] == f.output_transforms.shape[0] == f.tile
        and f.output_transforms.shape[1] == f.tile
        and f.input_transforms.shape[1] == f.input_transforms.shape[2] == points
        and f.output_transforms.shape[2] == points
        and f.filters.shape[1] == points * points and f.filters.shape[3] == WBC_SIGNATURE_BLOCK
        and 0 < n_features <= MOST_VALUES and n_pixels <= MOST_VALUES
        and (n_features == n_pixels if f.projection is None else
             f.projection.shape[0] == n_pixels
             and f.projection.shape[1] == (n_features + 15) // 16 * 16)
    )


cdef bint fits_units(Units u, Py_ssize_t n_signatures, Py_ssize_t channels):
    return (
        u.offset.shape[0] == u.gain.shape[0] == u.threshold.shape[0] == n_signatures
        and n_signatures > 0 and u.colour.shape[0] == n_signatures
        and u.colour.shape[1] == channels and u.pixel_table.shape[0] == 256
    )


cdef bint is_of(float[:, :, ::1] statistic, Py_ssize_t n, Py_ssize_t n_parts,
                Py_ssize_t n_signatures):
    return statistic is None or (
        statistic.shape[0] == n and statistic.shape[1] == n_parts
        and statistic.shape[2] == n_signatures)


def encode_pool(
    Filters filters not None,
    Units units not None,
    images,  # IN (n, height, width, channels) uint8 or float32
    const int32_t[:, ::1] part_of_window,  # IN (rows, columns)
    int n_parts,
    Statistics statistics not None,  # OUT
    int n_threads,
):
    """Statistics of the codes of every image's windows; see encode_pool.c for the meaning."""
    cdef wbc_encode_pool job
    cdef const uint8_t[:, :, :, ::1] bytes_view
    cdef const float[:, :, :, ::1] floats_view
    cdef float[:, :, ::1] shift = statistics.shift, sum = statistics.sum
    cdef float[:, :, ::1] square = statistics.square
    cdef float[:, :, :, ::1] lost = statistics.lost
    cdef float[:, :, ::1] max = statistics.max, active = statistics.active
    cdef Py_ssize_t n, height, width, channels
    cdef Py_ssize_t n_signatures = filters.filters.shape[0] * WBC_SIGNATURE_BLOCK
    cdef Py_ssize_t rows = part_of_window.shape[0], columns = part_of_window.shape[1]
    job.bytes = NULL
    job.floats = NULL
    if images.dtype.kind == "u":
        bytes_view = images
        n, height, width, channels = bytes_view.shape[:4]
    else:
        floats_view = images
        n, height, width, channels = floats_view.shape[:4]
    must_fit(
        n > 0 and channels > 0 and 0 < n_parts and 0 < n_threads <= MOST_THREADS
        and fits_form(filters, channels) and fits_units(units, n_signatures, channels)
        and rows > 0 and columns > 0 and filters.patch > 0
        and (rows - 1) * filters.step + filters.patch <= height <= MOST_VALUES
        and (columns - 1) * filters.step + filters.patch <= width <= MOST_VALUES // channels
        and n <= MOST_VALUES and n_signatures <= MOST_VALUES
        and is_of(shift, n, n_parts, n_signatures) and is_of(sum, n, n_parts, n_signatures)
        and is_of(square, n, n_parts, n_signatures) and is_of(max, n, n_parts, n_signatures)
        and is_of(active, n, n_parts, n_signatures)
        and (lost is None or (lost.shape[0] == 3 and is_of(lost[0], n, n_parts, n_signatures)))
        and (sum is None or shift is not None) and (square is None or lost is not None)
        and lie_within(&part_of_window[0, 0], rows * columns, 0, n_parts - 1),
        "encode_pool")
    if images.dtype.kind == "u":
        job.bytes = &bytes_view[0, 0, 0, 0]
    else:
        job.floats = &floats_view[0, 0, 0, 0]
    job.pixel_table = &units.pixel_table[0]
    job.n_images, job.height = <int>n, <int>height
    job.width, job.channels = <int>width, <int>channels

    job.patch, job.step = filters.patch, filters.step
    job.rows, job.columns = <int>rows, <int>columns
    job.part_of_window = &part_of_window[0, 0]
    job.n_parts = n_parts

    job.square, job.dilation = filters.square, filters.dilation
    job.taps, job.tile = filters.taps, filters.tile
    job.input_transforms = &filters.input_transforms[0, 0, 0]
    job.output_transforms = &filters.output_transforms[0, 0, 0]
    job.n_features = <int>filters.filters.shape[2]
    job.projection = NULL if filters.projection is None else &filters.projection[0, 0]

    job.n_signatures = <int>units.offset.shape[0]
    job.filters = &filters.filters[0, 0, 0, 0]
    job.colour = &units.colour[0, 0]
    job.offset = &units.offset[0]
    job.gain = &units.gain[0]
    job.threshold = &units.threshold[0]
    job.nonlinearity = NONLINEARITIES[units.nonlinearity]
    job.contrast_epsilon = -1 if units.contrast_epsilon is None else units.contrast_epsilon

    job.out.shift = NULL if shift is None else &shift[0, 0, 0]
    job.out.sum = NULL if sum is None else &sum[0, 0, 0]
    job.out.square = NULL if square is None else &square[0, 0, 0]
    job.out.sum_lost = NULL if lost is None else &lost[0, 0, 0, 0]
    job.out.square_lost = NULL if lost is None else &lost[1, 0, 0, 0]
    job.out.active_lost = NULL if lost is None else &lost[2, 0, 0, 0]
    job.out.max = NULL if max is None else &max[0, 0, 0]
    job.out.active = NULL if active is None else &active[0, 0, 0]

    cdef int status
    with nogil:
        status = wbc_active().encode_pool(&job, n_threads, interrupted)
    check(status, "encode_pool")


def correlate(
    const float[:, ::1] patches,        # IN (n, m)
    const float[:, :, ::1] signatures,  # IN (blocks, m, SIGNATURE_BLOCK)
    float[:, ::1] out,                  # OUT (n, blocks * SIGNATURE_BLOCK)
):
    """Product of every patch with every signature; see correlate.c."""
    cdef int status, n = <int>patches.shape[0], m = <int>patches.shape[1]
    must_fit(
        signatures.shape[1] == m and signatures.shape[2] == WBC_SIGNATURE_BLOCK
        and out.shape[0] == n and out.shape[1] == signatures.shape[0] * WBC_SIGNATURE_BLOCK,
        "correlate")
    if n == 0 or m == 0 or signatures.shape[0] == 0:
        return
    with nogil:
        status = wbc_active().correlate(
            n, m, &patches[0, 0], <int>out.shape[1], &signatures[0, 0, 0], &out[0, 0],
            interrupted)
    check(status, "correlate")


@dataclass(repr=False, eq=False)
cdef class Lasso:
    """What the lassos of many signals share; see sparse_code.c."""

    cdef const float[:, ::1] gram  # (h, ld)
    cdef float alpha
    cdef bint positive, greedy
    cdef float tol
    cdef int max_iter, max_active


def sparse_code(
    Lasso problem not None,
    const float[:, ::1] linear,  # IN (n, ld)
    const double[::1] energy,    # IN (n,)
    int32_t[:, ::1] index,       # OUT (n, h)
    float[:, ::1] value,         # OUT (n, h)
    int32_t[::1] count,          # OUT (n,)
    float[::1] gap,              # OUT (n,)
    int n_threads,
):
    """Codes of one tile of signals; see sparse_code.c."""
    cdef int status, n = <int>linear.shape[0]
    cdef wbc_lasso lasso
    cdef Py_ssize_t h = problem.gram.shape[0]
    cdef Py_ssize_t ld = (h + WBC_SIGNATURE_BLOCK - 1) // WBC_SIGNATURE_BLOCK * WBC_SIGNATURE_BLOCK
    must_fit(
        0 < n_threads <= MOST_THREADS and problem.max_active >= 0
        and 0 < h and problem.gram.shape[1] == ld and linear.shape[1] == ld
        and index.shape[0] >= n and index.shape[1] == h
        and value.shape[0] >= n and value.shape[1] == h
        and energy.shape[0] == n and count.shape[0] == n and gap.shape[0] == n
        and end_in_zeros(problem.gram, h) and end_in_zeros(linear, h),
        "sparse_code")
    if n == 0:
        return
    lasso.gram = &problem.gram[0, 0]
    lasso.h = <int>problem.gram.shape[0]
    lasso.ld = <int>problem.gram.shape[1]
    lasso.alpha = problem.alpha
    lasso.positive = problem.positive
    lasso.greedy = problem.greedy
    lasso.tol = problem.tol
    lasso.max_iter = problem.max_iter
    lasso.max_active = problem.max_active
    with nogil:
        status = wbc_active().sparse_code(
            &lasso, n, &linear[0, 0], &energy[0], &index[0, 0], &value[0, 0], &count[0], &gap[0],
            n_threads, interrupted)
    check(status, "sparse_code")


def pack_rows(
    const int32_t[:, ::1] index,  # IN (n, h)
    const float[:, ::1] value,    # IN (n, h)
    const int32_t[::1] count,     # IN (n,)
    int32_t[::1] packed_index,    # OUT (sum of count,)
    float[::1] packed_value,      # OUT (sum of count,)
):
    """The first count[i] entries of each row, one row after the other."""
    cdef Py_ssize_t i, at = 0
    must_fit(index.shape[0] >= count.shape[0] and value.shape[0] >= count.shape[0], "pack_rows")
    for i in range(count.shape[0]):
        must_fit(0 <= count[i] <= min(index.shape[1], value.shape[1]), "pack_rows")
        at += count[i]
    must_fit(at == packed_index.shape[0] == packed_value.shape[0], "pack_rows")
    if at == 0:
        return
    at = 0
    with nogil:
        for i in range(count.shape[0]):
            if count[i] > 0:
                memcpy(&packed_index[at], &index[i, 0], count[i] * sizeof(int32_t))
                memcpy(&packed_value[at], &value[i, 0], count[i] * sizeof(float))
                at += count[i]


def find_leukocyte(
    const uint8_t[:, :, ::1] image,  # IN (H, W, 3)
):
    """Lit share, background (3,), its share, clipped share, area of the nucleus, its centre (y, x),
    its density (3,), area of others; see leukocyte.c."""
    cdef wbc_leukocyte found
    cdef int status
    must_fit(
        image.shape[0] > 0 and 0 < image.shape[1] <= MOST_VALUES and image.shape[2] == 3,
        "find_leukocyte")
    with nogil:
        status = wbc_active().find_leukocyte(
            &image[0, 0, 0], <int>image.shape[0], <int>image.shape[1], &found)
    check(status, "find_leukocyte")
    return (
        found.lit_share,
        (found.background[0], found.background[1], found.background[2]),
        found.background_share,
        found.clipped_share,
        found.area,
        (found.y, found.x),
        (found.density[0], found.density[1], found.density[2]),
        found.others,
    )


def resample_square(
    const uint8_t[:, :, ::1] image,  # IN (H, W, 3)
    double y,
    double x,
    double scale,
    const uint8_t[::1] background,   # IN (3,)
    const uint8_t[:, ::1] tables,    # IN (3, 256)
    const int16_t[:, ::1] fade,      # IN (side, side)
    int white,
    uint8_t[:, :, ::1] out,          # OUT (side, side, 3)
):
    """The square about a point at another scale, through tables; see leukocyte.c."""
    cdef wbc_square job
    must_fit(
        image.shape[0] > 0 and 0 < image.shape[1] <= MOST_VALUES and image.shape[2] == 3
        and background.shape[0] == 3 and tables.shape[0] == 3 and tables.shape[1] == 256
        and out.shape[0] == out.shape[1] == fade.shape[0] == fade.shape[1]
        and out.shape[0] > 0 and out.shape[2] == 3 and 0 <= white <= 255
        and isfinite(y) and isfinite(x) and 1e-4 <= scale < INFINITY,  # of less, it takes long
        "resample_square")
    job.image = &image[0, 0, 0]
    job.height, job.width = <int>image.shape[0], <int>image.shape[1]
    job.y, job.x, job.scale = y, x, scale
    job.background = &background[0]
    job.tables = &tables[0, 0]
    job.fade = &fade[0, 0]
    job.white = white
    job.side = <int>out.shape[0]
    job.out = &out[0, 0, 0]
    cdef int status
    with nogil:
        status = wbc_active().resample_square(&job)
    check(status, "resample_square")


def match_focus(
    uint8_t[:, :, ::1] cell,         # IN and OUT (height, width, 3)
    const int16_t[:, ::1] fade,      # IN (height, width)
    double wanted,
):
    """Blurs a cell that is sharper than wanted; returns how blurred it was. See leukocyte.c."""
    cdef wbc_focus job
    must_fit(
        cell.shape[0] > 0 and 0 < cell.shape[1] <= MOST_VALUES and cell.shape[2] == 3
        and fade.shape[0] == cell.shape[0] and fade.shape[1] == cell.shape[1],
        "match_focus")
    job.cell = &cell[0, 0, 0]
    job.height, job.width = <int>cell.shape[0], <int>cell.shape[1]
    job.fade = &fade[0, 0]
    job.wanted = wanted
    cdef int status
    with nogil:
        status = wbc_active().match_focus(&job)
    check(status, "match_focus")
    return job.found


cdef wbc_tile tile_of(const uint8_t[:, :, :] field, int factor, Py_ssize_t top, Py_ssize_t left,
                      Py_ssize_t height, Py_ssize_t width) except *:
    cdef wbc_tile tile
    must_fit(
        0 < factor <= MOST_FACTOR and top >= 0 and left >= 0 and height > 0 and width > 0
        and field.shape[2] == 3 and field.shape[1] <= MOST_VALUES
        and (top + height) * factor <= field.shape[0]
        and (left + width) * factor <= field.shape[1],
        "a tile")
    tile.image = &field[top * factor, left * factor, 0]
    tile.stride = <size_t>field.strides[0]
    tile.factor, tile.height, tile.width = factor, <int>height, <int>width
    return tile


def measure_light(
    const uint8_t[:, :, ::1] field,  # IN (H, W, 3)
    int factor,
    int top,                         # of the reduced field, as all that follows
    int bottom,
    const int32_t[::1] lefts,        # IN (n_parts + 1,)
    uint8_t[:, ::1] light,           # OUT (n_parts, 3)
):
    """Light of parts of a field that lie beside one another; see finder.c."""
    cdef int status, j, n_parts = <int>light.shape[0]
    must_fit(
        n_parts > 0 and lefts.shape[0] == n_parts + 1 and light.shape[1] == 3 and lefts[0] >= 0,
        "measure_light")
    for j in range(n_parts):
        must_fit(lefts[j] < lefts[j + 1], "measure_light")
    cdef wbc_tile tile = tile_of(
        field, factor, top, 0, <Py_ssize_t>bottom - top, lefts[n_parts])
    with nogil:
        status = wbc_active().measure_light(&tile, n_parts, &lefts[0], &light[0, 0])
    check(status, "measure_light")


def stain_field(
    const uint8_t[:, :, ::1] field,         # IN (H, W, 3)
    int factor,
    int top,                                # of the reduced field
    int left,
    const int32_t[:, :, ::1] light,         # IN (rows, columns, 3)
    const int32_t[:, ::1] down,             # IN (2, height): part, weight of the next one
    const int32_t[:, ::1] across,           # IN (2, width)
    int16_t[:, :, ::1] density,             # OUT (3, height, width)
    int16_t[:, ::1] stained,                # OUT (height, width)
):
    """Densities of a tile of a field, and what is stained; see finder.c."""
    cdef int status
    cdef wbc_light lit
    cdef wbc_tile tile = tile_of(
        field, factor, top, left, stained.shape[0], stained.shape[1])
    must_fit(
        density.shape[0] == 3
        and density.shape[1] == down.shape[1] == stained.shape[0]
        and density.shape[2] == across.shape[1] == stained.shape[1]
        and down.shape[0] == across.shape[0] == 2
        and light.shape[0] > 0 and light.shape[1] > 0 and light.shape[2] == 3
        and lie_within(&light[0, 0, 0], light.shape[0] * light.shape[1] * 3, 0, MOST_LIGHT)
        and lie_within(&down[0, 0], down.shape[1], 0, <int>light.shape[0] - 1)
        and lie_within(&across[0, 0], across.shape[1], 0, <int>light.shape[1] - 1)
        and lie_within(&down[1, 0], down.shape[1], 0, 256)
        and lie_within(&across[1, 0], across.shape[1], 0, 256),
        "stain_field")
    lit.rows, lit.columns = <int>light.shape[0], <int>light.shape[1]
    lit.parts = &light[0, 0, 0]
    lit.row, lit.row_weight = &down[0, 0], &down[1, 0]
    lit.column, lit.column_weight = &across[0, 0], &across[1, 0]
    with nogil:
        status = wbc_active().stain_field(&tile, &lit, &density[0, 0, 0], &stained[0, 0])
    check(status, "stain_field")


def find_leukocytes(
    const int16_t[:, :, ::1] density,  # IN (3, height, width)
    const int16_t[:, ::1] stained,     # IN (height, width)
    double unit,
    int foreground,
    double red_cells,
    double level,
    int n_densest,
    int low,
    double contrast,
    double colour,
    int32_t[:, ::1] nuclei,            # OUT (height, width)
    int32_t[:, ::1] cells,             # OUT (height, width)
    double[:, ::1] found,              # OUT (most, 9)
):
    """Leukocytes of a tile: how many. Rows of `found`: sums of rows and columns of the nucleus and
    its area, area of the cell, mean of what is stained of the nucleus, box of the cell; see
    finder.c."""
    cdef int status, n_found = 0
    cdef wbc_finder job
    must_fit(
        density.shape[0] == 3
        and density.shape[1] == nuclei.shape[0] == cells.shape[0] == stained.shape[0]
        and density.shape[2] == nuclei.shape[1] == cells.shape[1] == stained.shape[1]
        and stained.shape[0] > 0 and 0 < stained.shape[1] <= MOST_VALUES // stained.shape[0]
        and 1 <= unit <= 64  # the blur of a nucleus fits an int
        and found.shape[0] * 0.16 * unit * unit >= stained.shape[0] * stained.shape[1]
        and found.shape[1] * sizeof(double) == sizeof(wbc_found)
        and low >= 0 and 0 <= red_cells <= MOST_STAINED and 0 <= level <= 1
        and is_stained(&stained[0, 0], stained.shape[0] * stained.shape[1]),
        "find_leukocytes")
    job.height, job.width = <int>stained.shape[0], <int>stained.shape[1]
    job.density, job.stained = &density[0, 0, 0], &stained[0, 0]
    job.unit, job.foreground = unit, foreground
    job.red_cells, job.level = red_cells, level
    job.n_densest, job.low = n_densest, low
    job.contrast, job.colour = contrast, colour
    job.nuclei, job.cells = &nuclei[0, 0], &cells[0, 0]
    job.found = <wbc_found *>&found[0, 0]
    with nogil:
        status = wbc_active().find_leukocytes(&job, &n_found)
    check(status, "find_leukocytes")
    return n_found
