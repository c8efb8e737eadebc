/* q = X B': every patch with every signature.
 *
 * The register block of multiply.h takes CHUNK features at a time, and its sums are added up: that
 * loses fewer digits than one long sum. No sum's order depends on the rows around it.
 */
#include "interrupt.h"
#include "multiply.h"

#include <stdlib.h>

/* values[feature / WIDTH][row][feature % WIDTH] of n rows of m features. */
static void lay_out(int n, int m, const float *rows, float *values)
{
    for (int feature = 0; feature < m; feature += WIDTH, values += TILES * WIDTH)
        for (int row = 0; row < n; row++)
            memcpy(values + row * WIDTH, rows + (size_t)row * m + feature,
                   sizeof(float) * smaller(m - feature, WIDTH));
}

enum { CHUNK = 256 }; /* features */

/* out[row * stride + signature] of n <= TILES rows and a block of signatures. */
static void correlate_block(int n, int m, const float *values, const float *signatures, float *out,
                            size_t stride)
{
    float products[TILES * BLOCK];
    for (int feature = 0; feature < m; feature += CHUNK) {
        multiply_block(n, smaller(m - feature, CHUNK), values + (size_t)feature * TILES,
                       signatures + (size_t)feature * BLOCK, products, BLOCK);
        for (int row = 0; row < n; row++)
            for (int i = 0; i < BLOCK; i += WIDTH) {
                vec sum = vec_load(products + row * BLOCK + i);
                float *total = out + row * stride + i;
                if (feature > 0)
                    sum += vec_load(total);
                vec_store(total, sum);
            }
    }
}

enum { PANEL_TILES = 4 }; /* groups of TILES patches that share a reading of all signatures */

static int correlate(int n, int m, const float *patches, int n_signatures, const float *signatures,
                     float *out, wbc_interrupted interrupted)
{
    const size_t group = (size_t)(m + WIDTH - 1) / WIDTH * WIDTH * TILES;
    float *values = malloc(sizeof *values * group * PANEL_TILES);
    if (!values)
        return WBC_OUT_OF_MEMORY;
    patience waiting = start_patience(interrupted);
    for (int panel = 0; panel < n && !waiting.stopped; panel += PANEL_TILES * TILES) {
        const int end = smaller(panel + PANEL_TILES * TILES, n);
        for (int row = panel; row < end; row += TILES)
            lay_out(smaller(end - row, TILES), m, patches + (size_t)row * m,
                    values + (row - panel) / TILES * group);
        for (int block = 0; block < n_signatures && !out_of_patience(&waiting, 1); block += BLOCK)
            for (int row = panel; row < end; row += TILES)
                correlate_block(smaller(end - row, TILES), m,
                                values + (row - panel) / TILES * group,
                                signatures + (size_t)block * m,
                                out + (size_t)row * n_signatures + block, n_signatures);
    }
    free(values);
    return end_patience(&waiting);
}
