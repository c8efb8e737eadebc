/* Encode every window of an image and pool the codes, without storing windows or codes.
 *
 *     a = (W x) / s + b,   z = g f(a),   statistics of z over the windows of each part of the image
 *
 * x is a patch x patch x channels window, s its contrast (or 1), f the nonlinearity.
 *
 * The patch is cut into taps x taps tap squares of square x square pixels. Windows that lie
 * `dilation` steps apart are one square apart, so W x is a filter of taps x taps over squares, with
 * n_features numbers per square. Cook-Toom filtering yields a tile of m x n windows from
 * (m + taps - 1) (n + taps - 1) products per feature, where the plain form takes m n taps^2:
 *
 *     Y = A' [ sum over features of (G w G') .* (B' d B) ] A
 *
 * d are the squares of the tile. The matrices on the left are those of its height, the matrices on
 * the right those of its width. G evaluates the filter, as a polynomial, at the points infinity, 0,
 * 1, -1, 2, -2, 1/2, -1/2, as many as the longest tile needs; a shorter tile uses the first of the
 * points, and the same transformed filters. An axis is cut into the fewest tiles, of lengths that
 * differ by one at most, and no window past the edge is ever computed.
 *
 * The cases:
 *     step divides patch         square = step, dilation = 1
 *     small steps                square = dilation * step: dilation^2 interleaved grids of windows
 *     squares do not fill patch  the filters are padded with zeros, so is the image
 *     direct form                square = patch, taps = tile = 1, one point: no transform at all
 *     projected squares          each is first multiplied by a matrix with fewer columns
 *
 * Pixels are taken relative to the first pixel of the image, whose response is added to b. Uniform
 * images thus give exactly equal codes, and float32 spends its digits on what differs.
 *
 * The image is walked in strips of tile rows that bound the memory. Of each strip
 *     gather     copies pixels to squares                  squares[row][column][feature]
 *     transform  computes B' d B                           values[tiles][point][feature][tile]
 * then for 32 signatures, whose filters stay in the second-level cache, and TILES tiles
 *     multiply   is a register-blocked product per point   products[point of a column][tile]
 *     shorten    multiplies columns of points by A'        half[row][point of a row][tile]
 *     shorten    multiplies rows of those by A             responses[row][column]
 *     finish     gives their codes, added to the statistics part by part.
 *
 * Threads take whole images, or share the loops of one image where there are fewer images than
 * threads or an image takes long. Every number is computed in the same order either way.
 */
#include "interrupt.h"
#include "multiply.h"

#include <math.h>
#include <stdlib.h>

/* rows x columns windows, the first of them at (row, column), `dilation` apart. */
typedef struct {
    int row, column, rows, columns;
} tile;

/* A window of a tile: its place there, counted by row, and the part that it belongs to. */
typedef struct {
    int32_t place, part;
} member;

/* How the windows are walked: the same for every image of a call. */
typedef struct {
    int points;                   /* of the longest tile, per axis */
    int lanes;                    /* n_features rounded up to WIDTH */
    int tiles_down, tiles_across; /* of one grid of windows */
    int strip_bands, n_strips;    /* band: a row of tiles of every grid */
    int square_rows, square_columns; /* of a strip, at most */
    size_t strip_tiles;              /* at most */
    /* in floats: */
    size_t tile_size; /* transformed values of a tile */
    size_t squares_size, values_size, contrast_size;
} walk;

/* One strip: its squares start at the window row first_row. Its tiles are taken in groups of
 * `group`, at most TILES. */
typedef struct {
    int first_row, square_rows, n_tiles, group;
} strip;

/* What a thread works on. */
typedef struct {
    patience *waiting;                  /* shared by all threads */
    int is_caller;                      /* the thread that called encode_pool */
    float *squares, *values, *contrast; /* shared by the threads of an image */
    tile *tiles;                        /* from here on: its own */
    member *members;                    /* of each tile, tile * tile, by rising part */
    float *first, *colours, *shades, *pixels, *products, *half, *responses;
} buffers;

static int larger(int a, int b) { return a > b ? a : b; }
static int divide_up(int a, int b) { return (a + b - 1) / b; }
static size_t pad(size_t size) { return (size + 15) / 16 * 16; }

enum { STRIP_FLOATS = 1 << 19 }; /* transformed tiles of a strip, unless one row of tiles is more */

static walk plan_walk(const wbc_encode_pool *job)
{
    walk w;
    const int dilation = job->dilation, reach = dilation * (job->taps - 1);
    w.points = job->tile + job->taps - 1;
    w.lanes = divide_up(job->n_features, WIDTH) * WIDTH;
    w.tile_size = (size_t)w.points * w.points * w.lanes;
    w.tiles_down = divide_up(divide_up(job->rows, dilation), job->tile);
    w.tiles_across = divide_up(divide_up(job->columns, dilation), job->tile);

    const size_t band_tiles = (size_t)dilation * dilation * w.tiles_across;
    const size_t bands = STRIP_FLOATS / (band_tiles * w.tile_size);
    w.strip_bands = bands < 1 ? 1 : bands > (size_t)w.tiles_down ? w.tiles_down : (int)bands;
    w.n_strips = divide_up(w.tiles_down, w.strip_bands);
    w.strip_tiles = w.strip_bands * band_tiles;

    /* Grids of one window more or less cut their tiles up to two windows apart. */
    w.square_rows = smaller(job->rows, dilation * (w.strip_bands * job->tile + 2)) + reach;
    w.square_columns = job->columns + reach;
    w.squares_size = pad((size_t)w.square_rows * w.square_columns * w.lanes);
    w.values_size = pad((w.strip_tiles + TILES) * w.tile_size);
    w.contrast_size = job->contrast_epsilon < 0 ? 0 : pad((size_t)job->rows * job->columns);
    return w;
}

/* Shares the windows grid, grid + dilation, ... below n_windows among n_tiles tiles: the first
 * window of tile `index`, and how many it has. */
static int cut(int n_windows, int dilation, int grid, int n_tiles, int index, int *count)
{
    const long long n = (n_windows - grid + dilation - 1) / dilation;
    const int start = (int)(index * n / n_tiles), end = (int)((index + 1) * n / n_tiles);
    *count = end - start;
    return grid + dilation * start;
}

/* Tiles of a strip, the highest first and among them the widest first: tiles of one group then use
 * nearly the same points. */
static strip list_tiles(const wbc_encode_pool *job, const walk *w, int index, tile *tiles)
{
    const int first_band = index * w->strip_bands, d = job->dilation;
    const int end_band = smaller(first_band + w->strip_bands, w->tiles_down);
    strip s = {.first_row = job->rows};
    int end_row = 0;
    for (int rows = job->tile; rows > 0; rows--)
        for (int columns = job->tile; columns > 0; columns--)
            for (int band = first_band; band < end_band; band++)
                for (int y = 0; y < smaller(d, job->rows); y++) {
                    tile t;
                    t.row = cut(job->rows, d, y, w->tiles_down, band, &t.rows);
                    if (t.rows != rows)
                        continue;
                    s.first_row = smaller(s.first_row, t.row);
                    end_row = larger(end_row, t.row + d * (rows - 1 + job->taps - 1) + 1);
                    for (int x = 0; x < smaller(d, job->columns); x++)
                        for (int across = 0; across < w->tiles_across; across++) {
                            t.column =
                                cut(job->columns, d, x, w->tiles_across, across, &t.columns);
                            if (t.columns == columns)
                                tiles[s.n_tiles++] = t;
                        }
                }
    s.square_rows = end_row - s.first_row;
    s.group = divide_up(s.n_tiles, divide_up(s.n_tiles, TILES));
    return s;
}

/* The windows of every tile by rising part, those of one part in their order. */
static void list_members(const wbc_encode_pool *job, const strip *s, const buffers *own)
{
    const int most = job->tile * job->tile;
    for (int index = 0; index < s->n_tiles; index++) {
        const tile t = own->tiles[index];
        member *members = own->members + (size_t)index * most;
        for (int place = 0; place < t.rows * t.columns; place++) {
            const size_t row = t.row + place / t.columns * job->dilation;
            const size_t column = t.column + place % t.columns * job->dilation;
            const int32_t part = job->part_of_window[row * job->columns + column];
            int at = place;
            for (; at > 0 && members[at - 1].part > part; at--)
                members[at] = members[at - 1];
            members[at] = (member){place, part};
        }
    }
}

/* Calls call(n) with n, a number of points, as a constant. */
#define SWITCH_POINTS(n, call)  \
    switch (n) {                \
    case 1: call(1); break;     \
    case 2: call(2); break;     \
    case 3: call(3); break;     \
    case 4: call(4); break;     \
    case 5: call(5); break;     \
    case 6: call(6); break;     \
    case 7: call(7); break;     \
    case 8: call(8); break;     \
    }

/* ---- pixels to squares ---- */

/* One channel of a lookup table for read_row: a byte's value less the origin at [byte]; for floats
 * the origin itself at [0]. */
static void fill_lookup(const wbc_encode_pool *job, float origin, float *lookup)
{
    lookup[0] = origin;
    for (int byte = 0; job->bytes && byte < 256; byte++)
        lookup[byte] = job->pixel_table[byte] - origin;
}

/* The first pixel, and two lookup tables: `colours` are relative to that pixel channel by channel,
 * `shades` all relative to its first channel. */
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

enum { PROJECTED = 8 }; /* squares at once: enough sums to hide the latency of one */

/* target[square][lane] = sum over pixels of pixels[square][pixel] * projection[pixel][lane], for n
 * squares. */
INLINE void project(const wbc_encode_pool *job, const walk *w, int n, const float *pixels,
                    float *target)
{
    const int n_pixels = job->square * job->square * job->channels;
    const size_t row = pad(job->n_features);
    for (int lane = 0; lane < w->lanes; lane += WIDTH) {
        const float *projection = job->projection + lane;
        vec sum[PROJECTED];
        for (int square = 0; square < n; square++)
            sum[square] = vec_set(0);
        for (int pixel = 0; pixel < n_pixels; pixel++, projection += row) {
            const vec weight = vec_load(projection);
#pragma GCC unroll 8
            for (int square = 0; square < n; square++)
                sum[square] =
                    vec_fma(vec_set(pixels[square * n_pixels + pixel]), weight, sum[square]);
        }
        for (int square = 0; square < n; square++)
            vec_store(target + (size_t)square * w->lanes + lane, sum[square]);
    }
}

static void project_squares(const wbc_encode_pool *job, const walk *w, int n, const float *pixels,
                            float *target)
{
    const size_t n_pixels = (size_t)job->square * job->square * job->channels;
    int square = 0;
    for (; square + PROJECTED <= n; square += PROJECTED)
        project(job, w, PROJECTED, pixels + square * n_pixels, target + square * w->lanes);
    for (; square < n; square++)
        project(job, w, 1, pixels + square * n_pixels, target + square * w->lanes);
}

/* A row of squares of a strip; zeros past the edges of the image. */
static void gather(const wbc_encode_pool *job, const walk *w, const buffers *own, size_t image,
                   const strip *s, int row)
{
    const int side = job->square, channels = job->channels;
    const int line = side * channels, image_line = job->width * channels;
    const int n_pixels = line * side, square_size = job->projection ? n_pixels : w->lanes;
    float *target = own->squares + (size_t)row * w->square_columns * w->lanes;
    float *squares = job->projection ? own->pixels + image_line : target;
    memset(squares, 0, sizeof(float) * w->square_columns * square_size);
    for (int y = 0; y < side; y++) {
        const int image_row = (s->first_row + row) * job->step + y;
        if (image_row >= job->height)
            break;
        read_row(job, own->colours, image, image_row, own->pixels);
        for (int column = 0; column < w->square_columns; column++) {
            const int left = column * job->step * channels;
            if (left >= image_line)
                break;
            memcpy(squares + (size_t)column * square_size + y * line, own->pixels + left,
                   sizeof(float) * smaller(line, image_line - left));
        }
    }
    if (job->projection)
        project_squares(job, w, w->square_columns, squares, target);
}

/* ---- contrast ---- */

/* 1 / sqrt(variance + epsilon) of every window of a row. */
static void measure_contrast(const wbc_encode_pool *job, const buffers *own, size_t image, int row)
{
    const int line = job->width * job->channels, span = job->patch * job->channels;
    const double count = (double)job->patch * span;
    double *sums = (double *)own->pixels, *powers = sums + line; /* of values, of their squares */
    float *values = (float *)(powers + line);
    memset(sums, 0, 2 * line * sizeof *sums);
    for (int y = 0; y < job->patch; y++) {
        read_row(job, own->shades, image, row * job->step + y, values);
        for (int i = 0; i < line; i++) {
            const double value = values[i];
            sums[i] += value;
            powers[i] += value * value;
        }
    }
    for (int column = 0; column < job->columns; column++) {
        double sum = 0, power = 0;
        for (int i = 0; i < span; i++) {
            sum += sums[column * job->step * job->channels + i];
            power += powers[column * job->step * job->channels + i];
        }
        const double variance = power / count - sum / count * (sum / count);
        own->contrast[(size_t)row * job->columns + column] =
            (float)(1 / sqrt((variance > 0 ? variance : 0) + job->contrast_epsilon));
    }
}

/* ---- squares to transformed tiles ---- */

/* target[i] = sum over j of B'[i][j] source[j], n x n, of `count` columns. Elements of a column lie
 * `stride` apart, columns `step` apart. */
INLINE void combine(int n, int count, int step, const float *matrix, int row, const vec *source,
                    vec *target, int stride)
{
    for (int k = 0; k < count; k++, source += step, target += step)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            vec sum = vec_set(0);
#pragma GCC unroll 8
            for (int j = 0; j < n; j++)
                sum = vec_fma(vec_set(matrix[i * row + j]), source[j * stride], sum);
            target[i * stride] = sum;
        }
}

/* values[point of a column, then of a row][vector of features][tile][feature of the vector] of
 * tile `index`, in the array of its group; zeros at the points that it does not use. */
static void transform(const wbc_encode_pool *job, const walk *w, const buffers *own, const strip *s,
                      int index)
{
    enum { N = WBC_MAX_POINTS };
    const tile t = own->tiles[index];
    const int rows = t.rows + job->taps - 1, columns = t.columns + job->taps - 1;
    const size_t right = (size_t)job->dilation * w->lanes, down = right * w->square_columns;
    const float *squares =
        own->squares + ((size_t)(t.row - s->first_row) * w->square_columns + t.column) * w->lanes;
    float *values = own->values + (size_t)(index / s->group) * TILES * w->tile_size +
                    index % s->group * WIDTH;
    const int n = w->points;
    const float *across = job->input_transforms + (t.columns - 1) * n * n;
    const float *along = job->input_transforms + (t.rows - 1) * n * n;
    for (int lane = 0; lane < w->lanes; lane += WIDTH) {
        vec a[N * N], b[N * N];
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++)
                a[x * N + y] = vec_load(squares + y * down + x * right + lane);
#define CALL(P) combine(P, rows, 1, across, n, a, b, N)
        SWITCH_POINTS(columns, CALL)
#undef CALL
#define CALL(P) combine(P, columns, N, along, n, b, a, 1)
        SWITCH_POINTS(rows, CALL)
#undef CALL
        for (int x = 0; x < n; x++)
            for (int y = 0; y < n; y++)
                vec_store(values + ((size_t)(x * n + y) * w->lanes + lane) * TILES,
                          x < columns && y < rows ? a[x * N + y] : vec_set(0));
    }
}

/* ---- products to responses ---- */

/* target[i] = sum over j of A'[i][j] source[j], i < m. The n points are infinity, 0, 1, -1, further
 * pairs a and -a, and one more if n is odd. A'[i][j] is point j to the power i, so rows of even i
 * see a pair through its sum, rows of odd i through its difference. */
INLINE void shorten(int n, int m, const float *matrix, int matrix_row, const float *source, size_t source_stride,
                    float *target, size_t target_stride)
{
    if (n == 1) {
        vec_store(target, vec_load(source));
        return;
    }
    enum { MAX_PAIRS = WBC_MAX_POINTS / 2 };
    const int n_pairs = (n - 2) / 2;
    vec even[MAX_PAIRS], odd[MAX_PAIRS];
#pragma GCC unroll 8
    for (int pair = 0; pair < n_pairs; pair++) {
        const vec plus = vec_load(source + (2 * pair + 2) * source_stride);
        const vec minus = vec_load(source + (2 * pair + 3) * source_stride);
        even[pair] = plus + minus;
        odd[pair] = plus - minus;
    }
    const vec infinity = vec_load(source), zero = vec_load(source + source_stride);
    const vec single = vec_load(source + (n - 1) * source_stride);
#pragma GCC unroll 8
    for (int i = 0; i < m; i++) {
        const float *row = matrix + i * matrix_row;
        vec sum = n_pairs == 0 ? vec_set(0) : i % 2 ? odd[0] : even[0];
#pragma GCC unroll 8
        for (int pair = 1; pair < n_pairs; pair++)
            sum = vec_fma(vec_set(row[2 * pair + 2]), i % 2 ? odd[pair] : even[pair], sum);
        if (n % 2)
            sum = vec_fma(vec_set(row[n - 1]), single, sum);
        if (i == 0)
            sum += zero;
        if (i == m - 1)
            sum += infinity;
        vec_store(target + i * target_stride, sum);
    }
}

/* Calls call(n, m) with n, a number of points, and m, of windows, as constants: m is less than n,
 * but for one point. */
#define SWITCH_BOTH(n, m, call)                                                                 \
    switch ((n) * WBC_MAX_POINTS + (m)) {                                                       \
        BOTH(1, 1, call) BOTH(2, 1, call)                                                       \
        BOTH(3, 1, call) BOTH(3, 2, call)                                                       \
        BOTH(4, 1, call) BOTH(4, 2, call) BOTH(4, 3, call)                                      \
        BOTH(5, 1, call) BOTH(5, 2, call) BOTH(5, 3, call) BOTH(5, 4, call)                     \
        BOTH(6, 1, call) BOTH(6, 2, call) BOTH(6, 3, call) BOTH(6, 4, call) BOTH(6, 5, call)    \
        BOTH(7, 1, call) BOTH(7, 2, call) BOTH(7, 3, call) BOTH(7, 4, call) BOTH(7, 5, call)    \
        BOTH(7, 6, call)                                                                        \
        BOTH(8, 1, call) BOTH(8, 2, call) BOTH(8, 3, call) BOTH(8, 4, call) BOTH(8, 5, call)    \
        BOTH(8, 6, call) BOTH(8, 7, call)                                                       \
    }
#define BOTH(n, m, call) case (n) * WBC_MAX_POINTS + (m): call(n, m); break;

/* half[row of tile][point of a row][tile][signature] from the products of one point of a row. */
static void shorten_columns(const wbc_encode_pool *job, const walk *w, const float *products,
                            const tile *tiles, int n_tiles, float *half)
{
    const size_t row = (size_t)w->points * TILES * BLOCK;
    for (const tile *t = tiles; t < tiles + n_tiles; t++) {
        const float *matrix =
            job->output_transforms + (size_t)(t->rows - 1) * job->tile * w->points;
#define CALL(N, M)                                                                      \
    for (int i = 0; i < BLOCK; i += WIDTH, products += WIDTH, half += WIDTH)            \
        shorten(N, M, matrix, w->points, products, TILES * BLOCK, half, row)
        SWITCH_BOTH(t->rows + job->taps - 1, t->rows, CALL)
#undef CALL
    }
}

enum { UNITS = 2 }; /* of WIDTH signatures, finished together: sums of one wait for one another */

/* responses[row of tile][column of tile][UNITS * WIDTH signatures] of one tile. */
static void shorten_rows(const wbc_encode_pool *job, const walk *w, const tile *t,
                         const float *half, float *responses)
{
    const float *matrix = job->output_transforms + (size_t)(t->columns - 1) * job->tile * w->points;
    const size_t row = (size_t)w->points * TILES * BLOCK;
#define CALL(N, M)                                                                    \
    for (int i = 0; i < t->rows; i++, responses += M * UNITS * WIDTH)                 \
        for (int k = 0; k < UNITS * WIDTH; k += WIDTH)                                \
            shorten(N, M, matrix, w->points, half + i * row + k, TILES * BLOCK, responses + k, \
                    UNITS * WIDTH)
    SWITCH_BOTH(t->columns + job->taps - 1, t->columns, CALL)
#undef CALL
}

/* ---- responses to codes, codes to statistics ---- */

/* What is done with the responses of WIDTH signatures. */
typedef struct {
    vec first, offset, gain, threshold; /* first: response to the first pixel's colour */
    size_t place;                       /* in the statistics of the image's first part */
} unit;

INLINE vec activate(wbc_nonlinearity nonlinearity, const unit *u, vec a)
{
    const vec one = vec_set(1), log2e = vec_set(1.44269504f);
    switch (nonlinearity) {
    case WBC_SIGMOID: return u->gain / (one + vec_exp2(-log2e * a));
    case WBC_TANH: return u->gain - (u->gain + u->gain) / (one + vec_exp2((log2e + log2e) * a));
    case WBC_RECTIFIED: return u->gain * vec_max(a, vec_set(0));
    case WBC_SOFT_THRESHOLD:
        return u->gain * (a - vec_min(vec_max(a, -u->threshold), u->threshold));
    }
    return a;
}

/* Of a run of windows of one part. Sums are taken about the part's first code: equal codes have
 * exactly no variance. */
typedef struct {
    vec shift, sum, square, max, active;
} statistics;

INLINE statistics start_run(const wbc_statistics *out, size_t place, vec code)
{
    statistics run = {vec_set(0), vec_set(0), vec_set(0), vec_set(-HUGE_VALF), vec_set(0)};
    if (out->sum) {
        if (isnan(out->shift[place]))
            vec_store(out->shift + place, code);
        run.shift = vec_load(out->shift + place);
    }
    return run;
}

/* *total += value, compensated (Kahan) where `lost` is kept: a variance is a small difference of
 * sums, and ones are no longer added to 2^24. */
INLINE void add(float *total, float *lost, vec value)
{
    const vec before = vec_load(total), whole = lost ? value - vec_load(lost) : value;
    const vec after = before + whole;
    if (lost)
        vec_store(lost, (after - before) - whole);
    vec_store(total, after);
}

INLINE void end_run(const wbc_statistics *out, size_t place, const statistics *run)
{
    if (out->sum)
        add(out->sum + place, out->sum_lost ? out->sum_lost + place : NULL, run->sum);
    if (out->square)
        add(out->square + place, out->square_lost + place, run->square);
    if (out->max)
        vec_store(out->max + place, vec_max(vec_load(out->max + place), run->max));
    if (out->active)
        add(out->active + place, out->active_lost ? out->active_lost + place : NULL, run->active);
}

typedef enum { SUMS, MOMENTS, ALL } wanted; /* sums; squares and maxima too; active units too */

/* Everything after the products, for UNITS * WIDTH signatures of one tile. */
INLINE void finish(const wbc_encode_pool *job, const buffers *own, const unit *units, const tile *t,
                   const member *members, wbc_nonlinearity nonlinearity, int contrast,
                   wanted wants)
{
    const int n_windows = t->rows * t->columns;
    for (int k = 0; k < n_windows;) {
        const int32_t part = members[k].part;
        const size_t place = (size_t)part * job->n_signatures;
        statistics runs[UNITS];
        int is_first = 1;
        do {
            const int at = members[k].place;
            vec scale = vec_set(1);
            if (contrast) {
                const size_t row = t->row + at / t->columns * job->dilation;
                const size_t column = t->column + at % t->columns * job->dilation;
                scale = vec_set(own->contrast[row * job->columns + column]);
            }
#pragma GCC unroll 2
            for (int v = 0; v < UNITS; v++) {
                const unit *u = &units[v];
                statistics *run = &runs[v];
                vec a = vec_load(own->responses + ((size_t)at * UNITS + v) * WIDTH) + u->first;
                a = contrast ? vec_fma(a, scale, u->offset) : a + u->offset;
                const vec code = activate(nonlinearity, u, a);
                if (is_first)
                    *run = start_run(&job->out, u->place + place, code);
                const vec change = code - run->shift;
                run->sum += change;
                if (wants == SUMS)
                    continue;
                run->square = vec_fma(change, change, run->square);
                run->max = vec_max(run->max, code);
                if (wants == MOMENTS)
                    continue;
                const vec strength = nonlinearity == WBC_SOFT_THRESHOLD ? vec_abs(a) : a;
                run->active += vec_greater(strength, u->threshold);
            }
            is_first = 0;
            k++;
        } while (k < n_windows && members[k].part == part);
        for (int v = 0; v < UNITS; v++)
            end_run(&job->out, units[v].place + place, &runs[v]);
    }
}

/* The same, with what decides about its arithmetic as constants. */
static void finish_tile(const wbc_encode_pool *job, const buffers *own, const unit *units,
                        const tile *t, const member *members)
{
    const int contrast = job->contrast_epsilon >= 0;
    const wanted wants = job->out.active ? ALL : job->out.square || job->out.max ? MOMENTS : SUMS;
#define CALL(NONLINEARITY)                                                                      \
    case NONLINEARITY:                                                                          \
        if (contrast)                                                                           \
            finish(job, own, units, t, members, NONLINEARITY, 1, ALL);                          \
        else if (wants == SUMS)                                                                 \
            finish(job, own, units, t, members, NONLINEARITY, 0, SUMS);                         \
        else if (wants == MOMENTS)                                                              \
            finish(job, own, units, t, members, NONLINEARITY, 0, MOMENTS);                      \
        else                                                                                    \
            finish(job, own, units, t, members, NONLINEARITY, 0, ALL);                          \
        break
    switch (job->nonlinearity) {
        CALL(WBC_SIGMOID);
        CALL(WBC_TANH);
        CALL(WBC_RECTIFIED);
        CALL(WBC_SOFT_THRESHOLD);
    }
#undef CALL
}

static unit prepare_unit(const wbc_encode_pool *job, const buffers *own, size_t image,
                         int signature)
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
        .place = image * job->n_parts * job->n_signatures + signature,
    };
}

/* ---- the walk ---- */

/* How many of the first tiles to compute point (y, x) for: up to the last that uses it. */
static int count_users(const wbc_encode_pool *job, const tile *tiles, int n_tiles, int y, int x)
{
    while (n_tiles > 0 && (tiles[n_tiles - 1].rows + job->taps - 1 <= y ||
                           tiles[n_tiles - 1].columns + job->taps - 1 <= x))
        n_tiles--;
    return n_tiles;
}

/* Codes of the tiles of a strip for one block of signatures, added to the statistics. */
static void encode_block(const wbc_encode_pool *job, const walk *w, const buffers *own,
                         size_t image, int block, const strip *s)
{
    const int n = w->points;
    const size_t values_size = (size_t)w->lanes * TILES; /* of one point, as the next */
    const size_t filters_size = (size_t)job->n_features * BLOCK;
    const float *filters = job->filters + (size_t)block * n * n * filters_size;
    unit units[BLOCK / WIDTH];
    for (int v = 0; v < BLOCK / WIDTH; v++)
        units[v] = prepare_unit(job, own, image, block * BLOCK + v * WIDTH);
    for (int group = 0; group < s->n_tiles; group += s->group) {
        const tile *tiles = own->tiles + group;
        const int count = smaller(s->n_tiles - group, s->group);
        const float *values = own->values + (size_t)(group / s->group) * TILES * w->tile_size;
        for (int x = 0; x < n; x++) {
            for (int y = 0; y < n; y++)
                multiply_block(count_users(job, tiles, count, y, x), job->n_features,
                               values + (x * n + y) * values_size,
                               filters + (x * n + y) * filters_size,
                               own->products + y * TILES * BLOCK, BLOCK);
            shorten_columns(job, w, own->products, tiles, count_users(job, tiles, count, 0, x),
                            own->half + x * TILES * BLOCK);
        }
        for (int tile = 0; tile < count; tile++)
            for (int v = 0; v < BLOCK / WIDTH; v += UNITS) {
                shorten_rows(job, w, &tiles[tile], own->half + tile * BLOCK + v * WIDTH,
                             own->responses);
                finish_tile(job, own, &units[v], &tiles[tile],
                            own->members + (size_t)(group + tile) * job->tile * job->tile);
            }
    }
}

static int give_up(const buffers *own) { return out_of_patience(own->waiting, own->is_caller); }

/* One image, by all threads of the parallel region. */
static void encode_image(const wbc_encode_pool *job, const walk *w, const buffers *own,
                         size_t image)
{
    prepare_lookup(job, own, image);
    if (job->contrast_epsilon >= 0) {
#pragma omp for nowait
        for (int row = 0; row < job->rows; row++)
            if (!give_up(own))
                measure_contrast(job, own, image, row);
    }
    for (int index = 0; index < w->n_strips; index++) {
        const strip s = list_tiles(job, w, index, own->tiles);
        list_members(job, &s, own);
#pragma omp for
        for (int row = 0; row < s.square_rows; row++)
            if (!give_up(own))
                gather(job, w, own, image, &s, row);
#pragma omp for
        for (int tile = 0; tile < s.n_tiles; tile++)
            if (!give_up(own))
                transform(job, w, own, &s, tile);
#pragma omp for schedule(dynamic)
        for (int block = 0; block < job->n_signatures / BLOCK; block++)
            if (!give_up(own))
                encode_block(job, w, own, image, block, &s);
    }
}

enum {
    ALIGNMENT = 64,       /* bytes */
    LONG_IMAGE = 1 << 14, /* strips times signatures: some tenths of a second for one thread */
    FEW_PRODUCTS = 1 << 27, /* some milliseconds of one thread */
    MOST_SCRATCH = 1 << 28, /* floats of all teams, where there are several */
};

/* No more threads than have work of FEW_PRODUCTS, or an image of their own: on busy cores threads
 * wait for one another for tens of milliseconds. */
static int useful_threads(const wbc_encode_pool *job, const walk *w, int n_threads)
{
    const double products = (double)w->n_strips * w->strip_tiles * w->points * w->points *
                            job->n_features * job->n_signatures;
    const double useful = 1 + products / FEW_PRODUCTS;
    if (job->n_images >= n_threads || useful >= n_threads)
        return n_threads;
    return useful > job->n_images ? (int)useful : job->n_images;
}

/* One image at a time by all threads; or each thread takes images, inside a team of one, where the
 * loops of encode_image are not shared. Teams of more would be started anew for every image. Long
 * images are shared by all threads, so that the calling thread, which alone hears of interrupts,
 * never waits long for the others. */
static int encode_pool(const wbc_encode_pool *job, int n_threads, wbc_interrupted interrupted)
{
    const walk w = plan_walk(job);
    n_threads = useful_threads(job, &w, n_threads);
    const int takes_long = (size_t)w.n_strips * job->n_signatures > LONG_IMAGE;
    const size_t shared_size = w.squares_size + w.values_size + w.contrast_size;
    const int one_by_one = takes_long || job->n_images < n_threads ||
                           shared_size > MOST_SCRATCH / (size_t)n_threads;
    const int n_teams = one_by_one ? 1 : n_threads;
    patience waiting = start_patience(interrupted);
    const size_t n = w.points, m = job->tile, line = (size_t)job->width * job->channels;
    const size_t square_pixels = (size_t)job->square * job->square * job->channels;
    const size_t sizes[] = {
        pad(job->channels),
        pad(256 * (size_t)job->channels),
        pad(256 * (size_t)job->channels),
        pad(5 * line + (job->projection ? w.square_columns * square_pixels : 0)),
        n * TILES * BLOCK,
        m * n * TILES * BLOCK,
        m * m * UNITS * WIDTH,
    };
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    size_t own_size = 0;
    for (int i = 0; i < N_SIZES; i++)
        own_size += sizes[i];

    void *allocated =
        malloc(sizeof(float) * (n_teams * shared_size + n_threads * own_size) + ALIGNMENT);
    float *memory = (float *)(((uintptr_t)allocated + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    tile *tiles = malloc(n_threads * w.strip_tiles * sizeof *tiles);
    member *members = malloc(n_threads * w.strip_tiles * m * m * sizeof *members);
    buffers *own = malloc(n_threads * sizeof *own);
    int status = allocated && tiles && members && own ? WBC_OK : WBC_OUT_OF_MEMORY;
    if (status == WBC_OK) {
        float *next = memory + n_teams * shared_size;
        for (int thread = 0; thread < n_threads; thread++) {
            buffers *b = &own[thread];
            b->waiting = &waiting;
            b->is_caller = thread == 0;
            b->tiles = tiles + thread * w.strip_tiles;
            b->members = members + thread * w.strip_tiles * m * m;
            b->squares = memory + (one_by_one ? 0 : thread) * shared_size;
            b->values = b->squares + w.squares_size;
            b->contrast = b->values + w.values_size;
            float **arrays[] = {&b->first,    &b->colours, &b->shades,   &b->pixels,
                                &b->products, &b->half,    &b->responses};
            for (int i = 0; i < N_SIZES; next += sizes[i], i++)
                *arrays[i] = next;
        }
        if (one_by_one) {
#pragma omp parallel num_threads(n_threads)
            for (int image = 0; image < job->n_images; image++)
                encode_image(job, &w, &own[omp_get_thread_num()], image);
        } else {
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
            for (int image = 0; image < job->n_images; image++) {
                const buffers *mine = &own[omp_get_thread_num()];
#pragma omp parallel num_threads(1)
                encode_image(job, &w, mine, image);
            }
        }
        status = end_patience(&waiting);
    }
    free(allocated);
    free(tiles);
    free(members);
    free(own);
    return status;
}
