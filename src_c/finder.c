/* Leukocytes of a field, in whole numbers, so that every CPU and every tiling finds the same.
 *
 * The field is reduced, and seen in tiles; `unit` is the diameter of a red cell, px.
 *
 *     light       of a part of the field: lower median of the brightest pixels of every channel
 *     density     of each channel: 1024 log((light + 4) / (v + 4)), the logarithm of light
 *                 interpolated between the middles of parts
 *     stained     2 red + green - blue, smoothed: nuclei take up red light most in every stain
 *     candidate   what is stained above `low`, opened, and what lies within JOIN of it. Piled red
 *                 cells are no candidates: nuclei let blue light pass, which haemoglobin takes up;
 *                 what is stained above `contrast` is denser than any pile
 *     nuclei      above a level of each candidate's own, opened, joined anew; blurred it has hills,
 *                 and every pixel belongs to the nearest top: of two cells where what joins them is
 *                 somewhere narrower than they are apart, else of lobes
 *     judged      size and filling of the box
 *     cell        what is not background, reached from the nearest nucleus in `reach` steps, of one
 *                 pixel along a side and, every second one, across a corner; opened
 *     nucleus     parted from cytoplasm by the cell's own level (Otsu), and filled
 */
#include "wbcprof.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    BRIGHT = 15,          /* percent of a part's pixels, the brightest */
    MOST_DENSITY = 16384, /* above 3 * 1024 log(259 / 4) */
    MOST_TOPS = 64,
    LEAST_TOP = 15, SADDLE = 95, /* percent: of a mask without end; of the lower of two tops */
    LEAST_PART = 35, MOST_PART = 90, /* percent of the median of a nucleus: where it ends */
};
static const double JOIN = 0.25;           /* red cells between lobes */
static const double TOP_BLUR = 0.25;       /* red cells */
static const double NEAREST = 1.0;        /* red cells from one nucleus to another, at least */
static const double NECK = 0.85;           /* of that: width of what joins two cells, at most */
static const double PARTED = 0.6;          /* red cells: square root of the area of each part */
static const double SIZES[] = {0.55, 3.5}; /* red cells: square root of the area of a nucleus */
static const double LEAST_CUT = 0.4;       /* of one that the edge of the field cuts in half */
static const double LEAST_FILLING = 0.24;  /* of its box */
static const double REACH = 0.5;           /* red cells from nucleus to the edge of the cell */

/* Light of parts of reduced rows: the lower median of each channel over the brightest pixels. */
static void light_part(const uint8_t *const planes[3], int stride, int height, int left, int right,
                       uint8_t light[3])
{
    int32_t brightness[3 * 255 + 1] = {0}, levels[3][256] = {{0}};
    for (int y = 0; y < height; y++)
        for (int x = left; x < right; x++) {
            const size_t i = (size_t)y * stride + x;
            brightness[planes[0][i] + planes[1][i] + planes[2][i]]++;
        }
    const int64_t n = (int64_t)height * (right - left);
    int least = 3 * 255;
    int64_t count = brightness[least];
    while (count * 100 < n * BRIGHT)
        count += brightness[--least];
    for (int y = 0; y < height; y++)
        for (int x = left; x < right; x++) {
            const size_t i = (size_t)y * stride + x;
            if (planes[0][i] + planes[1][i] + planes[2][i] >= least)
                for (int c = 0; c < 3; c++)
                    levels[c][planes[c][i]]++;
        }
    for (int c = 0; c < 3; c++) {
        int value = 0;
        for (int64_t below = levels[c][0]; 2 * below < count;)
            below += levels[c][++value];
        light[c] = (uint8_t)value;
    }
}

static int measure_light(const wbc_tile *tile, int n_parts, const int32_t *lefts, uint8_t *lights)
{
    const size_t n = (size_t)tile->height * tile->width;
    uint8_t *block = malloc(3 * n);
    if (!block)
        return WBC_OUT_OF_MEMORY;
    uint8_t *const planes[3] = {block, block + n, block + 2 * n};
    const int status =
        reduce(tile->image, tile->stride, tile->factor, tile->height, tile->width, planes);
    if (status == WBC_OK)
        for (int j = 0; j < n_parts; j++)
            light_part((const uint8_t *const *)planes, tile->width, tile->height, lefts[j],
                       lefts[j + 1], lights + 3 * j);
    free(block);
    return status;
}

/* 1, 2, 1 along a row; edges are repeated. */
static void smooth_row(const int32_t *restrict row, int w, int32_t *restrict out)
{
    for (int x = 1; x < w - 1; x++)
        out[x] = row[x - 1] + 2 * row[x] + row[x + 1];
    out[0] = 3 * row[0] + row[w > 1 ? 1 : 0];
    if (w > 1)
        out[w - 1] = row[w - 2] + 3 * row[w - 1];
}

static void smooth_rows(const int32_t *restrict up, const int32_t *restrict row,
                        const int32_t *restrict down, int w, int16_t *restrict out)
{
    for (int x = 0; x < w; x++)
        out[x] = (int16_t)((up[x] + 2 * row[x] + down[x] + 8) >> 4);
}

/* Densities of a tile, three planes, and what is stained. */
static int stain_field(const wbc_tile *tile, const wbc_light *light, int16_t *density,
                       int16_t *stained)
{
    const int h = tile->height, w = tile->width;
    const size_t n = (size_t)h * w;
    uint8_t *block = malloc(3 * n);
    int32_t *rows = malloc(sizeof *rows * (4 * (size_t)w + 3 * (size_t)light->columns));
    int status = block && rows ? WBC_OK : WBC_OUT_OF_MEMORY;
    uint8_t *const planes[3] = {block, block + n, block + 2 * n};
    if (status == WBC_OK)
        status = reduce(tile->image, tile->stride, tile->factor, h, w, planes);
    if (status == WBC_OK) {
        int32_t logarithm[256];
        for (int v = 0; v < 256; v++)
            logarithm[v] = (int32_t)lrint(DENSITY_UNIT * log(v + DENSITY_OFFSET));
        int32_t *const raw = rows + 3 * (size_t)w, *const across = raw + w;
        for (int y = 0; y < h; y++) {
            const int above = light->row[y], wy = light->row_weight[y];
            const int below = above + (above < light->rows - 1);
            for (int j = 0; j < 3 * light->columns; j++)
                across[j] = light->parts[above * 3 * light->columns + j] * (256 - wy) +
                            light->parts[below * 3 * light->columns + j] * wy;
            memset(raw, 0, sizeof *raw * w);
            for (int c = 0; c < 3; c++) {
                static const int weights[3] = {2, 1, -1};
                const uint8_t *restrict plane = planes[c] + (size_t)y * w;
                int16_t *restrict out = density + c * n + (size_t)y * w;
                for (int x = 0; x < w; x++) {
                    const int j = light->column[x], wx = light->column_weight[x];
                    const int next = j + (j < light->columns - 1);
                    const int32_t sum = across[3 * j + c] * (256 - wx) + across[3 * next + c] * wx;
                    const int32_t lit = (sum + (1 << 15)) >> 16;
                    const int32_t dense = lit - logarithm[plane[x]];
                    out[x] = (int16_t)(dense > 0 ? dense : 0);
                    raw[x] += weights[c] * out[x];
                }
            }
            smooth_row(raw, w, rows + (size_t)(y % 3) * w);
            if (y > 0)
                smooth_rows(rows + (size_t)((y > 1 ? y - 2 : 0) % 3) * w,
                            rows + (size_t)((y - 1) % 3) * w, rows + (size_t)(y % 3) * w, w,
                            stained + (size_t)(y - 1) * w);
        }
        smooth_rows(rows + (size_t)((h > 1 ? h - 2 : 0) % 3) * w, rows + (size_t)((h - 1) % 3) * w,
                    rows + (size_t)((h - 1) % 3) * w, w, stained + (size_t)(h - 1) * w);
    }
    free(block);
    free(rows);
    return status;
}

typedef struct {
    int top, left, bottom, right; /* the last two excluded */
} box;

/* Pixels of a length in red cells, at least one. */
static int in_pixels(double length, double unit)
{
    return (int)fmax(1, floor(length * unit + 0.5));
}

static void include(box *b, int y, int x)
{
    b->top = y < b->top ? y : b->top;
    b->left = x < b->left ? x : b->left;
    b->bottom = y >= b->bottom ? y + 1 : b->bottom;
    b->right = x >= b->right ? x + 1 : b->right;
}

static const box NOWHERE = {INT32_MAX, INT32_MAX, 0, 0};

typedef struct {
    const wbc_finder *job;
    int h, w, n_found;
    uint8_t *mask, *joined, *scratch;
    int32_t *queue, *values;
    int32_t *counts; /* MOST_DENSITY */
    int32_t *window; /* two arrays of most_window */
    size_t most_window;
} finder;

/* Grows the two arrays of a window; returns WBC_OK or WBC_OUT_OF_MEMORY. */
static int make_window(finder *f, size_t n)
{
    if (n <= f->most_window)
        return WBC_OK;
    free(f->window);
    f->window = malloc(2 * n * sizeof *f->window);
    f->most_window = f->window ? n : 0;
    return f->window ? WBC_OK : WBC_OUT_OF_MEMORY;
}

/* out = sums of `in` over 2 r + 1 pixels of a row; outside counts as 0. */
static void sum_line(const int32_t *in, int n, int r, int32_t *out)
{
    int32_t sum = 0;
    for (int i = 0; i < r && i < n; i++)
        sum += in[i];
    for (int i = 0; i < n; i++) {
        sum += i + r < n ? in[i + r] : 0;
        out[i] = sum;
        sum -= i - r >= 0 ? in[i - r] : 0;
    }
}

/* out = sums of `in` over 2 r + 1 rows. */
static void sum_columns(const int32_t *restrict in, int h, int w, int r, int32_t *restrict out)
{
    memset(out, 0, sizeof *out * w);
    for (int y = 0; y < r && y < h; y++)
        for (int x = 0; x < w; x++)
            out[x] += in[(size_t)y * w + x];
    for (int y = 0; y < h; y++) {
        int32_t *restrict row = out + (size_t)y * w;
        if (y > 0)
            memcpy(row, row - w, sizeof *row * w);
        if (y + r < h)
            for (int x = 0; x < w; x++)
                row[x] += in[(size_t)(y + r) * w + x];
        if (y - r - 1 >= 0)
            for (int x = 0; x < w; x++)
                row[x] -= in[(size_t)(y - r - 1) * w + x];
    }
}

typedef struct {
    int y, x;
    int32_t height;
} top;

/* Pixels from a place in the tile to the background, in one direction; `most` if there are more. */
static int reach_background(const wbc_finder *job, int y, int x, double down, double across,
                            int most)
{
    const int16_t *green = job->density + (size_t)job->height * job->width;
    for (int t = 0; t < most; t++) {
        const int to_y = y + (int)floor(0.5 + t * down), to_x = x + (int)floor(0.5 + t * across);
        if (to_y < 0 || to_y >= job->height || to_x < 0 || to_x >= job->width ||
            green[(size_t)to_y * job->width + to_x] <= job->foreground / 2)
            return t;
    }
    return most;
}

/* Whether two tops are of two cells: somewhere between them lies a saddle, and what is there of
 * cells is somewhere narrower than they are apart, as it is not about the lobes of one nucleus. No
 * nucleus has lobes as far apart as twice its largest size. */
static bool are_apart(const wbc_finder *job, const int32_t *hills, int w, const top *a,
                      const top *b, int down, int across)
{
    const int dy = b->y - a->y, dx = b->x - a->x;
    const int n = 2 * (abs(dy) > abs(dx) ? abs(dy) : abs(dx)); /* places on the line: n + 1 */
    const double distance = sqrt((double)(dy * dy + dx * dx));
    if (distance < NEAREST * job->unit || distance > 2 * SIZES[1] * job->unit)
        return distance > NEAREST * job->unit;
    const int most = (int)(NECK * distance) + 1;
    int32_t lowest = INT32_MAX;
    int narrowest = INT32_MAX;
    for (int t = 0; t <= n; t++) {
        const int y = a->y + (int)floor(0.5 + (double)(dy * t) / n);
        const int x = a->x + (int)floor(0.5 + (double)(dx * t) / n);
        const int32_t height = hills[(size_t)y * w + x];
        const int wide =
            reach_background(job, y + down, x + across, dx / distance, -dy / distance, most) +
            reach_background(job, y + down, x + across, -dx / distance, dy / distance, most);
        lowest = height < lowest ? height : lowest;
        narrowest = wide < narrowest ? wide : narrowest;
    }
    return 100 * (int64_t)lowest <= SADDLE * (int64_t)b->height && narrowest <= NECK * distance;
}

/* Tops of hills, highest first, that are apart from all higher ones; returns how many. The window
 * of hills begins (down, across) in the tile. */
static int find_tops(const wbc_finder *job, const int32_t *hills, int h, int w, int down,
                     int across, int32_t lowest, top *tops)
{
    int n = 0;
    for (int y = 1; y < h - 1; y++)
        for (int x = 1; x < w - 1; x++) {
            const int32_t *at = hills + (size_t)y * w + x, height = *at;
            if (height < lowest || at[-w - 1] >= height || at[-w] >= height ||
                at[-w + 1] >= height || at[-1] >= height || at[1] > height || at[w - 1] > height ||
                at[w] > height || at[w + 1] > height)
                continue;
            int place = n < MOST_TOPS ? n : MOST_TOPS - 1;
            if (n == MOST_TOPS && tops[place].height >= height)
                continue;
            for (; place > 0 && tops[place - 1].height < height; place--)
                tops[place] = tops[place - 1];
            tops[place] = (top){y, x, height};
            n += n < MOST_TOPS;
        }
    int kept = 0;
    for (int i = 0; i < n; i++) {
        bool apart = true;
        for (int j = 0; j < kept && apart; j++)
            apart = are_apart(job, hills, w, tops + j, tops + i, down, across);
        if (apart)
            tops[kept++] = tops[i];
    }
    return kept;
}

/* Level of the nuclei of a candidate, given by n places in the queue. */
static int32_t own_level(finder *f, const int32_t *pixels, int n)
{
    const wbc_finder *job = f->job;
    memset(f->counts, 0, sizeof *f->counts * MOST_DENSITY);
    for (int i = 0; i < n; i++)
        f->counts[job->stained[pixels[i]]]++;
    const int wanted = n < job->n_densest ? n : job->n_densest;
    int densest = MOST_DENSITY - 1;
    for (int count = f->counts[densest]; count < wanted;)
        count += f->counts[--densest];
    const int32_t level =
        (int32_t)floor(job->red_cells + job->level * (densest - job->red_cells));
    return level > job->low ? level : job->low;
}

/* Whether n pixels may be a nucleus by their box in the tile, whose edge may cut it. */
static bool is_nucleus(const wbc_finder *job, int64_t n, const box *b)
{
    const bool is_cut = b->top == 0 || b->left == 0 || b->bottom == job->height ||
                        b->right == job->width;
    const double size = sqrt((double)n) / job->unit;
    const double around = (double)(b->bottom - b->top) * (b->right - b->left);
    return size >= (is_cut ? LEAST_CUT : SIZES[0]) && size <= SIZES[1] &&
           (double)n >= LEAST_FILLING * around;
}

/* Every pixel to the nearest top: which; how many each has, and their box. */
static void assign(const int32_t *pixels, int n, int fw, const box *window, const top *tops,
                   int n_tops, int32_t *nearest, int64_t *area, box *boxes)
{
    for (int k = 0; k < n_tops; k++) {
        area[k] = 0;
        boxes[k] = NOWHERE;
    }
    for (int i = 0; i < n; i++) {
        const int y = pixels[i] / fw, x = pixels[i] % fw;
        int best = 0, least = INT32_MAX;
        for (int k = 0; k < n_tops; k++) {
            const int dy = y - window->top - tops[k].y, dx = x - window->left - tops[k].x;
            const int distance = dy * dy + dx * dx;
            best = distance < least ? k : best;
            least = distance < least ? distance : least;
        }
        area[best]++;
        include(boxes + best, y, x);
        nearest[i] = best;
    }
}

static int least_of(const int64_t *values, int n)
{
    int least = 0;
    for (int k = 1; k < n; k++)
        least = values[k] < values[least] ? k : least;
    return least;
}

/* Nuclei among n pixels that lie close together, all in the box. */
static int part_nuclei(finder *f, const int32_t *pixels, int n, box b)
{
    const wbc_finder *job = f->job;
    const int fw = f->w, r = in_pixels(TOP_BLUR, job->unit), margin = 2 * r;
    const int h = b.bottom - b.top + 2 * margin, w = b.right - b.left + 2 * margin;
    const size_t size = (size_t)h * w;
    if (make_window(f, size) != WBC_OK)
        return WBC_OUT_OF_MEMORY;
    b.top -= margin;
    b.left -= margin;
    int32_t *const hills = f->window, *const other = hills + size;
    memset(hills, 0, sizeof *hills * size);
    for (int i = 0; i < n; i++)
        hills[(size_t)(pixels[i] / fw - b.top) * w + pixels[i] % fw - b.left] = 1;
    for (int pass = 0; pass < 3; pass++) {
        for (int y = 0; y < h; y++)
            sum_line(hills + (size_t)y * w, w, r, other + (size_t)y * w);
        sum_columns(other, h, w, r, hills);
    }
    const int64_t side = 2 * r + 1, full = side * side * side * side * side * side;
    top tops[MOST_TOPS];
    int n_tops = find_tops(job, hills, h, w, b.top, b.left,
                           (int32_t)(full * LEAST_TOP / 100), tops);
    if (n_tops == 0)
        return WBC_OK;
    int64_t area[MOST_TOPS];
    box boxes[MOST_TOPS];
    assign(pixels, n, fw, &b, tops, n_tops, other, area, boxes);
    for (int k = least_of(area, n_tops);
         n_tops > 1 && (double)area[k] < PARTED * PARTED * job->unit * job->unit;
         k = least_of(area, n_tops)) {
        memmove(tops + k, tops + k + 1, sizeof *tops * (--n_tops - k));
        assign(pixels, n, fw, &b, tops, n_tops, other, area, boxes);
    }
    int numbers[MOST_TOPS];
    for (int k = 0; k < n_tops; k++)
        numbers[k] = is_nucleus(job, area[k], boxes + k) ? ++f->n_found : 0;
    for (int i = 0; i < n; i++)
        job->nuclei[pixels[i]] = numbers[other[i]];
    return WBC_OK;
}

/* Moves the component that `start` belongs to from `joined` to the queue, four neighbours, and
 * keeps there what is in the mask too; returns how many. */
static int take_component(uint8_t *joined, const uint8_t *mask, int h, int w, int start,
                          int32_t *queue)
{
    int last = 0, kept = 0;
    queue[last++] = start;
    joined[start] = 0;
    for (int at = 0; at < last; at++) {
        const int i = queue[at], y = i / w, x = i - y * w;
        const int neighbours[4] = {y > 0 ? i - w : i, y < h - 1 ? i + w : i, x > 0 ? i - 1 : i,
                                   x < w - 1 ? i + 1 : i};
        for (int k = 0; k < 4; k++)
            if (joined[neighbours[k]]) {
                joined[neighbours[k]] = 0;
                queue[last++] = neighbours[k];
            }
        if (mask[i])
            queue[kept++] = i; /* kept <= at: that place has been read */
    }
    return kept;
}

/* Joined = the mask and what is within JOIN of it. They may change places with the scratch. */
static void join(const uint8_t *mask, int h, int w, double unit, uint8_t **joined,
                 uint8_t **scratch)
{
    memcpy(*joined, mask, (size_t)h * w);
    for (int step = in_pixels(JOIN, unit); step > 0; step--) {
        dilate(*joined, h, w, *scratch);
        uint8_t *const swapped = *joined;
        *joined = *scratch;
        *scratch = swapped;
    }
}

/* Nuclei of one candidate, n pixels: what lies above a level of its own, joined anew. */
static int part_candidate(finder *f, const int32_t *pixels, int n)
{
    const wbc_finder *job = f->job;
    const double least = LEAST_CUT * LEAST_CUT * job->unit * job->unit;
    const int fw = f->w, margin = in_pixels(JOIN, job->unit) + 1;
    box b = NOWHERE;
    for (int i = 0; i < n; i++)
        include(&b, pixels[i] / fw, pixels[i] % fw);
    const int h = b.bottom - b.top + 2 * margin, w = b.right - b.left + 2 * margin;
    const size_t size = (size_t)h * w;
    if (make_window(f, size) != WBC_OK)
        return WBC_OUT_OF_MEMORY;
    b.top -= margin;
    b.left -= margin;
    uint8_t *const mask = (uint8_t *)f->window, *joined = mask + size, *scratch = joined + size;
    int32_t *const queue = f->window + size;
    const int32_t level = own_level(f, pixels, n);
    memset(mask, 0, size);
    for (int i = 0; i < n; i++)
        if (job->stained[pixels[i]] > level)
            mask[(size_t)(pixels[i] / fw - b.top) * w + pixels[i] % fw - b.left] = 1;
    open_mask(mask, scratch, h, w);
    join(mask, h, w, job->unit, &joined, &scratch);
    int last = 0; /* values: pixels of one component after the other, the first of each inverted */
    for (size_t start = 0; start < size; start++) {
        if (!joined[start])
            continue;
        const int taken = take_component(joined, mask, h, w, (int)start, queue);
        if (taken < least)
            continue;
        for (int i = 0; i < taken; i++) {
            const int32_t at = (queue[i] / w + b.top) * fw + queue[i] % w + b.left;
            f->values[last++] = i == 0 ? ~at : at;
        }
    }
    int status = WBC_OK;
    for (int first = 0, end; first < last && status == WBC_OK; first = end) {
        f->values[first] = ~f->values[first];
        b = NOWHERE;
        for (end = first; end < last && f->values[end] >= 0; end++)
            include(&b, f->values[end] / fw, f->values[end] % fw);
        status = part_nuclei(f, f->values + first, end - first, b);
    }
    return status;
}

static int find_nuclei(finder *f)
{
    const wbc_finder *job = f->job;
    const int h = f->h, w = f->w, n = h * w;
    const int16_t *restrict stained = job->stained, *restrict red = job->density;
    const int16_t *restrict green = red + n, *restrict blue = green + n;
    const float colour = (float)job->colour;
    for (int i = 0; i < n; i++)
        f->mask[i] = (stained[i] > job->low) &
                     ((stained[i] > job->contrast) |
                      ((float)(red[i] + green[i]) > colour * (float)blue[i]));
    open_mask(f->mask, f->scratch, h, w);
    join(f->mask, h, w, job->unit, &f->joined, &f->scratch);
    for (int start = 0; start < n; start++) {
        if (!f->joined[start])
            continue;
        const int taken = take_component(f->joined, f->mask, h, w, start, f->queue);
        if (taken < LEAST_CUT * LEAST_CUT * job->unit * job->unit)
            continue;
        const int status = part_candidate(f, f->queue, taken);
        if (status != WBC_OK)
            return status;
    }
    return WBC_OK;
}

/* Every pixel that is not background, within reach of nuclei: number of the nearest. */
static void grow_cells(finder *f)
{
    const wbc_finder *job = f->job;
    const int h = f->h, w = f->w, n = h * w;
    const int16_t *restrict green = job->density + n;
    int32_t *restrict cells = job->cells;
    uint8_t *restrict step_of = f->scratch; /* when each was reached, 0 for never */
    int last = 0;
    memcpy(cells, job->nuclei, sizeof *cells * n);
    for (int i = 0; i < n; i++) {
        step_of[i] = cells[i] > 0;
        if (cells[i] > 0)
            f->queue[last++] = i;
    }
    const int steps = in_pixels(REACH, job->unit);
    int before = 0, first = 0; /* where those of the last step but one, and of the last, begin */
    for (int step = 2; step < steps + 2; step++) {
        const int end = last;
        for (int at = before; at < end; at++) {
            const int i = f->queue[at], y = i / w, x = i - y * w;
            for (int dy = -1; dy <= 1; dy++)
                for (int dx = -1; dx <= 1; dx++) {
                    if ((step % 2 == 0 && dy != 0 && dx != 0) || y + dy < 0 || y + dy >= h ||
                        x + dx < 0 || x + dx >= w)
                        continue;
                    const int to = i + dy * w + dx;
                    if (step_of[to] == 0 && green[to] > job->foreground) {
                        step_of[to] = (uint8_t)step;
                        cells[to] = cells[i];
                        f->queue[last++] = to;
                    } else if (step_of[to] == step && cells[i] < cells[to])
                        cells[to] = cells[i];
                }
        }
        before = first;
        first = end;
    }
    for (int i = 0; i < n; i++)
        f->mask[i] = cells[i] > 0;
    open_mask(f->mask, f->scratch, h, w);
    for (int i = 0; i < n; i++)
        cells[i] = f->mask[i] || job->nuclei[i] > 0 ? cells[i] : 0;
}

/* Where a nucleus ends, of n values of its cell; the median of the nucleus is `middle`. */
static int32_t parting_level(const int32_t *values, int n, int32_t middle)
{
    const int32_t level = otsu(values, n);
    const int32_t least = middle * LEAST_PART / 100, most = middle * MOST_PART / 100;
    return level < least ? least : level > most ? most : level;
}

/* Nucleus and cytoplasm of one cell, whose box is given, and what is told of it. */
static int part_cell(finder *f, int number, const box *b, wbc_found *found)
{
    const wbc_finder *job = f->job;
    const int fw = f->w, h = b->bottom - b->top + 2, w = b->right - b->left + 2;
    const size_t size = (size_t)h * w;
    if (make_window(f, size) != WBC_OK)
        return WBC_OUT_OF_MEMORY;
    int n = 0, n_seen = 0;
    memset(f->counts, 0, sizeof *f->counts * MOST_DENSITY);
    for (int y = b->top; y < b->bottom; y++)
        for (int x = b->left; x < b->right; x++) {
            const size_t at = (size_t)y * fw + x;
            if (job->cells[at] != number)
                continue;
            f->values[n++] = job->stained[at];
            if (job->nuclei[at] == number) {
                f->counts[job->stained[at]]++;
                n_seen++;
            }
        }
    int32_t middle = 0;
    for (int64_t below = f->counts[0]; 2 * below < n_seen;)
        below += f->counts[++middle];
    const int32_t level = parting_level(f->values, n, middle);

    /* Outside of the nucleus, from the rim of the window inwards. */
    uint8_t *const open = (uint8_t *)f->window;
    int32_t *const queue = f->window + size;
    memset(open, 1, size);
    for (int y = b->top; y < b->bottom; y++)
        for (int x = b->left; x < b->right; x++) {
            const size_t at = (size_t)y * fw + x;
            if (job->cells[at] == number && job->stained[at] >= level)
                open[(size_t)(y - b->top + 1) * w + x - b->left + 1] = 0;
        }
    int last = 0;
    queue[last++] = 0;
    open[0] = 2;
    for (int at = 0; at < last; at++) {
        const int i = queue[at], y = i / w, x = i - y * w;
        const int neighbours[4] = {y > 0 ? i - w : i, y < h - 1 ? i + w : i, x > 0 ? i - 1 : i,
                                   x < w - 1 ? i + 1 : i};
        for (int k = 0; k < 4; k++)
            if (open[neighbours[k]] == 1) {
                open[neighbours[k]] = 2;
                queue[last++] = neighbours[k];
            }
    }
    int64_t area = 0, down = 0, across = 0, stained = 0;
    for (int y = b->top; y < b->bottom; y++)
        for (int x = b->left; x < b->right; x++) {
            const size_t at = (size_t)y * fw + x;
            const bool own = job->cells[at] == number;
            const bool dense = job->nuclei[at] == number && job->stained[at] > middle;
            const bool inner = open[(size_t)(y - b->top + 1) * w + x - b->left + 1] != 2;
            if (own && (inner || dense)) {
                job->nuclei[at] = number;
                area++;
                down += y;
                across += x;
                stained += job->stained[at];
            } else if (job->nuclei[at] == number)
                job->nuclei[at] = 0;
        }
    *found = (wbc_found){.down = (double)down, .across = (double)across,
                         .nucleus = (double)area, .area = n, .stained = (double)stained / area,
                         .top = b->top, .left = b->left, .bottom = b->bottom, .right = b->right};
    return WBC_OK;
}

static int part_cells(finder *f)
{
    const wbc_finder *job = f->job;
    box *boxes = malloc(sizeof *boxes * ((size_t)f->n_found + 1));
    if (!boxes)
        return WBC_OUT_OF_MEMORY;
    for (int k = 0; k <= f->n_found; k++)
        boxes[k] = NOWHERE;
    for (int y = 0; y < f->h; y++)
        for (int x = 0; x < f->w; x++) {
            const int number = job->cells[(size_t)y * f->w + x];
            if (number > 0)
                include(boxes + number, y, x);
        }
    int status = WBC_OK;
    for (int k = 1; k <= f->n_found && status == WBC_OK; k++)
        status = part_cell(f, k, boxes + k, job->found + k - 1);
    free(boxes);
    return status;
}

static int find_leukocytes(const wbc_finder *job, int *n_found)
{
    const size_t n = (size_t)job->height * job->width;
    finder f = {.job = job, .h = job->height, .w = job->width};
    int32_t *block = malloc(sizeof *block * (2 * n + MOST_DENSITY) + 3 * n);
    if (!block)
        return WBC_OUT_OF_MEMORY;
    f.queue = block;
    f.values = f.queue + n;
    f.counts = f.values + n;
    f.mask = (uint8_t *)(f.counts + MOST_DENSITY);
    f.joined = f.mask + n;
    f.scratch = f.joined + n;
    memset(job->nuclei, 0, sizeof *job->nuclei * n);
    int status = find_nuclei(&f);
    if (status == WBC_OK) {
        grow_cells(&f);
        status = part_cells(&f);
    }
    *n_found = f.n_found;
    free(f.window);
    free(block);
    return status;
}
