/* The C face of wbcprof: shapes, error codes and the table of kernels.
 *
 * Arrays are C-contiguous float32 unless said otherwise; the caller has checked every shape.
 * Kernels return WBC_OK or an error code, never print and never exit.
 */
#ifndef WBCPROF_H
#define WBCPROF_H

#include <stddef.h>
#include <stdint.h>

enum {
    WBC_OK = 0,
    WBC_OUT_OF_MEMORY = 1,
    WBC_INTERRUPTED = 2,
};

/* Asked about every tenth of a second, by the thread that called the kernel, whether to give up:
 * the kernel then returns WBC_INTERRUPTED, and what it was to fill is undefined. */
typedef int (*wbc_interrupted)(void);

/* Signatures are handled in blocks of this many; arrays over signatures are padded to it. */
enum { WBC_SIGNATURE_BLOCK = 32 };

/* F(m, r) with m + r - 1 points: more than eight lose too many digits in float32. */
enum { WBC_MAX_POINTS = 8 };

typedef enum { WBC_SIGMOID, WBC_TANH, WBC_RECTIFIED, WBC_SOFT_THRESHOLD } wbc_nonlinearity;

/* OUT, over the windows of each part: n_images x n_parts x n_signatures, NULL where not wanted. */
typedef struct {
    float *shift;  /* the part's first code; starts as NaN, NULL where sum is */
    float *sum;    /* of code - shift; starts at 0, as square and active */
    float *square; /* of (code - shift)^2 */
    float *max;    /* starts at -infinity */
    float *active; /* number of windows whose unit is active */
    /* What rounding took of each, zeros at the start; NULL, but with square, where windows are few. */
    float *sum_lost, *square_lost, *active_lost;
} wbc_statistics;

/* One call of encode_pool; the formula opens encode_pool.c. n_signatures is padded. */
typedef struct {
    /* IN, images: n_images x height x width x channels, floats or indices into pixel_table */
    const uint8_t *bytes;
    const float *floats;
    const float *pixel_table; /* 256 */
    int n_images, height, width, channels;

    /* IN, windows: window (i, j) starts at pixel (i * step, j * step) and belongs to the part
     * part_of_window[i * columns + j] */
    int patch, step, rows, columns;
    const int32_t *part_of_window;
    int n_parts;

    /* IN, form: tiles of up to tile x tile windows, each cut into taps x taps tap squares of
     * square x square pixels. The windows of a tile lie `dilation` windows apart, and so do the
     * squares of a window. With points = tile + taps - 1, the matrices for tiles of length n are at
     * [n - 1] of the transforms, with zeros on the right and below. */
    int square, dilation, taps, tile;
    const float *input_transforms;  /* B': tile x points x points */
    const float *output_transforms; /* A': tile x tile x points */
    int n_features;          /* of a square: square * square * channels, or of its projection */
    const float *projection; /* square * square * channels x n_features, rows padded with zeros to a
                              * multiple of 16; or NULL */

    /* IN, encoder */
    int n_signatures;
    const float *filters; /* block of signatures x points^2 x n_features x WBC_SIGNATURE_BLOCK */
    const float *colour;  /* n_signatures x channels: response to one unit of a channel */
    const float *offset, *gain, *threshold; /* n_signatures */
    wbc_nonlinearity nonlinearity;
    float contrast_epsilon; /* negative: no contrast normalisation */

    wbc_statistics out;
} wbc_encode_pool;

/* Many lassos that share one Gram matrix; the formula is in sparse_code.c. */
typedef struct {
    const float *gram; /* Q, h x ld, columns past h zero */
    int h, ld;         /* ld: h rounded up to a multiple of WBC_SIGNATURE_BLOCK */
    float alpha;
    int positive;   /* codes >= 0 */
    int greedy;     /* descent alone, without an active set */
    float tol;      /* relative duality gap to stop at */
    int max_iter;   /* fresh gradients per signal */
    int max_active; /* largest active set, beyond it greedy takes over */
} wbc_lasso;

/* OUT of find_leukocyte; leukocyte.c says how. */
typedef struct {
    double lit_share;        /* of the pixels: those that are neither black nor beside black */
    uint8_t background[3];   /* grey levels; 0 where nothing is lit */
    double background_share; /* of the lit pixels: those of about this colour */
    double clipped_share;    /* of the lit pixels: those at the upper end of a channel */
    double area, y, x;       /* of the nucleus, px^2, and its centre; area 0 where there is none */
    double others;           /* area of what is stained alike, and no part of it, px^2 */
    double density[3];       /* its median optical density over the background, natural logarithm */
} wbc_leukocyte;

/* One call of resample_square: the formula opens leukocyte.c. */
typedef struct {
    const uint8_t *image; /* IN height x width x 3 */
    int height, width;
    double y, x;               /* IN centre of the square, px of the image */
    double scale;              /* IN new pixels for each of the image */
    const uint8_t *background; /* IN 3: what lies beyond its edges */
    const uint8_t *tables;     /* IN 3 x 256: grey levels to grey levels, after resampling */
    const int16_t *fade;       /* IN side x side: 256 as it is, 0 white */
    int white;                 /* IN grey level */
    int side;
    uint8_t *out; /* OUT side x side x 3 */
} wbc_square;

/* One call of match_focus. */
typedef struct {
    uint8_t *cell; /* IN and OUT height x width x 3 */
    int height, width;
    const int16_t *fade; /* IN height x width: where it is 256, sharpness is measured */
    double wanted;       /* IN how blurred it is to be, px^2 */
    double found;        /* OUT how blurred it was */
} wbc_focus;

/* Part of a field, which is reduced by a whole number. finder.c explains all that follows. */
typedef struct {
    const uint8_t *image; /* IN its first pixel, of height * factor rows */
    size_t stride;        /* IN bytes of a row of the field */
    int factor;
    int height, width; /* IN px of the reduced tile */
} wbc_tile;

/* Light of parts of a field, and between which of them each row and column of a tile lies. */
typedef struct {
    int rows, columns;
    const int32_t *parts;                          /* IN rows x columns x 3: 1024 log(light + 4) */
    const int32_t *row, *row_weight;               /* IN the part before; 256ths of the next */
    const int32_t *column, *column_weight;
} wbc_light;

typedef struct {
    double down, across;  /* sums of rows and columns of the pixels of the nucleus */
    double nucleus, area; /* px^2, of the nucleus and of the cell */
    double stained;       /* mean of the nucleus */
    double top, left, bottom, right; /* of the cell, the last two excluded */
} wbc_found;

/* One call of find_leukocytes. */
typedef struct {
    int height, width;      /* IN of the reduced tile */
    const int16_t *density; /* IN 3 x height x width */
    const int16_t *stained; /* IN height x width */
    double unit;            /* IN diameter of a red cell, px */
    int foreground;         /* IN density of green of the background, at most */
    double red_cells;       /* IN what is stained of a red cell */
    double level;           /* IN between that, 0, and the densest of a candidate, 1 */
    int n_densest;          /* IN pixels that are denser than what the densest is taken for */
    int low;                /* IN candidates are stained more */
    double contrast;        /* IN what is stained more may have any colour */
    double colour;          /* IN red and green over blue of all else, at least */
    int32_t *nuclei, *cells; /* OUT height x width: number of the leukocyte, 0 for none */
    wbc_found *found;        /* OUT: room for one of each least nucleus */
} wbc_finder;

/* One row of the table: everything that is compiled once per instruction set. */
typedef struct {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    int (*encode_pool)(const wbc_encode_pool *job, int n_threads, wbc_interrupted interrupted);

    /* out[n x n_signatures] = patches[n x m] times signatures' (block of signatures x m x
     * WBC_SIGNATURE_BLOCK; n_signatures is padded). */
    int (*correlate)(int n, int m, const float *patches, int n_signatures, const float *signatures,
                     float *out, wbc_interrupted interrupted);

    /* Codes of n signals, given by linear terms q (n x ld) and energies |y|^2 (n). Signal i gets
     * count[i] non-zeros, by rising index, in index[i*h ...] and value[i*h ...], and its relative
     * duality gap in gap[i]. */
    int (*sparse_code)(const wbc_lasso *problem, int n, const float *q, const double *energy,
                       int32_t *index, float *value, int32_t *count, float *gap, int n_threads,
                       wbc_interrupted interrupted);

    /* These take a fraction of a millisecond and are not interrupted. */
    int (*find_leukocyte)(const uint8_t *image, int height, int width, wbc_leukocyte *found);
    int (*resample_square)(const wbc_square *job);
    int (*match_focus)(wbc_focus *job);

    /* Light (n_parts x 3) of parts of a tile that lie beside one another, from lefts[i] on to
     * lefts[i + 1]. */
    int (*measure_light)(const wbc_tile *tile, int n_parts, const int32_t *lefts, uint8_t *light);

    /* Densities (3 x height x width) of a tile, and what is stained (height x width). */
    int (*stain_field)(const wbc_tile *tile, const wbc_light *light, int16_t *density,
                       int16_t *stained);
    int (*find_leukocytes)(const wbc_finder *job, int *n_found);
} wbc_kernels;

/* The kernels in use: the best that this CPU runs, or the level set by wbc_cap. */
const wbc_kernels *wbc_active(void);

/* Names of the levels that this CPU can run, slowest first; NULL past the last. */
const char *wbc_level_name(int index);

/* Use the level called `name`; returns 0, or -1 where this CPU or build has no such level. */
int wbc_cap(const char *name);

#endif
