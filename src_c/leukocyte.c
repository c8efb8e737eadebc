/* Where the leukocyte of an image is, and the square around it at another scale.
 *
 * find_leukocyte looks at the image reduced by a whole number, in whole numbers, so that every CPU
 * finds the same:
 *
 *     background   median of the brightest quarter of the pixels that are not black
 *     density      of each channel over the background: 1024 log((b + 4) / (v + 4))
 *     stained      2 red + green - blue, smoothed: nuclei take up red light most in every stain
 *     nucleus      above Otsu's threshold of the middle, and above a second one among these where
 *                  it parts them well (cytoplasm from nucleus); opened; the component most in the
 *                  middle, and the lobes near it
 *
 * resample_square is a triangle filter as wide as the distance of the new pixels, at least that of
 * the old: a mean where it shrinks, linear interpolation where it enlarges. Then every channel goes
 * through its own table, and fades to white outside a disc.
 *
 * match_focus blurs a cell that is sharper than wanted. How blurred it is, in px^2, is told by the
 * energy of the slopes of green over that of its curvature, among pixels that do not fade: twice
 * the variance of the Gaussian that has blurred a lone edge, and about 1.4 times that where there
 * is texture too.
 */
#include "wbcprof.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
    REDUCED_SIDE = 96,      /* px, about, of the shorter side of the reduced image */
    MOST_REDUCED = 1 << 28, /* px of the reduced image: three times as many fit an int */
    MOST_FACTOR = 2896,     /* of reduction: 256 squares of it fit an int */
    BAND = 128,             /* rows of bytes whose sum fits 16 bits */
    DARKEST = 12,           /* grey level of the brightest channel of what is black */
    DENSITY_UNIT = 1024,
    DENSITY_OFFSET = 4,     /* grey levels: noise of dark pixels weighs less */
    TURNS = 4,              /* histograms are counted in so many, lest a count wait for itself */
    OTSU_BINS = 64,
    BIN_BITS = 52,
    MOST_COMPONENTS = 4096,
    CLOSENESS_UNIT = 1 << 20,
    SMALLEST_NUCLEUS = 12,  /* px of the reduced image */
    OTHERS = 3,             /* components that are no smaller than a third of the nucleus */
    CLIPPED = 254,          /* grey level of a channel that may have been brighter */
    NEAR_BACKGROUND = 24,   /* grey levels, sum over channels, of what counts as background */
};
static const double MIDDLE = 0.42;       /* of the sides: where a leukocyte is looked for */
static const double CENTRED = 0.35;      /* of the sides: where being in the middle counts */
static const double LOBE_MIDDLE = 0.3;   /* of the sides: where lobes lie */
static const double LOBE_DISTANCE = 2.2; /* radii of the nucleus, beside that of the lobe */

/* A pixel, three channels and what comes next: on its own, and summed up. */
typedef int16_t pixel __attribute__((vector_size(8)));
typedef int32_t pixel_sum __attribute__((vector_size(16)));

typedef struct {
    int first, n; /* its pixels in the queue */
    int64_t down, across, closeness; /* sums: rows, columns, how near each is to the middle */
} component;

typedef struct {
    int height, width, factor, n;
    double *down, *across; /* of rows, of columns: distance from the middle, see from_middle */
    component *components;
    int32_t *stained, *scratch, *queue;
    uint8_t *pixels[3]; /* of each channel */
    uint8_t *valid;     /* neither black nor beside black */
    uint8_t *middle;    /* near enough to the middle */
    uint8_t *mask, *eroded;
    int16_t density[3][256]; /* of grey levels */
} reduced;

static int allocate(reduced *r, int height, int width)
{
    const int side = height < width ? height : width;
    const int nearest = (int)(((int64_t)side + REDUCED_SIDE / 2) / REDUCED_SIDE);
    const int k = nearest < 1 ? 1 : nearest > MOST_FACTOR ? MOST_FACTOR : nearest;
    r->factor = k;
    r->height = height / k;
    r->width = width / k;
    if ((int64_t)r->height * r->width > MOST_REDUCED)
        return WBC_OUT_OF_MEMORY;
    const size_t n = (size_t)r->height * r->width, edges = (size_t)r->height + r->width;
    const size_t most = n < MOST_COMPONENTS ? n : MOST_COMPONENTS;
    char *block = malloc(most * sizeof(component) + edges * sizeof(double) + n * (3 * 4 + 7));
    if (!block)
        return WBC_OUT_OF_MEMORY;
    r->n = (int)n;
    r->components = (component *)block;
    r->down = (double *)(r->components + most);
    r->across = r->down + r->height;
    r->stained = (int32_t *)(r->across + r->width);
    r->scratch = r->stained + n;
    r->queue = r->scratch + n;
    uint8_t *bytes = (uint8_t *)(r->queue + n);
    for (int c = 0; c < 3; c++, bytes += n)
        r->pixels[c] = bytes;
    r->valid = bytes;
    r->middle = r->valid + n;
    r->mask = r->middle + n;
    r->eroded = r->mask + n;
    return WBC_OK;
}

/* Sums of n <= BAND rows. */
static void sum_rows(const uint8_t *restrict rows, size_t stride, int n, int width,
                     int16_t *restrict sums)
{
    for (int x = 0; x < width; x++)
        sums[x] = rows[x];
    for (int y = 1; y < n; y++) {
        const uint8_t *restrict row = rows + y * stride;
        for (int x = 0; x < width; x++)
            sums[x] = (int16_t)(sums[x] + row[x]);
    }
}

/* Rounded means of k x k pixels, k <= MOST_FACTOR, by channel; rows of the image are `stride` bytes
 * apart. Returns WBC_OK or WBC_OUT_OF_MEMORY. */
static int reduce(const uint8_t *image, size_t stride, int k, int height, int width,
                  uint8_t *const planes[3])
{
    const int n_bytes = width * k * 3;
    pixel_sum *totals = malloc(sizeof *totals * width + sizeof(int16_t) * ((size_t)n_bytes + 1));
    if (!totals)
        return WBC_OUT_OF_MEMORY;
    int16_t *sums = (int16_t *)(totals + width);
    sums[n_bytes] = 0;
    /* (a * reciprocal) >> 56 is a / (k k) for every a < 256 k k. */
    const int area = k * k;
    const uint64_t reciprocal = (UINT64_C(1) << 56) / (uint64_t)area + 1;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            totals[x] = (pixel_sum){area / 2, area / 2, area / 2, 0};
        for (int dy = 0; dy < k; dy += BAND) {
            sum_rows(image + ((size_t)y * k + dy) * stride, stride, k - dy < BAND ? k - dy : BAND,
                     n_bytes, sums);
            const int16_t *sum = sums;
            for (int x = 0; x < width; x++) {
                pixel_sum total = totals[x];
                for (int dx = 0; dx < k; dx++, sum += 3) {
                    pixel one;
                    memcpy(&one, sum, sizeof one);
                    total += __builtin_convertvector(one, pixel_sum);
                }
                totals[x] = total;
            }
        }
        const size_t start = (size_t)y * width;
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                planes[c][start + x] = (uint8_t)((uint64_t)totals[x][c] * reciprocal >> 56);
    }
    free(totals);
    return WBC_OK;
}

/* Four times the squared distance from the middle, in units of the sides, is the sum of two. */
static double from_middle(double at, int side)
{
    const double offset = (2 * at - (side - 1)) / side;
    return offset * offset;
}

static void measure_middle(reduced *r)
{
    for (int y = 0; y < r->height; y++)
        r->down[y] = from_middle(y, r->height);
    for (int x = 0; x < r->width; x++)
        r->across[x] = from_middle(x, r->width);
    for (int y = 0; y < r->height; y++) {
        uint8_t *restrict middle = r->middle + (size_t)y * r->width;
        const double *restrict across = r->across;
        const double down = r->down[y];
        for (int x = 0; x < r->width; x++)
            middle[x] = down + across[x] < 4 * MIDDLE * MIDDLE;
    }
}


/* Lit pixels whose eight neighbours are lit; what lies outside counts as lit. */
static int find_valid(reduced *r)
{
    const int h = r->height, w = r->width, n = r->n;
    const uint8_t *red = r->pixels[0], *green = r->pixels[1], *blue = r->pixels[2];
    uint8_t *restrict valid = r->valid;
    int n_lit = 0;
    for (int i = 0; i < n; i++) {
        valid[i] = (red[i] > DARKEST) | (green[i] > DARKEST) | (blue[i] > DARKEST);
        n_lit += valid[i];
    }
    if (n_lit == n)
        return n;
    uint8_t *restrict columns = r->eroded; /* those lit above and below too */
    for (int y = 0; y < h; y++) {
        const uint8_t *row = valid + (size_t)y * w;
        const uint8_t *up = y > 0 ? row - w : row, *down = y < h - 1 ? row + w : row;
        for (int x = 0; x < w; x++)
            columns[(size_t)y * w + x] = row[x] & up[x] & down[x];
    }
    int n_valid = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const uint8_t *at = columns + (size_t)y * w + x;
            const uint8_t lit = at[0] & at[x > 0 ? -1 : 0] & at[x < w - 1 ? 1 : 0];
            valid[(size_t)y * w + x] = lit;
            n_valid += lit;
        }
    return n_valid;
}

/* Median of each channel over the brightest quarter, the share of pixels that are near it, and of
 * those of which a channel is clipped. */
static void find_background(const reduced *r, int n_valid, wbc_leukocyte *found)
{
    uint8_t *background = found->background;
    const int n = r->n;
    const uint8_t *red = r->pixels[0], *green = r->pixels[1], *blue = r->pixels[2];
    int32_t brightness[TURNS][3 * 255 + 1] = {{0}}, levels[3][256] = {{0}};
    for (int i = 0; i < n; i++)
        brightness[i % TURNS][red[i] + green[i] + blue[i]] += r->valid[i];
    for (int turn = 1; turn < TURNS; turn++)
        for (int i = 0; i <= 3 * 255; i++)
            brightness[0][i] += brightness[turn][i];
    int least = 3 * 255, count = brightness[0][least];
    while (count * 4LL < n_valid)
        count += brightness[0][--least];
    for (int i = 0; i < n; i++)
        if (r->valid[i] && red[i] + green[i] + blue[i] >= least) {
            levels[0][red[i]]++;
            levels[1][green[i]]++;
            levels[2][blue[i]]++;
        }
    for (int c = 0; c < 3; c++) {
        int value = 0;
        for (int below = levels[c][0]; 2LL * below < count;)
            below += levels[c][++value];
        background[c] = (uint8_t)value;
    }
    const int r0 = background[0], g0 = background[1], b0 = background[2];
    int near = 0, clipped = 0;
    for (int i = 0; i < n; i++) {
        const int difference = abs(red[i] - r0) + abs(green[i] - g0) + abs(blue[i] - b0);
        near += r->valid[i] & (difference <= NEAR_BACKGROUND);
        clipped += r->valid[i] &
                   ((red[i] >= CLIPPED) | (green[i] >= CLIPPED) | (blue[i] >= CLIPPED));
    }
    found->background_share = (double)near / n_valid;
    found->clipped_share = (double)clipped / n_valid;
}

/* 1, 2, 1 twice along the rows, then along the columns; edges are repeated. 256 times the mean. */
static void smooth(reduced *r)
{
    const int h = r->height, w = r->width;
    for (int pass = 0; pass < 2; pass++) {
        for (int y = 0; y < h; y++) {
            const int32_t *restrict row = r->stained + (size_t)y * w;
            int32_t *restrict out = r->scratch + (size_t)y * w;
            for (int x = 1; x < w - 1; x++)
                out[x] = row[x - 1] + 2 * row[x] + row[x + 1];
            out[0] = 3 * row[0] + row[w > 1 ? 1 : 0];
            if (w > 1)
                out[w - 1] = row[w - 2] + 3 * row[w - 1];
        }
        for (int y = 0; y < h; y++) {
            const int32_t *restrict row = r->scratch + (size_t)y * w;
            const int32_t *restrict up = y > 0 ? row - w : row;
            const int32_t *restrict down = y < h - 1 ? row + w : row;
            int32_t *restrict out = r->stained + (size_t)y * w;
            for (int x = 0; x < w; x++)
                out[x] = up[x] + 2 * row[x] + down[x];
        }
    }
}

static void measure_density(reduced *r, const uint8_t background[3])
{
    double logarithm[256];
    for (int v = 0; v < 256; v++)
        logarithm[v] = log(v + DENSITY_OFFSET);
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            r->density[c][v] =
                v >= background[c]
                    ? 0
                    : (int16_t)lrint(DENSITY_UNIT * (logarithm[background[c]] - logarithm[v]));
    for (int i = 0; i < r->n; i++) {
        const int stained = 2 * r->density[0][r->pixels[0][i]] + r->density[1][r->pixels[1][i]] -
                            r->density[2][r->pixels[2][i]];
        r->stained[i] = r->valid[i] ? stained : 0;
    }
    smooth(r);
}

/* Least value of the upper class. INT32_MAX where all are equal. */
static int32_t otsu(const int32_t *values, int n)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = 0; i < n; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    if (low >= high)
        return INT32_MAX;
    /* (a * reciprocal) >> BIN_BITS is a / range: that is below 2^23, a below OTSU_BINS times it. */
    const int64_t range = (int64_t)high - low + 1;
    const uint64_t reciprocal = (UINT64_C(1) << BIN_BITS) / (uint64_t)range + 1;
    int32_t number[TURNS][OTSU_BINS] = {{0}};
    for (int i = 0; i < n; i++) {
        const uint64_t above = (uint64_t)(values[i] - low) * OTSU_BINS;
        number[i % TURNS][above * reciprocal >> BIN_BITS]++;
    }
    int64_t moment = 0;
    for (int bin = 0; bin < OTSU_BINS; bin++) {
        for (int turn = 1; turn < TURNS; turn++)
            number[0][bin] += number[turn][bin];
        moment += (int64_t)bin * number[0][bin];
    }
    double best = -1;
    int split = 0;
    int64_t n_low = 0, m_low = 0;
    for (int bin = 0; bin < OTSU_BINS - 1; bin++) {
        n_low += number[0][bin];
        m_low += (int64_t)bin * number[0][bin];
        if (n_low == 0 || n_low == n)
            continue;
        const double apart = (double)moment * n_low - (double)m_low * n;
        const double between = apart * apart / ((double)n_low * (n - n_low));
        if (between > best) {
            best = between;
            split = bin;
        }
    }
    return (int32_t)(low + ((split + 1) * range + OTSU_BINS - 1) / OTSU_BINS);
}

/* What is stained like a nucleus becomes the mask. */
static void find_stained(reduced *r)
{
    int32_t *restrict values = r->scratch;
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        values[n] = r->stained[i];
        n += r->valid[i] & r->middle[i];
    }
    int32_t least = otsu(values, n);
    if (least != INT32_MAX) {
        int n_stained = 0, n_denser = 0;
        for (int i = 0; i < n; i++) {
            values[n_stained] = values[i];
            n_stained += values[i] >= least;
        }
        const int32_t denser = otsu(values, n_stained);
        int64_t sum = 0, sum_denser = 0;
        for (int i = 0; i < n_stained; i++) {
            sum += values[i];
            sum_denser += values[i] >= denser ? values[i] : 0;
            n_denser += values[i] >= denser;
        }
        if (denser != INT32_MAX && 2 * (double)sum_denser * (n_stained - n_denser) >
                                       3 * (double)(sum - sum_denser) * n_denser)
            least = denser;
    }
    const int32_t *restrict stained = r->stained;
    const uint8_t *restrict valid = r->valid;
    uint8_t *restrict mask = r->mask;
    least = least < 1 ? 1 : least;
    for (int i = 0; i < r->n; i++)
        mask[i] = valid[i] & (stained[i] >= least);
}

/* Erosion of the mask by a cross; outside counts as empty. */
static void erode(const uint8_t *restrict mask, int h, int w, uint8_t *restrict out)
{
    for (int y = 0; y < h; y++) {
        const uint8_t *restrict row = mask + (size_t)y * w;
        uint8_t *restrict eroded = out + (size_t)y * w;
        memset(eroded, 0, w);
        if (y > 0 && y < h - 1)
            for (int x = 1; x < w - 1; x++)
                eroded[x] = row[x] & row[x + w] & row[x - w] & row[x - 1] & row[x + 1];
    }
}

/* Dilation of the mask by a cross. */
static void dilate(const uint8_t *restrict mask, int h, int w, uint8_t *restrict out)
{
    for (int y = 0; y < h; y++) {
        const uint8_t *restrict row = mask + (size_t)y * w;
        const uint8_t *restrict up = y > 0 ? row - w : row;
        const uint8_t *restrict down = y < h - 1 ? row + w : row;
        uint8_t *restrict dilated = out + (size_t)y * w;
        for (int end = 0; end < w; end += w > 1 ? w - 1 : 1)
            dilated[end] = row[end] | up[end] | down[end] | (end > 0 ? row[end - 1] : 0) |
                           (end < w - 1 ? row[end + 1] : 0);
        for (int x = 1; x < w - 1; x++)
            dilated[x] = row[x] | up[x] | down[x] | row[x - 1] | row[x + 1];
    }
}

static void open_mask(uint8_t *mask, uint8_t *scratch, int h, int w)
{
    erode(mask, h, w, scratch);
    dilate(scratch, h, w, mask);
}

/* Components of the mask, four neighbours, moved from there to the queue; returns how many. */
static int find_components(reduced *r)
{
    const int h = r->height, w = r->width;
    int32_t *const rows = r->scratch; /* of the pixels in the queue */
    uint8_t *const mask = r->mask;
    int n = 0, at = 0, last = 0;
    for (int start = 0; start < r->n && n < MOST_COMPONENTS; start++) {
        if (!mask[start])
            continue;
        component *one = r->components + n++;
        *one = (component){.first = last};
        r->queue[last] = start;
        rows[last++] = start / w;
        mask[start] = 0;
        for (; at < last; at++) {
            const int i = r->queue[at], y = rows[at], x = i - y * w;
            const double closeness = 1 - (r->down[y] + r->across[x]) / (4 * CENTRED * CENTRED);
            one->n++;
            one->down += y;
            one->across += x;
            one->closeness += closeness > 0 ? lrint(CLOSENESS_UNIT * closeness) : 0;
            const int neighbours[4] = {y > 0 ? i - w : i, y < h - 1 ? i + w : i,
                                       x > 0 ? i - 1 : i, x < w - 1 ? i + 1 : i};
            for (int k = 0; k < 4; k++)
                if (mask[neighbours[k]]) {
                    mask[neighbours[k]] = 0;
                    r->queue[last] = neighbours[k];
                    rows[last++] = y + (k == 1) - (k == 0);
                }
        }
    }
    return n;
}

/* The component most in the middle, and the lobes near it; others as large are no part of it. */
static void measure_nucleus(const reduced *r, int n, wbc_leukocyte *found)
{
    const double pi = 3.141592653589793;
    const component *best = r->components;
    for (int k = 1; k < n; k++)
        if (r->components[k].closeness > best->closeness)
            best = r->components + k;
    const double radius = sqrt(best->n / pi);
    const double best_y = (double)best->down / best->n, best_x = (double)best->across / best->n;
    int64_t area = 0, down = 0, across = 0, others = 0;
    int32_t levels[3][256] = {{0}};
    for (const component *one = r->components; one < r->components + n; one++) {
        const double y = (double)one->down / one->n, x = (double)one->across / one->n;
        const double dy = y - best_y, dx = x - best_x;
        if (sqrt(dy * dy + dx * dx) >= LOBE_DISTANCE * radius + sqrt(one->n / pi) ||
            25LL * one->n <= best->n ||
            from_middle(y, r->height) + from_middle(x, r->width) >= 4 * LOBE_MIDDLE * LOBE_MIDDLE) {
            others += OTHERS * (int64_t)one->n >= best->n ? one->n : 0;
            continue;
        }
        for (int at = one->first; at < one->first + one->n; at++) {
            const int i = r->queue[at], row = r->scratch[at];
            if (!r->middle[i])
                continue;
            area++;
            down += row;
            across += i - row * r->width;
            for (int c = 0; c < 3; c++)
                levels[c][r->pixels[c][i]]++;
        }
    }
    if (area < SMALLEST_NUCLEUS)
        return;
    found->area = (double)area * r->factor * r->factor;
    found->others = (double)others * r->factor * r->factor;
    found->y = ((double)down / area + 0.5) * r->factor - 0.5;
    found->x = ((double)across / area + 0.5) * r->factor - 0.5;
    /* Lower median of each channel's density, which falls with the grey level. */
    for (int c = 0; c < 3; c++) {
        int value = 255;
        for (int64_t below = levels[c][255]; 2 * below < area;)
            below += levels[c][--value];
        found->density[c] = (double)r->density[c][value] / DENSITY_UNIT;
    }
}

static int find_leukocyte(const uint8_t *image, int height, int width, wbc_leukocyte *found)
{
    memset(found, 0, sizeof *found);
    reduced r;
    int status = allocate(&r, height, width);
    if (status != WBC_OK)
        return status;
    status = reduce(image, (size_t)width * 3, r.factor, r.height, r.width, r.pixels);
    const int n_valid = status == WBC_OK ? find_valid(&r) : 0;
    found->lit_share = (double)n_valid / r.n;
    if (n_valid > 0) {
        find_background(&r, n_valid, found);
        measure_density(&r, found->background);
        measure_middle(&r);
        find_stained(&r);
        open_mask(r.mask, r.eroded, r.height, r.width);
        const int n_components = find_components(&r);
        if (n_components > 0)
            measure_nucleus(&r, n_components, found);
    }
    free(r.components);
    return status;
}

enum { WEIGHT_BITS = 14, KEPT_BITS = 6 }; /* of weights; of a grey level after the first pass */

/* Weights of `side` new pixels along one direction. */
typedef struct {
    int most;         /* pixels of the image that a new one is made of, at most */
    int *first, *n;   /* which, and how many */
    int32_t *outside; /* weight of those that lie beyond its edge */
    int32_t *weights; /* side x most */
} taps;

/* New pixels `distance` old ones apart, about `centre`. Returns WBC_OK or WBC_OUT_OF_MEMORY. */
static int make_taps(double centre, double distance, int side, int length, taps *made)
{
    const double reach = distance > 1 ? distance : 1, widest = 2 * ceil(reach) + 2;
    const int most = widest < length ? (int)widest : length;
    made->most = most;
    made->first = malloc(sizeof(int32_t) * side * (3 + (size_t)most));
    if (!made->first)
        return WBC_OUT_OF_MEMORY;
    made->n = made->first + side;
    made->outside = made->n + side;
    made->weights = made->outside + side;
    for (int i = 0; i < side; i++) {
        const double at = centre + (i - (side - 1) / 2.0) * distance;
        const double begin = ceil(at - reach), end = floor(at + reach);
        int32_t *weights = made->weights + (size_t)i * most;
        made->first[i] = made->n[i] = 0;
        made->outside[i] = 1 << WEIGHT_BITS;
        if (end < 0 || begin >= length)
            continue;
        double sum = 0;
        for (double j = begin; j <= end; j++)
            sum += 1 - fabs(j - at) / reach;
        const int first = begin > 0 ? (int)begin : 0;
        const int past = end < length - 1 ? (int)end + 1 : length;
        made->first[i] = first;
        made->n[i] = past - first;
        for (int j = first; j < past; j++) {
            weights[j - first] = (int)lrint((1 - fabs(j - at) / reach) / sum * (1 << WEIGHT_BITS));
            made->outside[i] -= weights[j - first];
        }
    }
    return WBC_OK;
}

/* sums += weighted sum of n rows of bytes. */
static void add_rows(const uint8_t *restrict rows, size_t stride, int n,
                     const int32_t *restrict weights, int width, int32_t *restrict sums)
{
    int j = 0;
    for (; j + 2 <= n; j += 2) {
        const uint8_t *restrict row = rows + j * stride, *restrict next = row + stride;
        const int32_t weight = weights[j], weight_next = weights[j + 1];
        for (int x = 0; x < width; x++)
            sums[x] += weight * row[x] + weight_next * next[x];
    }
    for (; j < n; j++) {
        const uint8_t *restrict row = rows + j * stride;
        const int32_t weight = weights[j];
        for (int x = 0; x < width; x++)
            sums[x] += weight * row[x];
    }
}

/* Weighted sum of n pixels of a row. */
static inline pixel_sum add_pixels(const int16_t *row, int n, const int32_t *restrict weights,
                                   pixel_sum sum)
{
    for (int j = 0; j < n; j++) {
        pixel one;
        memcpy(&one, row + 3 * j, sizeof one);
        sum += weights[j] * __builtin_convertvector(one, pixel_sum);
    }
    return sum;
}

/* The new pixels `first` to `past` of row i; the others are white. */
static void resample_row(const wbc_square *job, const taps *down, const taps *across, int i,
                         int first, int past, int32_t *restrict sums, int16_t *restrict row)
{
    int left = job->width, right = 0; /* columns that are read */
    for (int k = first; k < past; k++)
        if (across->n[k] > 0) {
            const int end = across->first[k] + across->n[k];
            left = across->first[k] < left ? across->first[k] : left;
            right = end > right ? end : right;
        }
    const int width = right > left ? 3 * (right - left) : 0;
    for (int x = 0; x < width; x++)
        sums[x] = 1 << (WEIGHT_BITS - KEPT_BITS - 1);
    if (down->outside[i] != 0)
        for (int x = 0; x < width; x += 3)
            for (int c = 0; c < 3; c++)
                sums[x + c] += down->outside[i] * job->background[c];
    if (width > 0)
        add_rows(job->image + ((size_t)down->first[i] * job->width + left) * 3,
                 (size_t)job->width * 3, down->n[i], down->weights + (size_t)i * down->most, width,
                 sums);
    for (int x = 0; x < width; x++)
        row[x] = (int16_t)(sums[x] >> (WEIGHT_BITS - KEPT_BITS));
    row[width] = 0; /* read, as a fourth channel */
    const pixel_sum background = {job->background[0], job->background[1], job->background[2], 0};
    for (int k = first; k < past; k++) {
        pixel_sum total = across->outside[k] * (background << KEPT_BITS) +
                           (1 << (WEIGHT_BITS + KEPT_BITS - 1));
        if (across->n[k] > 0)
            total = add_pixels(row + 3 * (across->first[k] - left), across->n[k],
                               across->weights + (size_t)k * across->most, total);
        total >>= WEIGHT_BITS + KEPT_BITS;
        uint8_t *out = job->out + ((size_t)i * job->side + k) * 3;
        const int fade = job->fade[(size_t)i * job->side + k];
        for (int c = 0; c < 3; c++) {
            const int sum = total[c] < 0 ? 0 : total[c] > 255 ? 255 : total[c];
            const int level = job->tables[c * 256 + sum];
            const int faded = job->white + (((level - job->white) * fade + 128) >> 8);
            out[c] = (uint8_t)(fade == 256 ? level : faded);
        }
    }
}

static int resample_square(const wbc_square *job)
{
    const double distance = 1 / job->scale;
    const int side = job->side;
    taps down = {0}, across = {0};
    int32_t *sums = malloc(sizeof *sums * 3 * job->width);
    int16_t *row = malloc(sizeof *row * (3 * (size_t)job->width + 1));
    int status = sums && row ? WBC_OK : WBC_OUT_OF_MEMORY;
    if (status == WBC_OK)
        status = make_taps(job->y, distance, side, job->height, &down);
    if (status == WBC_OK)
        status = make_taps(job->x, distance, side, job->width, &across);
    if (status == WBC_OK) {
        memset(job->out, job->white, (size_t)side * side * 3);
        for (int i = 0; i < side; i++) {
            const int16_t *fade = job->fade + (size_t)i * side;
            int first = 0, past = side;
            while (past > 0 && fade[past - 1] == 0)
                past--;
            while (first < past && fade[first] == 0)
                first++;
            if (first < past)
                resample_row(job, &down, &across, i, first, past, sums, row);
        }
    }
    free(down.first);
    free(across.first);
    free(sums);
    free(row);
    return status;
}

enum { FOCUS_REACH = 4, FOCUS_BITS = 8 }; /* px of the blur to each side; of its weights */
static const double FOCUS_SLOPE = 0.7; /* variance of the blur that raises the ratio by 1 */
static const double MOST_FOCUS = 2.0;    /* variance of the blur */
static const double LEAST_FOCUS = 0.02;

/* Energy of slopes over that of curvature, px^2; infinite where all is flat. */
static double measure_focus(const wbc_focus *job)
{
    const int w = job->width;
    const size_t stride = 3 * (size_t)w;
    int64_t slopes = 0, curves = 0;
    for (int y = 1; y < job->height - 1; y++) {
        const uint8_t *green = job->cell + y * stride + 1;
        const int16_t *fade = job->fade + (size_t)y * w;
        for (int x = 1; x < w - 1; x++) {
            const uint8_t *at = green + 3 * x;
            const int left = at[-3], right = at[3], up = *(at - stride), down = at[stride];
            const int across = right - left, along = down - up;
            const int curve = left + right + up + down - 4 * at[0];
            const int whole = fade[x] == 256 ? -1 : 0;
            slopes += whole & (across * across + along * along);
            curves += whole & (curve * curve);
        }
    }
    return curves > 0 ? (double)slopes / (4 * (double)curves) : INFINITY;
}

/* out = rows blurred along one direction: the k-th neighbour is k * apart bytes away. */
static void blur_row(const uint8_t *restrict row, ptrdiff_t apart, int n,
                     const uint16_t *restrict weights, uint8_t *restrict out)
{
    for (int x = 0; x < n; x++) {
        uint16_t sum = (uint16_t)((1 << (FOCUS_BITS - 1)) + weights[0] * row[x]);
        for (int k = 1; k <= FOCUS_REACH; k++)
            sum = (uint16_t)(sum + weights[k] * (row[x - k * apart] + row[x + k * apart]));
        out[x] = (uint8_t)(sum >> FOCUS_BITS);
    }
}

/* Each pixel beyond an edge is that at the edge. */
static int match_focus(wbc_focus *job)
{
    job->found = measure_focus(job);
    const double lacking = FOCUS_SLOPE * (job->wanted - job->found);
    if (!(lacking >= LEAST_FOCUS))
        return WBC_OK;
    const double variance = lacking < MOST_FOCUS ? lacking : MOST_FOCUS;
    double bell[FOCUS_REACH + 1], total = 0;
    for (int k = 0; k <= FOCUS_REACH; k++) {
        bell[k] = exp(-k * k / (2 * variance));
        total += k ? 2 * bell[k] : bell[k];
    }
    uint16_t weights[FOCUS_REACH + 1] = {1 << FOCUS_BITS};
    for (int k = 1; k <= FOCUS_REACH; k++) {
        weights[k] = (uint16_t)lrint(bell[k] / total * (1 << FOCUS_BITS));
        weights[0] = (uint16_t)(weights[0] - 2 * weights[k]);
    }
    const int h = job->height, n = 3 * job->width, edge = 3 * FOCUS_REACH;
    /* Room for rows above and below, and for one row with its edges. */
    uint8_t *block = malloc((size_t)(h + 2 * FOCUS_REACH) * n + n + 2 * edge);
    if (!block)
        return WBC_OUT_OF_MEMORY;
    uint8_t *rows = block + (size_t)FOCUS_REACH * n;
    uint8_t *line = block + (size_t)(h + 2 * FOCUS_REACH) * n + edge;
    for (int y = -FOCUS_REACH; y < h + FOCUS_REACH; y++) {
        const int from = y < 0 ? 0 : y < h ? y : h - 1;
        memcpy(rows + (ptrdiff_t)y * n, job->cell + (size_t)from * n, n);
    }
    for (int y = 0; y < h; y++) {
        blur_row(rows + (ptrdiff_t)y * n, n, n, weights, line);
        for (int x = 0; x < edge; x++) {
            line[-1 - x] = line[2 - x % 3];
            line[n + x] = line[n - 3 + x % 3];
        }
        blur_row(line, 3, n, weights, job->cell + (size_t)y * n);
    }
    free(block);
    return WBC_OK;
}
