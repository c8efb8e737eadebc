/* Sparse codes: many small lassos that share one Gram matrix. For each signal
 *
 *     minimise over z    1/2 |y|^2 - q'z + 1/2 z'Qz + alpha |z|_1        (z >= 0 if positive)
 *
 * where Q = BB' + kappa I (h x h), q = Bx + kappa f and |y|^2 = |x|^2 + kappa |f|^2, that is
 * 1/2 |x - B'z|^2 + alpha |z|_1 + kappa/2 |z - f|^2. With r = q - Qz, z is optimal when
 *
 *     r_j = alpha sign(z_j)  where z_j != 0,     |r_j| <= alpha elsewhere (positive: r_j <= alpha).
 *
 * Active set: on a set S of coordinates with known signs the lasso is a linear system, solved with
 * the inverse H of Q[S,S], which grows and shrinks by one row in |S|^2 operations.
 *
 *     1. r = q - Qz, afresh (so no drift); stop on the relative duality gap;
 *     2. add to S the worst coordinates with |r_j| > alpha;
 *     3. go along d = H (r_S - alpha sign_S) until done or some z_i reaches 0: it leaves S, repeat.
 *
 * Greedy coordinate descent: the coordinate whose step changes its r_j most moves, r -= step Q[j].
 * It takes over where the active set cannot go on: signatures that are linearly dependent, or more
 * than max_active of them at once. (A coordinate costs |S|^2 operations in H, a step of descent h:
 * with a well-conditioned Q and many non-zeros, descent is the cheaper one.)
 *
 * Gap: the residual rho has |rho|^2 = |y|^2 - z'q - z'r and y'rho = |y|^2 - z'q; shrunk by
 * t <= alpha / max r it is dual feasible, so
 *
 *     gap = 1/2 |rho|^2 + alpha |z|_1 - t y'rho + t^2/2 |rho|^2.
 */
#include "interrupt.h"
#include "simd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One thread's scratch. Vectors over S are `stride` long, zero past n_active, the others ld. */
typedef struct {
    patience *waiting; /* shared by all threads */
    int is_caller;     /* the thread that called sparse_code */
    int n_active, max_active, stride;
    int32_t *active;  /* S */
    double *z, *sign; /* over S, as the next three: codes and their signs */
    double *rest;     /* r - alpha sign */
    double *step;     /* where z is to go */
    double *u;        /* H times the column of Q that is to enter */
    double *inverse;  /* H, max_active x stride */
    float *r;
    float *dense;    /* z, all of it */
    float *diagonal; /* of Q */
    int32_t *slot;   /* place in S, or -1 */
    int32_t *worst;  /* coordinates that violate, room for WIDTH more; as the next */
    float *size;     /* by how much they do */
} work;

static int work_alloc(work *w, const wbc_lasso *p)
{
    int cap = p->h < p->max_active ? p->h : p->max_active;
    w->max_active = cap;
    w->stride = (cap + 31) / 32 * 32 + 40; /* an odd number of cache lines, to spread the rows */
    size_t over = (size_t)w->stride, ld = (size_t)p->ld;
    double *a = calloc((over * (6 + (size_t)cap) + 4 * ld + 16), sizeof *a);
    w->z = a;
    if (!a)
        return WBC_OUT_OF_MEMORY;
    w->sign = a += over;
    w->rest = a += over;
    w->step = a += over;
    w->u = a += over;
    w->inverse = a += over;
    w->r = (float *)(a += over * (size_t)cap);
    w->dense = w->r + ld;
    w->diagonal = w->dense + ld;
    w->slot = (int32_t *)(w->diagonal + ld);
    w->worst = w->slot + ld;
    w->size = (float *)(w->worst + ld + WIDTH);
    w->active = (int32_t *)(w->size + ld + WIDTH);
    for (int j = 0; j < p->h; j++) {
        w->slot[j] = -1;
        w->diagonal[j] = p->gram[(size_t)j * ld + (size_t)j];
    }
    return WBC_OK;
}

/* r += scale Q[j] */
static void add_row(const wbc_lasso *p, float *r, int j, float scale)
{
    const float *row = p->gram + (size_t)j * p->ld;
    vec a = vec_set(scale);
    for (int k = 0; k < p->ld; k += WIDTH)
        vec_store(r + k, vec_fma(a, vec_load(row + k), vec_load(r + k)));
}

/* r = q - Qz, z given by its non-zeros */
static void fresh_gradient(const wbc_lasso *p, const float *q, int n, const int32_t *index,
                           const float *value, float *r)
{
    memcpy(r, q, (size_t)p->ld * sizeof *q);
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        const float *g0 = p->gram + (size_t)index[i] * p->ld;
        const float *g1 = p->gram + (size_t)index[i + 1] * p->ld;
        const float *g2 = p->gram + (size_t)index[i + 2] * p->ld;
        const float *g3 = p->gram + (size_t)index[i + 3] * p->ld;
        vec z0 = vec_set(-value[i]), z1 = vec_set(-value[i + 1]);
        vec z2 = vec_set(-value[i + 2]), z3 = vec_set(-value[i + 3]);
        for (int j = 0; j < p->ld; j += WIDTH) {
            vec a = vec_fma(z0, vec_load(g0 + j), vec_load(r + j));
            a = vec_fma(z1, vec_load(g1 + j), a);
            a = vec_fma(z2, vec_load(g2 + j), a);
            vec_store(r + j, vec_fma(z3, vec_load(g3 + j), a));
        }
    }
    for (; i < n; i++)
        add_row(p, r, index[i], -value[i]);
}

/* The same with sums in double, for signals whose progress is lost in the rounding of floats */
static void precise_gradient(const wbc_lasso *p, const float *q, int n, const int32_t *index,
                             const float *value, float *r)
{
    for (int j = 0; j < p->ld; j += WIDTH) {
        vec_double low = vec_double_widen(q + j), high = vec_double_widen(q + j + DOUBLE_WIDTH);
        for (int i = 0; i < n; i++) {
            const float *row = p->gram + (size_t)index[i] * p->ld + j;
            vec_double z = vec_double_set(-(double)value[i]);
            low = vec_double_fma(z, vec_double_widen(row), low);
            high = vec_double_fma(z, vec_double_widen(row + DOUBLE_WIDTH), high);
        }
        vec_double_narrow(r + j, low);
        vec_double_narrow(r + j + DOUBLE_WIDTH, high);
    }
}

/* Largest r_j (positive) or |r_j|, at least 0 */
static float peak_gradient(const wbc_lasso *p, const float *r)
{
    vec peak = {0};
    for (int j = 0; j < p->ld; j += WIDTH) {
        vec a = vec_load(r + j);
        peak = vec_max(p->positive ? a : vec_abs(a), peak);
    }
    float most = 0;
    for (int k = 0; k < WIDTH; k++)
        most = peak[k] > most ? peak[k] : most;
    return most;
}

/* Objective of z and its relative duality gap, at the fresh gradient r */
static float relative_gap(const wbc_lasso *p, const float *q, double energy, int n,
                          const int32_t *index, const float *value, const float *r, double peak,
                          double *objective)
{
    double zq = 0, zr = 0, l1 = 0;
    for (int i = 0; i < n; i++) {
        double z = value[i];
        zq += z * q[index[i]];
        zr += z * r[index[i]];
        l1 += fabs(z);
    }
    double rho2 = energy - zq - zr, y_rho = energy - zq;
    rho2 = rho2 > 0 ? rho2 : 0;
    double t = rho2 > 0 && y_rho > 0 ? y_rho / rho2 : y_rho > 0;
    t = t * peak > p->alpha ? p->alpha / peak : t;
    *objective = 0.5 * rho2 + p->alpha * l1;
    double gap = *objective - t * y_rho + 0.5 * t * t * rho2;
    return *objective > 0 && gap > 0 ? (float)(gap / *objective) : 0;
}

/* out = H v over S, zero past it */
static void times_inverse(const work *w, const double *v, double *out)
{
    int s = w->n_active;
    for (int j = 0; j <= s; j += 4 * DOUBLE_WIDTH) {
        vec_double a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
        const double *row = w->inverse + j;
        for (int i = 0; i < s; i++, row += w->stride) {
            vec_double vi = vec_double_set(v[i]);
            a0 = vec_double_fma(vi, vec_double_load(row), a0);
            a1 = vec_double_fma(vi, vec_double_load(row + DOUBLE_WIDTH), a1);
            a2 = vec_double_fma(vi, vec_double_load(row + 2 * DOUBLE_WIDTH), a2);
            a3 = vec_double_fma(vi, vec_double_load(row + 3 * DOUBLE_WIDTH), a3);
        }
        vec_double_store(out + j, a0);
        vec_double_store(out + j + DOUBLE_WIDTH, a1);
        vec_double_store(out + j + 2 * DOUBLE_WIDTH, a2);
        vec_double_store(out + j + 3 * DOUBLE_WIDTH, a3);
    }
}

/* H += scale v v' over S */
static void add_rank_one(work *w, const double *v, double scale)
{
    int s = w->n_active;
    double *row = w->inverse;
    for (int i = 0; i < s; i++, row += w->stride) {
        const vec_double a = vec_double_set(scale * v[i]);
        for (int j = 0; j < s; j += DOUBLE_WIDTH) {
            const vec_double old = vec_double_load(row + j);
            vec_double_store(row + j, vec_double_fma(a, vec_double_load(v + j), old));
        }
    }
}

/* Coordinate S[i] leaves S: it trades places with the last one, and the last row and column of H
 * are then taken out of the rest. */
static void leave(work *w, int i)
{
    int last = w->n_active - 1;
    double *row_i = w->inverse + (size_t)i * w->stride;
    double *row_last = w->inverse + (size_t)last * w->stride;
    w->slot[w->active[i]] = -1;
    if (i != last) {
        for (int k = 0; k <= last; k++) {
            double a = row_i[k];
            row_i[k] = row_last[k];
            row_last[k] = a;
        }
        double *row = w->inverse;
        for (int k = 0; k <= last; k++, row += w->stride) {
            double a = row[i];
            row[i] = row[last];
            row[last] = a;
        }
        w->active[i] = w->active[last];
        w->slot[w->active[i]] = i;
        w->z[i] = w->z[last];
        w->sign[i] = w->sign[last];
        w->rest[i] = w->rest[last];
    }
    double corner = row_last[last];
    row_last[last] = 0;
    w->n_active = last;
    add_rank_one(w, row_last, -1 / corner);
    for (int k = 0; k < last; k++)
        w->inverse[(size_t)k * w->stride + last] = row_last[k] = 0;
    w->z[last] = w->sign[last] = w->rest[last] = 0;
}

/* Shortens `reach` so that z + reach step has no z_i past zero; the place of the one that is then
 * zero, or -1 */
static int first_zero(const work *w, double *reach)
{
    int blocked = -1;
    for (int i = 0; i < w->n_active; i++)
        if (w->sign[i] * (w->z[i] + *reach * w->step[i]) < 0) {
            *reach = -w->z[i] / w->step[i];
            blocked = i;
        }
    return blocked;
}

static void move(work *w, double reach)
{
    for (int i = 0; i < w->n_active; i++)
        w->z[i] += reach * w->step[i];
}

static const double DEPENDENT = 1e-6; /* eigenvalue, over a diagonal entry, taken for rounding */

/* Let coordinate j into S at z_j = z; returns whether it is in. Where its column depends on those
 * of S it takes the place of one of them: z goes along the null direction (-u, 1), downhill for a
 * violator, until a z_i reaches zero and leaves. */
static int enter(const wbc_lasso *p, work *w, int j, double z, double sign)
{
    const float *column = p->gram + (size_t)j * p->ld;
    for (int attempt = 0; attempt < 2 && w->n_active < w->max_active; attempt++) {
        int s = w->n_active;
        double pivot = column[j], length = 1, *g = w->step;
        for (int i = 0; i < s; i++)
            g[i] = column[w->active[i]];
        times_inverse(w, g, w->u);
        for (int i = 0; i < s; i++) {
            pivot -= g[i] * w->u[i];
            length += w->u[i] * w->u[i];
        }
        double rest = w->r[j] - p->alpha * sign;
        if (pivot > DEPENDENT * column[j] * length) {
            w->u[s] = -1;
            w->n_active = s + 1;
            add_rank_one(w, w->u, 1 / pivot);
            w->active[s] = j;
            w->slot[j] = s;
            w->z[s] = z;
            w->sign[s] = sign;
            w->rest[s] = rest;
            return 1;
        }
        if (sign * rest <= 0)
            return 0;
        for (int i = 0; i < s; i++)
            w->step[i] = -sign * w->u[i];
        double reach = pivot > 0 ? sign * rest / pivot : INFINITY;
        int blocked = first_zero(w, &reach);
        if (blocked < 0)
            return 0;
        move(w, reach);
        z += sign * reach;
        leave(w, blocked);
    }
    return 0;
}

/* S empty, H zero */
static void clear(work *w)
{
    for (int i = 0; i < w->n_active; i++) {
        memset(w->inverse + (size_t)i * w->stride, 0, (size_t)w->n_active * sizeof *w->inverse);
        w->slot[w->active[i]] = -1;
        w->z[i] = w->sign[i] = w->rest[i] = 0;
    }
    w->n_active = 0;
}

/* Newton steps on S until its own lasso is solved, dropping what reaches zero. */
static void solve_active(work *w)
{
    while (w->n_active > 0) {
        double reach = 1;
        times_inverse(w, w->rest, w->step);
        int blocked = first_zero(w, &reach);
        move(w, reach);
        if (blocked < 0)
            return;
        for (int i = 0; i < w->n_active; i++)
            w->rest[i] *= 1 - reach;
        leave(w, blocked);
    }
}

/* How many of n sizes exceed the bar */
static int count_above(const float *size, int n, float bar)
{
    int many = 0;
    for (int i = 0; i < n; i++)
        many += size[i] > bar;
    return many;
}

enum { HALVINGS = 12 }; /* of the interval that holds the bar for violators */

/* Let violators into S: about the `most` worst, found by bisecting the bar they have to clear. */
static void add_worst(const wbc_lasso *p, work *w, float peak, int most)
{
    float low = p->alpha + 0.5f * (peak - p->alpha), high = peak;
    float least = p->alpha * (1 + 0.5f * p->tol);
    low = low > least ? low : least;
    int n = 0, entered = 0;
    for (int j = 0; j < p->ld; j += WIDTH) {
        const vec r = vec_load(w->r + j), size = p->positive ? r : vec_abs(r);
        n += vec_append_greater(size, vec_set(low), j, w->worst + n, w->size + n);
    }
    if (n > most)
        for (int halving = 0; halving < HALVINGS; halving++) {
            float middle = 0.5f * (low + high);
            int many = count_above(w->size, n, middle);
            if (many < most)
                high = middle;
            else
                low = middle;
            if (many == most)
                break;
        }
    for (int i = 0; i < n && entered < most; i++) {
        int j = w->worst[i];
        if (w->size[i] > low && w->slot[j] < 0)
            entered += enter(p, w, j, 0, w->r[j] < 0 ? -1 : 1);
    }
}

/* Non-zeros of z in `dense`, by rising index; their number */
static int list_codes(const wbc_lasso *p, work *w, int32_t *index, float *value)
{
    const float *dense = w->dense;
    int n = 0;
    for (int j = 0; j < p->ld; j += WIDTH) {
        const vec size = vec_abs(vec_load(dense + j));
        n += vec_append_greater(size, vec_set(0), j, w->worst + n, w->size + n);
    }
    for (int i = 0; i < n; i++) {
        index[i] = w->worst[i];
        value[i] = dense[index[i]];
    }
    return n;
}

/* The coordinate whose step changes its own r_j most; -1 where all that is left is rounding. The
 * lasso in z_j alone has z_j Q_jj = v - alpha, v + alpha or 0, with v = r_j + z_j Q_jj. */
static int greediest(const wbc_lasso *p, const work *w)
{
    vec most = vec_set(1e-6f * p->alpha), alpha = vec_set(p->alpha), zero = {0};
    vec_int where = {0}, here;
    where -= 1;
    for (int k = 0; k < WIDTH; k++)
        here[k] = k;
    for (int j = 0; j < p->ld; j += WIDTH, here += WIDTH) {
        vec now = vec_load(w->diagonal + j) * vec_load(w->dense + j), v = vec_load(w->r + j) + now;
        vec target = vec_max(v - alpha, zero);
        if (!p->positive)
            target -= vec_max(-v - alpha, zero);
        vec size = vec_abs(target - now);
        vec_int more = size > most;
        most = vec_max(size, most);
        where = vec_choose(more, here, where);
    }
    int best = 0;
    for (int k = 1; k < WIDTH; k++)
        if (most[k] > most[best] || (most[k] == most[best] && where[k] < where[best]))
            best = k;
    return where[best];
}

enum { GREEDY_STEPS = 128 }; /* between two fresh gradients */

/* Up to GREEDY_STEPS steps of coordinate descent on z = dense; how many were made */
static int greedy_steps(const wbc_lasso *p, work *w)
{
    for (int k = 0; k < GREEDY_STEPS; k++) {
        int j = greediest(p, w);
        if (j < 0)
            return k;
        float v = w->r[j] + w->diagonal[j] * w->dense[j];
        float above = v - p->alpha, below = p->positive ? 0 : -v - p->alpha;
        float z = ((above > 0 ? above : 0) - (below > 0 ? below : 0)) / w->diagonal[j];
        if (z == w->dense[j])
            return k;
        add_row(p, w->r, j, w->dense[j] - z);
        w->dense[j] = z;
    }
    return GREEDY_STEPS;
}

enum { PATIENCE = 5 }; /* rounds of the active set without progress before greedy takes over */
static const float ROUNDING_SHARE = 0.5f; /* of tol: the rest is for the rounding of q and Q */

/* One signal: its codes, by rising index; returns their relative gap. Descent finishes what the
 * active set could not. */
static float solve_one(const wbc_lasso *p, const float *q, double energy, work *w, int32_t *index,
                       float *value, int32_t *count)
{
    double objective, best = INFINITY;
    int round = 0, idle = 0, precise = 0;
    float gap = 0, target = ROUNDING_SHARE * p->tol;
    clear(w);
    memset(w->dense, 0, (size_t)p->ld * sizeof *w->dense);
    if (!p->greedy) {
        for (;; round++) {
            int n = w->n_active;
            for (int i = 0; i < n; i++)
                value[i] = (float)w->z[i];
            (precise ? precise_gradient : fresh_gradient)(p, q, n, w->active, value, w->r);
            float peak = peak_gradient(p, w->r);
            gap = relative_gap(p, q, energy, n, w->active, value, w->r, peak, &objective);
            idle = objective < best * (1 - 1e-7) ? 0 : idle + 1;
            best = objective < best ? objective : best;
            precise |= idle > 0;
            if (gap <= target || round >= p->max_iter || idle >= PATIENCE ||
                (n == w->max_active && n < p->h) || out_of_patience(w->waiting, w->is_caller))
                break;
            for (int i = 0; i < n; i++)
                w->rest[i] = w->r[w->active[i]] - p->alpha * w->sign[i];
            add_worst(p, w, peak, n / 2 + 1);
            solve_active(w);
        }
        for (int i = 0; i < w->n_active; i++)
            w->dense[w->active[i]] = (float)w->z[i];
        *count = list_codes(p, w, index, value);
        if (gap <= p->tol)
            return gap;
    }
    for (int moved = 1;; round++) {
        int n = *count = list_codes(p, w, index, value);
        precise_gradient(p, q, n, index, value, w->r);
        float peak = peak_gradient(p, w->r);
        gap = relative_gap(p, q, energy, n, index, value, w->r, peak, &objective);
        if (gap <= target || round >= p->max_iter || !moved ||
            out_of_patience(w->waiting, w->is_caller))
            return gap;
        moved = greedy_steps(p, w);
    }
}

static int sparse_code(const wbc_lasso *p, int n, const float *q, const double *energy,
                       int32_t *index, float *value, int32_t *count, float *gap, int n_threads,
                       wbc_interrupted interrupted)
{
    int status = WBC_OK;
    work *scratch = calloc((size_t)n_threads, sizeof *scratch);
    if (!scratch)
        return WBC_OUT_OF_MEMORY;
    for (int t = 0; t < n_threads && status == WBC_OK; t++)
        status = work_alloc(scratch + t, p);
    if (status == WBC_OK) {
        patience waiting = start_patience(interrupted);
        for (int t = 0; t < n_threads; t++) {
            scratch[t].waiting = &waiting;
            scratch[t].is_caller = t == 0;
        }
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
        for (int i = 0; i < n; i++) {
            work *own = scratch + omp_get_thread_num();
            if (out_of_patience(own->waiting, own->is_caller))
                continue;
            size_t at = (size_t)i * (size_t)p->h;
            gap[i] = solve_one(p, q + (size_t)i * p->ld, energy[i], own, index + at, value + at,
                               count + i);
        }
        status = end_patience(&waiting);
    }
    for (int t = 0; t < n_threads; t++)
        free(scratch[t].z);
    free(scratch);
    return status;
}
