/* All kernels of one instruction set, as one table row: compiled once per set, see meson.build. */
#include "wbcprof.h"

#include "correlate.c"
#include "encode_pool.c"
#include "leukocyte.c"
#include "finder.c"
#include "sparse_code.c"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)

const wbc_kernels CONCAT(wbc_kernels_, WBC_ISA) = {
    .name = STRING(WBC_ISA),
    .encode_pool = encode_pool,
    .correlate = correlate,
    .sparse_code = sparse_code,
    .find_leukocyte = find_leukocyte,
    .resample_square = resample_square,
    .match_focus = match_focus,
    .measure_light = measure_light,
    .stain_field = stain_field,
    .find_leukocytes = find_leukocytes,
};
