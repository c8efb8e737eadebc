/* Where the leukocyte of an image is, and the square around it at another scale.
 *
 * find_leukocyte looks at the image reduced by a whole number, in whole numbers, so that every CPU
 * finds the same:
 *
 *     background   median of the brightest quarter of the pixels that are not black
 *     density      -log of light against the background, of each channel: 1024 log((b + 4) / (v + 4))
 *     stained      2 red + green - blue, smoothed: nuclei take up red light most in every stain
 *     nucleus      above Otsu's threshold of the middle, and above a second one among these where it
 *                  parts them well (cytoplasm from nucleus); opened; the component most in the
 *                  middle, and the lobes near it
 *
 * resample_square is a triangle filter as wide as the distance of the new pixels, at least that of
 * the old: a mean where it shrinks, linear interpolation where it enlarges. Then every channel goes
 * through its own table, and fades to white outside a disc.
 */
#include "wbcprof.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    REDUCED_SIDE = 96,   /* px, about, of the shorter side of the reduced image */
    DARKEST = 12,        /* grey level of the brightest channel of what is black */
    DENSITY_UNIT = 1024,
    DENSITY_OFFSET = 4,  /* grey levels: noise of dark pixels weighs less */
    OTSU_BINS = 64,
    MOST_COMPONENTS = 4096,
    SMALLEST_NUCLEUS = 12, /* px of the reduced image */
    NEAR_BACKGROUND = 24,  /* grey levels, sum over channels, of what counts as background */
};
static const double MIDDLE = 0.42;       /* of the sides: where a leukocyte is looked for */
static const double CENTRED = 0.35;      /* of the sides: where being in the middle counts */
static const double LOBE_MIDDLE = 0.3;   /* of the sides: where lobes lie */
static const double LOBE_DISTANCE = 2.2; /* radii of the nucleus, beside that of the lobe */

typedef struct {
    int height, width, factor;
    uint8_t *pixels; /* height x width x 3 */
    uint8_t *valid;  /* neither black nor beside black */
    int16_t *density; /* height x width x 3 */
    int32_t *stained, *scratch;
    uint8_t *mask, *eroded;
    int32_t *component; /* 0: none */
    int32_t *queue;
} reduced;

static int reduce(const uint8_t *image, int height, int width, reduced *r)
{
    const int side = height < width ? height : width;
    const int k = (side + REDUCED_SIDE / 2) / REDUCED_SIDE > 1 ? (side + REDUCED_SIDE / 2) / REDUCED_SIDE : 1;
    r->factor = k;
    r->height = height / k;
    r->width = width / k;
    const size_t n = (size_t)r->height * r->width;
    /* One block for all; n * 32 bytes. */
    uint8_t *block = calloc(n, 32);
    int32_t *sums = malloc(sizeof *sums * r->width * 3);
    if (!block || !sums) {
        free(block);
        free(sums);
        return WBC_OUT_OF_MEMORY;
    }
    r->stained = (int32_t *)block;
    r->scratch = r->stained + n;
    r->component = r->scratch + n;
    r->queue = r->component + n;
    r->density = (int16_t *)(r->queue + n);
    r->pixels = (uint8_t *)(r->density + 3 * n);
    r->valid = r->pixels + 3 * n;
    r->mask = r->valid + n;
    r->eroded = r->mask + n;
    for (int y = 0; y < r->height; y++) {
        memset(sums, 0, sizeof *sums * r->width * 3);
        for (int dy = 0; dy < k; dy++) {
            const uint8_t *row = image + ((size_t)y * k + dy) * width * 3;
            for (int x = 0; x < r->width; x++)
                for (int dx = 0; dx < k; dx++, row += 3)
                    for (int c = 0; c < 3; c++)
                        sums[3 * x + c] += row[c];
        }
        for (int i = 0; i < 3 * r->width; i++)
            r->pixels[(size_t)y * r->width * 3 + i] = (uint8_t)((sums[i] + k * k / 2) / (k * k));
    }
    free(sums);
    return WBC_OK;
}

static int is_lit(const reduced *r, int y, int x)
{
    if (y < 0 || x < 0 || y >= r->height || x >= r->width)
        return 1;
    const uint8_t *p = r->pixels + ((size_t)y * r->width + x) * 3;
    return p[0] > DARKEST || p[1] > DARKEST || p[2] > DARKEST;
}

static int find_valid(reduced *r)
{
    int n_black = 0;
    for (int y = 0; y < r->height; y++)
        for (int x = 0; x < r->width; x++)
            n_black += !is_lit(r, y, x);
    memset(r->valid, 1, (size_t)r->height * r->width);
    int n_valid = r->height * r->width;
    if (n_black > 0) {
        n_valid = 0;
        for (int y = 0; y < r->height; y++)
            for (int x = 0; x < r->width; x++) {
                int lit = 1;
                for (int dy = -1; dy <= 1; dy++)
                    for (int dx = -1; dx <= 1; dx++)
                        lit &= is_lit(r, y + dy, x + dx);
                r->valid[(size_t)y * r->width + x] = (uint8_t)lit;
                n_valid += lit;
            }
    }
    return n_valid;
}

/* Median of each channel over the brightest quarter, and the share of the pixels that are near it. */
static double find_background(const reduced *r, int n_valid, uint8_t background[3])
{
    const int n = r->height * r->width;
    int32_t brightness[3 * 256] = {0}, levels[3][256] = {{0}};
    for (int i = 0; i < n; i++)
        if (r->valid[i])
            brightness[r->pixels[3 * i] + r->pixels[3 * i + 1] + r->pixels[3 * i + 2]]++;
    int least = 3 * 255, count = brightness[least];
    while (count * 4LL < n_valid)
        count += brightness[--least];
    for (int i = 0; i < n; i++) {
        const uint8_t *p = r->pixels + 3 * i;
        if (r->valid[i] && p[0] + p[1] + p[2] >= least)
            for (int c = 0; c < 3; c++)
                levels[c][p[c]]++;
    }
    for (int c = 0; c < 3; c++) {
        int value = 0;
        for (int below = levels[c][0]; 2LL * below < count;)
            below += levels[c][++value];
        background[c] = (uint8_t)value;
    }
    int near = 0;
    for (int i = 0; i < n; i++) {
        const uint8_t *p = r->pixels + 3 * i;
        int difference = 0;
        for (int c = 0; c < 3; c++)
            difference += abs(p[c] - background[c]);
        near += r->valid[i] && difference <= NEAR_BACKGROUND;
    }
    return (double)near / n_valid;
}

/* 1, 2, 1 twice along the rows, then along the columns; edges are repeated. 256 times the mean. */
static void smooth(reduced *r)
{
    const int h = r->height, w = r->width;
    for (int pass = 0; pass < 2; pass++) {
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                const int32_t *row = r->stained + (size_t)y * w;
                r->scratch[(size_t)y * w + x] =
                    row[x > 0 ? x - 1 : 0] + 2 * row[x] + row[x < w - 1 ? x + 1 : w - 1];
            }
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                r->stained[(size_t)y * w + x] =
                    r->scratch[(size_t)(y > 0 ? y - 1 : 0) * w + x] +
                    2 * r->scratch[(size_t)y * w + x] +
                    r->scratch[(size_t)(y < h - 1 ? y + 1 : h - 1) * w + x];
    }
}

static void measure_density(reduced *r, const uint8_t background[3])
{
    int16_t table[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = v >= background[c]
                              ? 0
                              : (int16_t)lrint(DENSITY_UNIT * log((double)(background[c] + DENSITY_OFFSET) /
                                                                  (v + DENSITY_OFFSET)));
    const int n = r->height * r->width;
    for (int i = 0; i < n; i++) {
        int16_t *density = r->density + 3 * i;
        for (int c = 0; c < 3; c++)
            density[c] = r->valid[i] ? table[c][r->pixels[3 * i + c]] : 0;
        r->stained[i] = 2 * density[0] + density[1] - density[2];
    }
    smooth(r);
}

/* Four times the squared distance from the middle, in units of the sides. */
static double from_middle(const reduced *r, double y, double x)
{
    const double dy = (2 * y - (r->height - 1)) / r->height, dx = (2 * x - (r->width - 1)) / r->width;
    return dy * dy + dx * dx;
}

/* Least value of the upper class among those of the middle at or above `least`; the classes' sums
 * and counts. INT32_MAX where there are fewer than two values. */
static int32_t otsu(const reduced *r, const uint8_t *middle, int32_t least, double sum[2], double count[2])
{
    const int n = r->height * r->width;
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = 0; i < n; i++)
        if (middle[i] && r->stained[i] >= least) {
            low = r->stained[i] < low ? r->stained[i] : low;
            high = r->stained[i] > high ? r->stained[i] : high;
        }
    if (low >= high)
        return INT32_MAX;
    const int64_t range = (int64_t)high - low + 1;
    int64_t number[OTSU_BINS] = {0}, total[OTSU_BINS] = {0}, n_all = 0, moment = 0;
    for (int i = 0; i < n; i++)
        if (middle[i] && r->stained[i] >= least) {
            const int bin = (int)(((int64_t)r->stained[i] - low) * OTSU_BINS / range);
            number[bin]++;
            total[bin] += r->stained[i];
            n_all++;
            moment += bin;
        }
    double best = -1;
    int split = 0;
    int64_t n_low = 0, m_low = 0;
    for (int bin = 0; bin < OTSU_BINS - 1; bin++) {
        n_low += number[bin];
        m_low += bin * number[bin];
        if (n_low == 0 || n_low == n_all)
            continue;
        const double apart = (double)moment * n_low - (double)m_low * n_all;
        const double between = apart * apart / ((double)n_low * (n_all - n_low));
        if (between > best) {
            best = between;
            split = bin;
        }
    }
    sum[0] = sum[1] = count[0] = count[1] = 0;
    for (int bin = 0; bin < OTSU_BINS; bin++) {
        sum[bin > split] += (double)total[bin];
        count[bin > split] += (double)number[bin];
    }
    return (int32_t)(low + ((split + 1) * range + OTSU_BINS - 1) / OTSU_BINS);
}

/* Erosion and dilation by a cross; outside counts as empty. */
static void open_mask(reduced *r)
{
    const int h = r->height, w = r->width;
    for (int dilate = 0; dilate < 2; dilate++) {
        const uint8_t *from = dilate ? r->eroded : r->mask;
        uint8_t *to = dilate ? r->mask : r->eroded;
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) {
                const size_t i = (size_t)y * w + x;
                const int up = y > 0 && from[i - w], down = y < h - 1 && from[i + w];
                const int left = x > 0 && from[i - 1], right = x < w - 1 && from[i + 1];
                to[i] = dilate ? from[i] || up || down || left || right
                               : from[i] && up && down && left && right;
            }
    }
}

typedef struct {
    double n, y, x, weight;
} component;

/* Components of the mask, four neighbours; returns how many. */
static int find_components(reduced *r, component *found)
{
    const int h = r->height, w = r->width;
    int n = 0;
    memset(r->component, 0, sizeof *r->component * h * w);
    for (int start = 0; start < h * w && n < MOST_COMPONENTS; start++) {
        if (!r->mask[start] || r->component[start])
            continue;
        component *one = found + n++;
        *one = (component){0};
        int first = 0, last = 0;
        r->queue[last++] = start;
        r->component[start] = n;
        while (first < last) {
            const int i = r->queue[first++], y = i / w, x = i % w;
            const double closeness = 1 - from_middle(r, y, x) / (4 * CENTRED * CENTRED);
            one->n++;
            one->y += y;
            one->x += x;
            one->weight += closeness > 0 ? closeness : 0;
            const int neighbours[4] = {y > 0 ? i - w : i, y < h - 1 ? i + w : i,
                                       x > 0 ? i - 1 : i, x < w - 1 ? i + 1 : i};
            for (int k = 0; k < 4; k++)
                if (r->mask[neighbours[k]] && !r->component[neighbours[k]]) {
                    r->component[neighbours[k]] = n;
                    r->queue[last++] = neighbours[k];
                }
        }
        one->y /= one->n;
        one->x /= one->n;
    }
    return n;
}

/* Leaves in the mask the component most in the middle and the lobes near it. */
static void keep_nucleus(reduced *r, const component *found, int n, const uint8_t *middle)
{
    const double pi = 3.141592653589793;
    uint8_t keep[MOST_COMPONENTS + 1] = {0};
    int best = 0;
    for (int i = 1; i < n; i++)
        if (found[i].weight > found[best].weight)
            best = i;
    const double radius = sqrt(found[best].n / pi);
    for (int i = 0; i < n; i++) {
        const double dy = found[i].y - found[best].y, dx = found[i].x - found[best].x;
        keep[i + 1] = sqrt(dy * dy + dx * dx) < LOBE_DISTANCE * radius + sqrt(found[i].n / pi) &&
                      25 * found[i].n > found[best].n &&
                      from_middle(r, found[i].y, found[i].x) < 4 * LOBE_MIDDLE * LOBE_MIDDLE;
    }
    const int size = r->height * r->width;
    for (int i = 0; i < size; i++)
        r->mask[i] = keep[r->component[i]] && middle[i];
}

static void measure_nucleus(const reduced *r, wbc_leukocyte *found)
{
    const int n = r->height * r->width;
    int64_t area = 0, down = 0, across = 0;
    for (int i = 0; i < n; i++)
        if (r->mask[i]) {
            area++;
            down += i / r->width;
            across += i % r->width;
        }
    if (area < SMALLEST_NUCLEUS)
        return;
    found->area = (double)area * r->factor * r->factor;
    found->y = ((double)down / area + 0.5) * r->factor - 0.5;
    found->x = ((double)across / area + 0.5) * r->factor - 0.5;
    /* Lower median of each channel, by halving the range. */
    for (int c = 0; c < 3; c++) {
        int low = 0, high = INT16_MAX;
        while (low < high) {
            const int half = (low + high) / 2;
            int64_t below = 0;
            for (int i = 0; i < n; i++)
                below += r->mask[i] && r->density[3 * i + c] <= half;
            if (2 * below >= area)
                high = half;
            else
                low = half + 1;
        }
        found->density[c] = (double)low / DENSITY_UNIT;
    }
}

static int find_leukocyte(const uint8_t *image, int height, int width, wbc_leukocyte *found)
{
    memset(found, 0, sizeof *found);
    reduced r;
    component *components = malloc(sizeof *components * MOST_COMPONENTS);
    const int status = components ? reduce(image, height, width, &r) : WBC_OUT_OF_MEMORY;
    if (status != WBC_OK) {
        free(components);
        return status;
    }
    const int n = r.height * r.width, n_valid = find_valid(&r);
    found->lit_share = (double)n_valid / n;
    if (n_valid > 0) {
        found->background_share = find_background(&r, n_valid, found->background);
        measure_density(&r, found->background);
        uint8_t *middle = r.eroded; /* until the mask is opened */
        for (int i = 0; i < n; i++)
            middle[i] = r.valid[i] && from_middle(&r, i / r.width, i % r.width) < 4 * MIDDLE * MIDDLE;
        double sum[2], count[2];
        int32_t least = otsu(&r, middle, INT32_MIN, sum, count);
        const int32_t denser = least == INT32_MAX ? least : otsu(&r, middle, least, sum, count);
        if (denser != INT32_MAX && 2 * sum[1] * count[0] > 3 * sum[0] * count[1])
            least = denser;
        for (int i = 0; i < n; i++)
            r.mask[i] = r.valid[i] && r.stained[i] >= least && r.stained[i] > 0;
        open_mask(&r);
        const int n_components = find_components(&r, components);
        for (int i = 0; i < n; i++)
            middle[i] = from_middle(&r, i / r.width, i % r.width) < 4 * MIDDLE * MIDDLE;
        if (n_components > 0) {
            keep_nucleus(&r, components, n_components, middle);
            measure_nucleus(&r, found);
        }
    }
    free(r.stained);
    free(components);
    return WBC_OK;
}

enum { WEIGHT_BITS = 14, KEPT_BITS = 6 }; /* of weights; of a grey level after the first pass */

typedef struct {
    int first, n;    /* pixels of the image that a new one is made of */
    int outside;     /* weight of those that lie beyond its edge */
} tap_range;

/* Weights of `side` new pixels, `distance` old ones apart, about `centre`: most x side. */
static void make_taps(double centre, double distance, int side, int length, int most,
                      tap_range *ranges, int16_t *weights)
{
    const double reach = distance > 1 ? distance : 1;
    for (int i = 0; i < side; i++) {
        const double at = centre + (i - (side - 1) / 2.0) * distance;
        const int first = (int)ceil(at - reach), last = (int)floor(at + reach);
        double sum = 0;
        for (int j = first; j <= last; j++)
            sum += 1 - fabs(j - at) / reach;
        tap_range *range = ranges + i;
        *range = (tap_range){first > 0 ? first : 0, 0, 1 << WEIGHT_BITS};
        for (int j = range->first; j <= last && j < length && range->n < most; j++) {
            const int weight = (int)lrint((1 - fabs(j - at) / reach) / sum * (1 << WEIGHT_BITS));
            weights[(size_t)i * most + range->n++] = (int16_t)weight;
            range->outside -= weight;
        }
    }
}

/* A row of 64ths of grey levels: the weighted sum of some rows of bytes. */
static void add_rows(const uint8_t *restrict rows, size_t stride, int n, const int16_t *weights,
                     const int32_t *restrict outside, int width, int32_t *restrict sums,
                     int16_t *restrict out)
{
    for (int x = 0; x < width; x++)
        sums[x] = outside[x] + (1 << (WEIGHT_BITS - KEPT_BITS - 1));
    for (int j = 0; j < n; j++) {
        const uint8_t *restrict row = rows + j * stride;
        const int32_t weight = weights[j];
        for (int x = 0; x < width; x++)
            sums[x] += weight * row[x];
    }
    for (int x = 0; x < width; x++)
        out[x] = (int16_t)(sums[x] >> (WEIGHT_BITS - KEPT_BITS));
}

static int resample_square(const wbc_square *job)
{
    const double distance = 1 / job->scale;
    const int side = job->side, most = 2 * (int)ceil(distance > 1 ? distance : 1) + 2;
    tap_range *down = malloc(sizeof *down * 2 * side), *across = down + side;
    int16_t *weights = calloc((size_t)2 * side * most, sizeof *weights);
    int32_t *sums = malloc(sizeof *sums * job->width * 6);
    int16_t *row = malloc(sizeof *row * job->width * 3);
    const int enough = down && weights && sums && row;
    if (enough) {
        int16_t *across_weights = weights + (size_t)side * most;
        make_taps(job->y, distance, side, job->height, most, down, weights);
        make_taps(job->x, distance, side, job->width, most, across, across_weights);
        int left = job->width, right = 0; /* columns that are read */
        for (int i = 0; i < side; i++)
            if (across[i].n > 0) {
                left = across[i].first < left ? across[i].first : left;
                right = across[i].first + across[i].n > right ? across[i].first + across[i].n : right;
            }
        if (right < left)
            right = left = 0;
        int32_t *outside = sums + job->width * 3;
        for (int i = 0; i < side; i++) {
            for (int x = 0; x < (right - left); x++)
                for (int c = 0; c < 3; c++)
                    outside[3 * x + c] = down[i].outside * job->background[c];
            add_rows(job->image + ((size_t)down[i].first * job->width + left) * 3,
                     (size_t)job->width * 3, down[i].n, weights + (size_t)i * most, outside,
                     3 * (right - left), sums, row);
            for (int k = 0; k < side; k++) {
                const int16_t *weight = across_weights + (size_t)k * most;
                const int16_t *pixel = row + 3 * (across[k].first - left);
                uint8_t *out = job->out + ((size_t)i * side + k) * 3;
                const int fade = job->fade[(size_t)i * side + k];
                for (int c = 0; c < 3; c++) {
                    int32_t sum = across[k].outside * (job->background[c] << KEPT_BITS) +
                                  (1 << (WEIGHT_BITS + KEPT_BITS - 1));
                    for (int j = 0; j < across[k].n; j++)
                        sum += weight[j] * pixel[3 * j + c];
                    sum >>= WEIGHT_BITS + KEPT_BITS;
                    const int level = job->tables[c * 256 + (sum < 0 ? 0 : sum > 255 ? 255 : sum)];
                    out[c] = (uint8_t)(job->white + (((level - job->white) * fade + 128) >> 8));
                }
            }
        }
    }
    free(down);
    free(weights);
    free(sums);
    free(row);
    return enough ? WBC_OK : WBC_OUT_OF_MEMORY;
}
