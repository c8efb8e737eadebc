/* Encode every window of an image and pool the codes, without storing windows or codes.
 *
 *     a = (W x) / s + b,   z = g f(a),   statistics of z over the windows of each pooling cell
 *
 * x is a patch x patch x channels window, s its contrast (or 1), f the nonlinearity.
 *
 * The patch is cut into taps x taps cells of cell x cell pixels. Windows that lie `dilation` steps
 * apart are one cell apart, so W x is a filter of taps x taps over cells, with n_features numbers
 * per cell, and Cook-Toom filtering yields tile x tile windows from points^2 products per feature,
 * points = tile + taps - 1, where the plain form takes (tile * taps)^2:
 *
 *     Y = A' [ sum over features of (G w G') .* (B' d B) ] A      d: points x points cells
 *
 * The cases:
 *     step divides patch       cell = step, dilation = 1
 *     small steps              cell = dilation * step: dilation^2 interleaved grids of windows
 *     cells do not fill patch  the filters are padded with zeros, so is the image
 *     direct form              cell = patch, taps = tile = points = 1: no transform at all
 *     projected cells          each cell is first multiplied by a matrix with fewer columns
 *
 * Pixels are taken relative to the first pixel of the image, whose response is added to b. Uniform
 * images thus give exactly equal codes, and float32 spends its digits on what differs.
 *
 * The image is walked in strips of tile rows that bound the memory. Of each strip
 *     gather     copies pixels to cells                    cells[row][column][feature]
 *     transform  computes B' d B                           values[tiles][point][feature][tile]
 * then for 32 signatures, whose filters stay in the second-level cache, and TILES tiles
 *     multiply   is a register-blocked product per point   -> products[point of a column][tile]
 *     columns    A' times a column of points               -> half[row of tile][column][tile]
 *     rows       times A, giving the tile's responses Y
 *     activate   gives its codes
 *     pool       adds them to the statistics.
 *
 * Threads take whole images, or share the loops of one image where there are fewer images than
 * threads. Every number is computed in the same order either way.
 */
#include "simd.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    BLOCK = WBC_SIGNATURE_BLOCK,
    MAX_POINTS = WBC_MAX_POINTS,
    ALIGNMENT = 64, /* bytes */
    LINE_FLOATS = 16, /* of a cache line */
    PREFETCH_FEATURES = 64, /* filters this far ahead: + 5 % over the hardware's prefetching */
    STRIP_FLOATS = 1 << 20, /* transformed tiles of a strip, unless one row of tiles is more */
};

/* How the windows are walked: the same for every image of a call. */
typedef struct {
    int points;       /* of a tile, per axis */
    int lanes;        /* n_features rounded up to WIDTH */
    int span;         /* windows from a tile to the next of its grid */
    int tiles_across; /* per grid */
    int bands_per_strip, n_strips; /* band: the tiles that start within one span of rows */
    int cell_rows, cell_columns;   /* of a strip */
    size_t tile_size;              /* of transformed values */
    size_t cells_size, values_size, contrast_size;
} walk;

/* The first window of a tile. */
typedef struct {
    int row, column;
} tile_start;

/* What a thread works on. */
typedef struct {
    float *cells, *values, *contrast; /* shared by the threads of an image */
    tile_start *tiles;                /* from here on: its own */
    float *first, *colours, *shades, *pixels, *products, *half, *responses;
} buffers;

static int smaller(int a, int b) { return a < b ? a : b; }
static int divide_up(int a, int b) { return (a + b - 1) / b; }
static size_t pad(size_t size) { return (size + 15) / 16 * 16; }

static walk plan_walk(const wbc_encode_pool *job)
{
    walk w;
    w.points = job->tile + job->taps - 1;
    w.lanes = divide_up(job->n_features, WIDTH) * WIDTH;
    w.span = job->dilation * job->tile;
    w.tiles_across = divide_up(job->columns, w.span);
    w.tile_size = (size_t)w.points * w.points * w.lanes;

    const int n_bands = divide_up(job->rows, w.span);
    const size_t band_tiles = (size_t)job->dilation * job->dilation * w.tiles_across;
    const size_t bands = STRIP_FLOATS / (band_tiles * w.tile_size);
    w.bands_per_strip = bands < 1 ? 1 : bands > (size_t)n_bands ? n_bands : (int)bands;
    w.n_strips = divide_up(n_bands, w.bands_per_strip);

    const int reach = job->dilation * (job->taps - 1);
    w.cell_rows = w.bands_per_strip * w.span + reach;
    w.cell_columns = w.tiles_across * w.span + reach;
    const size_t strip_tiles = w.bands_per_strip * band_tiles;
    w.cells_size = pad((size_t)w.cell_rows * w.cell_columns * w.lanes);
    w.values_size = pad((strip_tiles + TILES) * w.tile_size);
    w.contrast_size = job->contrast_epsilon < 0 ? 0 : pad((size_t)job->rows * job->columns);
    return w;
}

/* The tiles of a strip that hold at least one window; returns how many. */
static int list_tiles(const wbc_encode_pool *job, const walk *w, int strip, tile_start *tiles)
{
    const int first = strip * w->bands_per_strip * w->span;
    const int end = smaller(first + w->bands_per_strip * w->span, job->rows);
    int n = 0;
    for (int band = first; band < end; band += w->span)
        for (int row = band; row < smaller(band + job->dilation, job->rows); row++)
            for (int grid = 0; grid < job->dilation; grid++)
                for (int column = grid; column < job->columns; column += w->span)
                    tiles[n++] = (tile_start){row, column};
    return n;
}

/* Calls call(n) with n, the points of a tile, as a constant. */
#define SWITCH_POINTS(n, call)  \
    switch (n) {                \
    case 1: call(1); break;     \
    case 3: call(3); break;     \
    case 4: call(4); break;     \
    case 5: call(5); break;     \
    case 6: call(6); break;     \
    case 7: call(7); break;     \
    case 8: call(8); break;     \
    }

/* ---- pixels to cells ---- */

/* One channel of read_row's lookup table: what becomes of each byte, or what floats lose. */
static void fill_lookup(const wbc_encode_pool *job, float origin, float *lookup)
{
    lookup[0] = origin;
    for (int byte = 0; job->bytes && byte < 256; byte++)
        lookup[byte] = job->pixel_table[byte] - origin;
}

/* The first pixel, and the lookup tables: colours relative to it, shades relative to its first
 * channel. */
static void prepare_lookup(const wbc_encode_pool *job, const buffers *own, size_t image)
{
    const size_t start = image * job->height * job->width * job->channels;
    for (int channel = 0; channel < job->channels; channel++) {
        own->first[channel] = job->bytes ? job->pixel_table[job->bytes[start + channel]]
                                         : job->floats[start + channel];
        fill_lookup(job, own->first[channel], own->colours + 256 * channel);
        fill_lookup(job, own->first[0], own->shades + 256 * channel);
    }
}

/* A row of an image through a lookup table. */
static void read_row(const wbc_encode_pool *job, const float *lookup, size_t image, int row,
                     float *target)
{
    const int channels = job->channels, line = job->width * channels;
    const size_t start = (image * job->height + row) * line;
    for (int channel = 0; channel < channels; channel++, lookup += 256)
        if (job->bytes)
            for (int i = channel; i < line; i += channels)
                target[i] = lookup[job->bytes[start + i]];
        else
            for (int i = channel; i < line; i += channels)
                target[i] = job->floats[start + i] - lookup[0];
}

static void project_cell(const wbc_encode_pool *job, const walk *w, const float *pixels,
                         float *target)
{
    const int n_pixels = job->cell * job->cell * job->channels;
    memset(target, 0, sizeof(float) * w->lanes);
    for (int pixel = 0; pixel < n_pixels; pixel++)
        for (int feature = 0; feature < job->n_features; feature++)
            target[feature] += pixels[pixel] * job->projection[pixel * job->n_features + feature];
}

/* A row of cells of a strip; zeros past the edges of the image. */
static void gather(const wbc_encode_pool *job, const walk *w, const buffers *own, size_t image,
                   int strip, int row)
{
    const int side = job->cell, channels = job->channels;
    const int line = side * channels, image_line = job->width * channels;
    const int first = strip * w->bands_per_strip * w->span;
    const int n_pixels = line * side, cell_size = job->projection ? n_pixels : w->lanes;
    float *target = own->cells + (size_t)row * w->cell_columns * w->lanes;
    float *cells = job->projection ? own->pixels + image_line : target;
    memset(cells, 0, sizeof(float) * w->cell_columns * cell_size);
    for (int y = 0; y < side; y++) {
        const int image_row = (first + row) * job->step + y;
        if (image_row >= job->height)
            break;
        read_row(job, own->colours, image, image_row, own->pixels);
        for (int column = 0; column < w->cell_columns; column++) {
            const int left = column * job->step * channels;
            if (left >= image_line)
                break;
            memcpy(cells + (size_t)column * cell_size + y * line, own->pixels + left,
                   sizeof(float) * smaller(line, image_line - left));
        }
    }
    if (job->projection)
        for (int column = 0; column < w->cell_columns; column++)
            project_cell(job, w, cells + (size_t)column * n_pixels,
                         target + (size_t)column * w->lanes);
}

/* ---- contrast ---- */

/* 1 / sqrt(variance + epsilon) of every window of a row. */
static void measure_contrast(const wbc_encode_pool *job, const buffers *own, size_t image, int row)
{
    const int line = job->width * job->channels, span = job->patch * job->channels;
    const double count = (double)job->patch * span;
    double *sums = (double *)own->pixels, *squares = sums + line;
    float *values = (float *)(squares + line);
    memset(sums, 0, 2 * line * sizeof *sums);
    for (int y = 0; y < job->patch; y++) {
        read_row(job, own->shades, image, row * job->step + y, values);
        for (int i = 0; i < line; i++) {
            const double value = values[i];
            sums[i] += value;
            squares[i] += value * value;
        }
    }
    for (int column = 0; column < job->columns; column++) {
        double sum = 0, square = 0;
        for (int i = 0; i < span; i++) {
            sum += sums[column * job->step * job->channels + i];
            square += squares[column * job->step * job->channels + i];
        }
        const double variance = square / count - sum / count * (sum / count);
        own->contrast[(size_t)row * job->columns + column] =
            (float)(1 / sqrt((variance > 0 ? variance : 0) + job->contrast_epsilon));
    }
}

/* ---- cells to transformed tiles ---- */

/* target[i] = sum over j of B'[i][j] source[j] */
INLINE void combine(int n, const float *matrix, const vec *source, int stride, vec *target)
{
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        vec sum = vec_set(0);
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            sum = vec_fma(vec_set(matrix[i * n + j]), source[j * stride], sum);
        target[i * stride] = sum;
    }
}

/* One tile: values[point of a column, then of a row][vector of features][tile][feature]. */
INLINE void transform_tile(int n, const wbc_encode_pool *job, const walk *w, const float *cells,
                           float *values)
{
    const size_t right = (size_t)job->dilation * w->lanes, down = right * w->cell_columns;
    for (int lane = 0; lane < w->lanes; lane += WIDTH) {
        vec tile[MAX_POINTS * MAX_POINTS], half[MAX_POINTS * MAX_POINTS];
        for (int y = 0; y < n; y++)
            for (int x = 0; x < n; x++)
                tile[x * n + y] = vec_load(cells + y * down + x * right + lane);
        for (int y = 0; y < n; y++)
            combine(n, job->input_transform, tile + y, n, half + y);
        for (int x = 0; x < n; x++)
            combine(n, job->input_transform, half + x * n, 1, tile + x * n);
        for (int point = 0; point < n * n; point++)
            vec_store(values + ((size_t)point * w->lanes + lane) * TILES, tile[point]);
    }
}

static void transform(const wbc_encode_pool *job, const walk *w, const buffers *own, int strip,
                      int index)
{
    const tile_start start = own->tiles[index];
    const int row = start.row - strip * w->bands_per_strip * w->span;
    const float *cells = own->cells + ((size_t)row * w->cell_columns + start.column) * w->lanes;
    float *values = own->values + index / TILES * TILES * w->tile_size + index % TILES * WIDTH;
#define CALL(N) transform_tile(N, job, w, cells, values)
    SWITCH_POINTS(w->points, CALL)
#undef CALL
}

/* ---- products ---- */

/* products[tile][signature] = sum over features of values * filters, for `n` tiles and the
 * signatures of two vectors. */
INLINE void multiply(int n, int n_features, const float *values, const float *filters,
                     float *products)
{
    vec sum[MAX_TILES][2];
    for (int tile = 0; tile < n; tile++)
        sum[tile][0] = sum[tile][1] = vec_set(0);
    for (int feature = 0; feature < n_features; feature += WIDTH) {
        const int end = smaller(n_features - feature, WIDTH);
        for (int lane = 0; lane < end; lane++, values++, filters += BLOCK) {
            for (int i = 0; i < 2 * WIDTH; i += LINE_FLOATS)
                __builtin_prefetch(filters + PREFETCH_FEATURES * BLOCK + i);
            const vec left = vec_load(filters), right = vec_load(filters + WIDTH);
#pragma GCC unroll 16
            for (int tile = 0; tile < n; tile++) {
                const vec value = vec_set(values[tile * WIDTH]);
                sum[tile][0] = vec_fma(value, left, sum[tile][0]);
                sum[tile][1] = vec_fma(value, right, sum[tile][1]);
            }
        }
        values += (TILES - 1) * WIDTH;
    }
    for (int tile = 0; tile < n; tile++) {
        vec_store(products + tile * BLOCK, sum[tile][0]);
        vec_store(products + tile * BLOCK + WIDTH, sum[tile][1]);
    }
}

static void multiply_block(int n, int n_features, const float *values, const float *filters,
                           float *products)
{
    for (int i = 0; i < BLOCK; i += 2 * WIDTH)
        switch (n) {
#define CASE(N)                                                            \
    case N:                                                                \
        multiply(N, n_features, values, filters + i, products + i);        \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if MAX_TILES > 6
            CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#if MAX_TILES > 12
            CASE(13) CASE(14)
#endif
#undef CASE
        }
}

/* ---- products to responses ---- */

/* target[i] = sum over j of A'[i][j] source[j]. The points are 0, pairs a and -a, one more if n is
 * odd, infinity: rows of even i see a pair only through its sum, rows of odd i its difference. */
INLINE void shorten(int n, int m, const float *matrix, const float *source, size_t source_stride,
                    float *target, size_t target_stride)
{
    if (n == 1) {
        vec_store(target, vec_load(source));
        return;
    }
    enum { MAX_PAIRS = MAX_POINTS / 2 };
    const int n_pairs = (n - 2) / 2;
    vec even[MAX_PAIRS], odd[MAX_PAIRS];
    for (int pair = 0; pair < n_pairs; pair++) {
        const vec plus = vec_load(source + (2 * pair + 1) * source_stride);
        const vec minus = vec_load(source + (2 * pair + 2) * source_stride);
        even[pair] = plus + minus;
        odd[pair] = plus - minus;
    }
    const vec zero = vec_load(source), single = vec_load(source + (n - 2) * source_stride);
    const vec infinity = vec_load(source + (n - 1) * source_stride);
    for (int i = 0; i < m; i++) {
        const float *row = matrix + i * n;
        vec sum = i == 0 ? zero : i == m - 1 ? infinity : vec_set(0);
        if (n % 2)
            sum = vec_fma(vec_set(row[n - 2]), single, sum);
        for (int pair = 0; pair < n_pairs; pair++)
            sum = vec_fma(vec_set(row[2 * pair + 1]), i % 2 ? odd[pair] : even[pair], sum);
        vec_store(target + i * target_stride, sum);
    }
}

/* half[row of tile][point of a row][tile][signature] for one point of a row. */
INLINE void shorten_columns(int n, const wbc_encode_pool *job, const float *products, int n_tiles,
                            float *half)
{
    for (int i = 0; i < n_tiles * BLOCK; i += WIDTH)
        shorten(n, job->tile, job->output_transform, products + i, TILES * BLOCK, half + i,
                (size_t)n * TILES * BLOCK);
}

/* responses[row of tile][column of tile][WIDTH signatures] of one tile. */
INLINE void shorten_rows(int n, const wbc_encode_pool *job, const float *half, float *responses)
{
    for (int row = 0; row < job->tile; row++)
        shorten(n, job->tile, job->output_transform, half + (size_t)row * n * TILES * BLOCK,
                TILES * BLOCK, responses + row * job->tile * WIDTH, WIDTH);
}

static void shorten_columns_any(const walk *w, const wbc_encode_pool *job, const float *products,
                                int n_tiles, float *half)
{
#define CALL(N) shorten_columns(N, job, products, n_tiles, half)
    SWITCH_POINTS(w->points, CALL)
#undef CALL
}

static void shorten_rows_any(const walk *w, const wbc_encode_pool *job, const float *half,
                             float *responses)
{
#define CALL(N) shorten_rows(N, job, half, responses)
    SWITCH_POINTS(w->points, CALL)
#undef CALL
}

/* ---- responses to codes ---- */

/* What the tail needs of the WIDTH signatures at hand. */
typedef struct {
    vec first, offset, gain, threshold; /* first: response to the first pixel's colour */
    size_t place;                       /* in the statistics of the image's first pooling cell */
} unit;

/* Turns W x into the argument of the nonlinearity. */
static void rescale(const wbc_encode_pool *job, const buffers *own, const unit *u, tile_start start,
                    float *responses)
{
    const int m = job->tile;
    if (job->contrast_epsilon < 0) {
        const vec offset = u->first + u->offset;
        for (int i = 0; i < m * m; i++)
            vec_store(responses + i * WIDTH, vec_load(responses + i * WIDTH) + offset);
        return;
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            const int row = start.row + i * job->dilation, column = start.column + j * job->dilation;
            if (row >= job->rows || column >= job->columns)
                continue;
            const vec contrast = vec_set(own->contrast[(size_t)row * job->columns + column]);
            float *response = responses + (i * m + j) * WIDTH;
            vec_store(response, vec_fma(vec_load(response) + u->first, contrast, u->offset));
        }
}

static void activate(const wbc_encode_pool *job, const unit *u, const float *responses, float *codes)
{
    const int end = job->tile * job->tile * WIDTH;
    const vec one = vec_set(1), log2e = vec_set(1.44269504f), zero = vec_set(0);
    switch (job->nonlinearity) {
    case WBC_SIGMOID:
        for (int i = 0; i < end; i += WIDTH)
            vec_store(codes + i, u->gain / (one + vec_exp2(-log2e * vec_load(responses + i))));
        break;
    case WBC_TANH:
        for (int i = 0; i < end; i += WIDTH) {
            const vec square = vec_exp2((log2e + log2e) * vec_load(responses + i));
            vec_store(codes + i, u->gain - (u->gain + u->gain) / (one + square));
        }
        break;
    case WBC_RECTIFIED:
        for (int i = 0; i < end; i += WIDTH)
            vec_store(codes + i, u->gain * vec_max(vec_load(responses + i), zero));
        break;
    case WBC_SOFT_THRESHOLD:
        for (int i = 0; i < end; i += WIDTH) {
            const vec a = vec_load(responses + i);
            vec_store(codes + i,
                      u->gain * (a - vec_min(vec_max(a, -u->threshold), u->threshold)));
        }
        break;
    }
}

/* ---- codes to statistics ---- */

/* Of a run of windows of one pooling cell. Sums are taken about the cell's first code: equal codes
 * have exactly no variance. */
typedef struct {
    vec shift, sum, square, max, active;
} statistics;

INLINE statistics start_run(const wbc_encode_pool *job, size_t place, vec code)
{
    statistics run = {vec_set(0), vec_set(0), vec_set(0), vec_set(-HUGE_VALF), vec_set(0)};
    if (job->sum) {
        if (isnan(job->shift[place]))
            vec_store(job->shift + place, code);
        run.shift = vec_load(job->shift + place);
    }
    return run;
}

INLINE void end_run(const wbc_encode_pool *job, size_t place, const statistics *run)
{
    if (job->sum)
        vec_store(job->sum + place, vec_load(job->sum + place) + run->sum);
    if (job->square)
        vec_store(job->square + place, vec_load(job->square + place) + run->square);
    if (job->max)
        vec_store(job->max + place, vec_max(vec_load(job->max + place), run->max));
    if (job->active)
        vec_store(job->active + place, vec_load(job->active + place) + run->active);
}

INLINE void pool(const wbc_encode_pool *job, int sums_only, const unit *u, tile_start start,
                 const float *responses, const float *codes)
{
    const int m = job->tile;
    statistics run = {0};
    size_t place = SIZE_MAX;
    for (int i = 0, row = start.row; i < m && row < job->rows; i++, row += job->dilation) {
        const int first_cell = job->cell_of_row[row] * job->pool_columns;
        for (int j = 0, column = start.column; j < m && column < job->columns;
             j++, column += job->dilation) {
            const vec code = vec_load(codes + (i * m + j) * WIDTH);
            const int cell = first_cell + job->cell_of_column[column];
            const size_t code_place = u->place + (size_t)cell * job->n_signatures;
            if (code_place != place) {
                if (place != SIZE_MAX)
                    end_run(job, place, &run);
                place = code_place;
                run = start_run(job, place, code);
            }
            const vec change = code - run.shift;
            run.sum += change;
            if (sums_only)
                continue;
            run.square = vec_fma(change, change, run.square);
            run.max = vec_max(run.max, code);
            const vec a = vec_load(responses + (i * m + j) * WIDTH);
            const vec strength = job->nonlinearity == WBC_SOFT_THRESHOLD ? vec_max(a, -a) : a;
            run.active += vec_greater(strength, u->threshold);
        }
    }
    end_run(job, place, &run);
}

/* Everything after the products, for one tile and WIDTH signatures. */
static void finish(const wbc_encode_pool *job, const buffers *own, const unit *u, tile_start start)
{
    float *responses = own->responses, *codes = responses + job->tile * job->tile * WIDTH;
    rescale(job, own, u, start, responses);
    activate(job, u, responses, codes);
    if (job->square || job->max || job->active)
        pool(job, 0, u, start, responses, codes);
    else
        pool(job, 1, u, start, responses, codes);
}

static unit prepare_unit(const wbc_encode_pool *job, const buffers *own, size_t image, int signature)
{
    float first[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        double sum = 0;
        for (int channel = 0; channel < job->channels; channel++)
            sum += (double)own->first[channel] *
                   job->colour[(size_t)(signature + i) * job->channels + channel];
        first[i] = (float)sum;
    }
    return (unit){
        .first = vec_load(first),
        .offset = vec_load(job->offset + signature),
        .gain = vec_load(job->gain + signature),
        .threshold = vec_load(job->threshold + signature),
        .place = image * job->n_pool_cells * job->n_signatures + signature,
    };
}

/* ---- the walk ---- */

/* Codes of the n_tiles tiles of a strip for one block of signatures, added to the statistics. */
static void encode_block(const wbc_encode_pool *job, const walk *w, const buffers *own,
                         size_t image, int block, int n_tiles)
{
    const int n = w->points;
    const float *block_filters =
        job->filters + (size_t)block * n * n * job->n_features * BLOCK;
    unit units[BLOCK / WIDTH];
    for (int v = 0; v < BLOCK / WIDTH; v++)
        units[v] = prepare_unit(job, own, image, block * BLOCK + v * WIDTH);
    for (int group = 0; group < n_tiles; group += TILES) {
        const int count = smaller(n_tiles - group, TILES);
        const float *values = own->values + group * w->tile_size, *filters = block_filters;
        for (int x = 0; x < n; x++) {
            for (int y = 0; y < n; y++) {
                multiply_block(count, job->n_features, values, filters,
                               own->products + y * TILES * BLOCK);
                values += w->lanes * TILES;
                filters += (size_t)job->n_features * BLOCK;
            }
            shorten_columns_any(w, job, own->products, count, own->half + x * TILES * BLOCK);
        }
        for (int tile = 0; tile < count; tile++)
            for (int v = 0; v < BLOCK / WIDTH; v++) {
                const int at = tile * BLOCK + v * WIDTH;
                shorten_rows_any(w, job, own->half + at, own->responses);
                finish(job, own, &units[v], own->tiles[group + tile]);
            }
    }
}

/* One image, by all threads of the parallel region. */
static void encode_image(const wbc_encode_pool *job, const walk *w, const buffers *own,
                         size_t image)
{
    prepare_lookup(job, own, image);
    if (job->contrast_epsilon >= 0) {
#pragma omp for nowait
        for (int row = 0; row < job->rows; row++)
            measure_contrast(job, own, image, row);
    }
    for (int strip = 0; strip < w->n_strips; strip++) {
        const int n_tiles = list_tiles(job, w, strip, own->tiles);
#pragma omp for
        for (int row = 0; row < w->cell_rows; row++)
            gather(job, w, own, image, strip, row);
#pragma omp for
        for (int index = 0; index < n_tiles; index++)
            transform(job, w, own, strip, index);
#pragma omp for schedule(dynamic)
        for (int block = 0; block < job->n_signatures / BLOCK; block++)
            encode_block(job, w, own, image, block, n_tiles);
    }
}

/* Teams of threads take images; there is more than one thread in a team only if there is one team. */
static int encode_pool(const wbc_encode_pool *job, int n_threads)
{
    const walk w = plan_walk(job);
    const int n_teams = job->n_images < n_threads ? 1 : n_threads;
    const int n_members = n_threads / n_teams;
    const size_t n = w.points, m = job->tile, line = (size_t)job->width * job->channels;
    const size_t cell_pixels = (size_t)job->cell * job->cell * job->channels;
    const size_t sizes[] = {
        pad(job->channels),
        pad(256 * (size_t)job->channels),
        pad(256 * (size_t)job->channels),
        pad(5 * line + (job->projection ? w.cell_columns * cell_pixels : 0)),
        n * TILES * BLOCK,
        m * n * TILES * BLOCK,
        2 * m * m * WIDTH,
    };
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    size_t own_size = 0;
    for (int i = 0; i < N_SIZES; i++)
        own_size += sizes[i];
    const size_t shared_size = w.cells_size + w.values_size + w.contrast_size;
    const size_t max_tiles = w.values_size / w.tile_size + 1;

    void *allocated =
        malloc(sizeof(float) * (n_teams * shared_size + n_threads * own_size) + ALIGNMENT);
    float *memory = (float *)(((uintptr_t)allocated + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    tile_start *tiles = malloc(n_threads * max_tiles * sizeof *tiles);
    const int status = allocated && tiles ? WBC_OK : WBC_OUT_OF_MEMORY;
    if (status == WBC_OK) {
#pragma omp parallel for num_threads(n_teams) schedule(dynamic)
        for (int image = 0; image < job->n_images; image++) {
            const int team = omp_get_thread_num();
#pragma omp parallel num_threads(n_members)
            {
                const int thread = team + omp_get_thread_num();
                buffers own = {.tiles = tiles + thread * max_tiles};
                own.cells = memory + team * shared_size;
                own.values = own.cells + w.cells_size;
                own.contrast = own.values + w.values_size;
                float **parts[] = {&own.first,    &own.colours, &own.shades,   &own.pixels,
                                   &own.products, &own.half,    &own.responses};
                float *next = memory + n_teams * shared_size + thread * own_size;
                for (int i = 0; i < N_SIZES; next += sizes[i], i++)
                    *parts[i] = next;
                encode_image(job, &w, &own, image);
            }
        }
    }
    free(allocated);
    free(tiles);
    return status;
}
