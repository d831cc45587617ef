// attention_gpu.cl: softmax attention and its gradients for GPUs, without the score matrix.
//
//   S[b,m,n] = sum over d of Q(b,m,d) * K(b,n,d)        T = SCORE(S)  (scale, mask, bias …)
//   P = softmax of T over n                             O[b,m,e] = sum over n of P * V(b,n,e)
//
// Given G = dO and with H[b,m] = max over n of T (0 where that is -inf), Z[b,m] = sum over n of
// exp(T - H) and W[b,m] = sum over e of O * G:
//
//   P = exp(T - H) / Z   dP = sum over e of G(b,m,e) * V(b,n,e)       dT = P * (dP - W)
//   dV[b,n,e] = sum over m of P * G     dS = GRAD(S, dT)
//   dQ[b,m,d] = sum over n of dS * K    dK[b,n,d] = sum over m of dS * Q
//
// b, m, n, d and e are flattened groups of axes; what an index means in memory, and what SCORE
// and GRAD compute, is the host's (the holes below). As it stands the file computes O, H and Z of
// plain row-major float32 buffers.
//
// STAGE 0 computes O, H and Z, 1 computes dQ, 2 computes dK and dV. A work-group owns TC *columns* of
// one b (queries in stages 0 and 1, keys in stage 2) and goes through all *rows* (the others), TR
// at a time. Columns and rows stand in local memory as [column][D] and [row][D] (and E), with one
// element between them against bank conflicts. Work-item (x, y) of SIDE x SIDE holds
//     the scores of columns x + SIDE*i and rows y + SIDE*j, and
//     the sums of columns x + SIDE*i and widths y + SIDE*j
// in registers; the weights go through local memory from one to the other. Maximum and sum of a
// column's softmax are one work-item's: rows rising, the same in every run; no atomics.
//
// Launch: one dimension. Local size (SIDE*SIDE); global size (GROUPS * SIDE*SIDE), where
//   GROUPS = BATCH * ceil(COLUMNS / TC); the tile of columns is fastest.
// Source of the method: M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax",
//   2018; M. Rabe and C. Staats, "Self-attention does not need O(n^2) memory", 2021; T. Dao et al.,
//   "FlashAttention", 2022 (its backward pass).

#pragma OPENCL FP_CONTRACT ON

#ifndef STAGE
#define STAGE 0
#endif

// ---- Extents ----------------------------------------------------------------------------------
#ifndef BATCH
#define BATCH 1
#endif
#ifndef M
#define M 512         // queries
#endif
#ifndef N
#define N 512         // keys
#endif
#ifndef D
#define D 64          // width of queries and keys
#endif
#ifndef E
#define E 64          // width of values
#endif

// ---- Tile parameters ----------------------------------------------------------------------------
#ifndef ACC_T
#define ACC_T float   // type of products and sums: float or double
#endif
#ifndef SIDE
#define SIDE 8        // work-items along columns, and along rows
#endif
#ifndef TC
#define TC 32         // columns of a work-group, a multiple of SIDE
#endif
#ifndef TR
#define TR 32         // rows of a step, a multiple of SIDE
#endif
#ifndef CAUSAL
#define CAUSAL 0      // 1: scores of keys n > m + OFFSET are -inf, and steps of them are left out
#endif
#ifndef OFFSET
#define OFFSET 0
#endif
#ifndef STATS
#define STATS 1       // stage 0: whether H and Z are stored
#endif
#ifndef WANT_DK
#define WANT_DK 1     // stage 2: what is stored
#endif
#ifndef WANT_DV
#define WANT_DV 1
#endif

#define ITEMS (SIDE * SIDE)
#define RC (TC / SIDE)
#define RR (TR / SIDE)
#define RD ((D + SIDE - 1) / SIDE)
#define RE ((E + SIDE - 1) / SIDE)
#define COLUMNS (STAGE == 2 ? N : M)
#define ROWS (STAGE == 2 ? M : N)
#if TC % SIDE != 0 || TR % SIDE != 0 || TC > ITEMS || TR > ITEMS
#error "TC and TR must be multiples of SIDE, and not more than the work-items"
#endif

// ---- Holes --------------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME attention_gpu
#endif
#ifndef PARAMS
#define PARAMS __global const float *restrict Q, __global const float *restrict K, \
               __global const float *restrict V, __global float *restrict O, \
               __global float *restrict H, __global float *restrict Z
#define LOAD_Q(b, m, d) Q[((size_t)(b) * M + (m)) * D + (d)]
#define LOAD_K(b, n, d) K[((size_t)(b) * N + (n)) * D + (d)]
#define LOAD_V(b, n, e) V[((size_t)(b) * N + (n)) * E + (e)]
#define SCORE(b, m, n, s) ((s) * 0.125f)
#define STORE_O(b, m, e, acc) O[((size_t)(b) * M + (m)) * E + (e)] = (acc)
#define STORE_H(b, m, acc) H[(size_t)(b) * M + (m)] = (acc)
#define STORE_Z(b, m, acc) Z[(size_t)(b) * M + (m)] = (acc)
// Stages 1 and 2 also call LOAD_G and LOAD_O (b, m, e), LOAD_H and LOAD_Z (b, m), GRAD (b, m, n,
// s, g), and STORE_DQ (b, m, d, acc), STORE_DK (b, n, d, acc), STORE_DV (b, n, e, acc).
#endif

// Copy `count` rows (or columns) from `first` on into local memory, zero beyond the last.
#define FETCH(tile, count, first, limit, width, LOAD_ONE)                                 \
    for (int i = item; i < (count) * (width); i += ITEMS) {                               \
        const int at = i / (width);                                                       \
        const int k = i % (width);                                                        \
        tile[at * ((width) + 1) + k] =                                                    \
            (first) + at < (limit) ? LOAD_ONE(b, (first) + at, k) : 0;                    \
    }

// acc[j][i] = sum over k of rows[y + SIDE*j][k] * columns[x + SIDE*i][k]
#define MULTIPLY(acc, row_tile, column_tile, width)                                       \
    for (int k = 0; k < (width); ++k) {                                                   \
        ACC_T own_rows[RR], own_columns[RC];                                              \
        for (int j = 0; j < RR; ++j)                                                      \
            own_rows[j] = row_tile[(y + SIDE * j) * ((width) + 1) + k];                   \
        for (int i = 0; i < RC; ++i)                                                      \
            own_columns[i] = column_tile[(x + SIDE * i) * ((width) + 1) + k];             \
        for (int j = 0; j < RR; ++j)                                                      \
            for (int i = 0; i < RC; ++i)                                                  \
                acc[j][i] = own_rows[j] * own_columns[i] + acc[j][i];                     \
    }

// sums[j][i] += sum over rows r of rows[r][y + SIDE*j] * weights[r][x + SIDE*i]
#define ACCUMULATE(sums, row_tile, weights, width, each)                                  \
    for (int r = 0; r < TR; ++r) {                                                        \
        ACC_T own[RC];                                                                    \
        for (int i = 0; i < RC; ++i)                                                      \
            own[i] = weights[r * (TC + 1) + x + SIDE * i];                                \
        for (int j = 0; j < (each); ++j) {                                                \
            const int k = y + SIDE * j;                                                   \
            const ACC_T factor = k < (width) ? row_tile[r * ((width) + 1) + k] : 0;       \
            for (int i = 0; i < RC; ++i)                                                  \
                sums[j][i] = factor * own[i] + sums[j][i];                                \
        }                                                                                 \
    }

#define STORE_SUMS(sums, width, each, factor, STORE_ONE)                                  \
    for (int i = 0; i < RC; ++i) {                                                        \
        const int c = c0 + x + SIDE * i;                                                  \
        for (int j = 0; j < (each); ++j) {                                                \
            const int k = y + SIDE * j;                                                   \
            if (c < COLUMNS && k < (width)) {                                             \
                STORE_ONE(b, c, k, sums[j][i] factor);                                    \
            }                                                                             \
        }                                                                                 \
    }

#if STAGE == 2
#define SCORE_AT(r, c, s) SCORE(b, r, c, s)
#define GRAD_AT(r, c, s, g) GRAD(b, r, c, s, g)
#else
#define SCORE_AT(r, c, s) SCORE(b, c, r, s)
#define GRAD_AT(r, c, s, g) GRAD(b, c, r, s, g)
#endif
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local ACC_T d_columns[TC * (D + 1)];
    __local ACC_T d_rows[TR * (D + 1)];
    __local ACC_T e_rows[TR * (E + 1)];
    __local ACC_T weights[TR * (TC + 1)];
#if STAGE != 0
    __local ACC_T e_columns[TC * (E + 1)];
    __local ACC_T grads[TR * (TC + 1)];
    __local ACC_T high[STAGE == 2 ? TR : TC];       // H, 1 / Z and W, of rows or of columns
    __local ACC_T scale[STAGE == 2 ? TR : TC];
    __local ACC_T inner[STAGE == 2 ? TR : TC];
#else
    __local ACC_T base[TC];                         // what is subtracted from a column
    __local ACC_T rescale[TC];
    ACC_T top = -INFINITY;                          // of column `item`
    ACC_T total = 0;
#endif
    const int item = (int)get_local_id(0);
    const int x = item % SIDE;
    const int y = item / SIDE;
    const int tiles = (COLUMNS + TC - 1) / TC;
    const int b = (int)get_group_id(0) / tiles;
    const int c0 = (int)get_group_id(0) % tiles * TC;
    int first_row = 0;
    int last_row = ROWS;
#if CAUSAL && STAGE == 2
    first_row = clamp((c0 - OFFSET) / TR * TR, 0, ROWS);
#elif CAUSAL
    last_row = clamp(min(c0 + TC, COLUMNS) + OFFSET, 0, ROWS);
#endif

#if STAGE == 2
    FETCH(d_columns, TC, c0, COLUMNS, D, LOAD_K)
    FETCH(e_columns, TC, c0, COLUMNS, E, LOAD_V)
#else
    FETCH(d_columns, TC, c0, COLUMNS, D, LOAD_Q)
#endif
#if STAGE == 1
    FETCH(e_columns, TC, c0, COLUMNS, E, LOAD_G)
    if (item < TC) {
        ACC_T w = 0;
        for (int e = 0; e < E && c0 + item < COLUMNS; ++e)
            w += LOAD_O(b, c0 + item, e) * LOAD_G(b, c0 + item, e);
        inner[item] = w;
        high[item] = c0 + item < COLUMNS ? LOAD_H(b, c0 + item) : 0;
        scale[item] = c0 + item < COLUMNS ? 1 / LOAD_Z(b, c0 + item) : 0;
    }
#endif
#if STAGE != 1
    ACC_T e_sums[RE][RC];
    for (int j = 0; j < RE; ++j)
        for (int i = 0; i < RC; ++i)
            e_sums[j][i] = 0;
#endif
#if STAGE != 0
    ACC_T d_sums[RD][RC];
    for (int j = 0; j < RD; ++j)
        for (int i = 0; i < RC; ++i)
            d_sums[j][i] = 0;
#endif

    for (int r0 = first_row; r0 < last_row; r0 += TR) {
#if STAGE == 2
        FETCH(d_rows, TR, r0, last_row, D, LOAD_Q)
        FETCH(e_rows, TR, r0, last_row, E, LOAD_G)
        if (item < TR) {
            ACC_T w = 0;
            for (int e = 0; e < E && r0 + item < last_row; ++e)
                w += LOAD_O(b, r0 + item, e) * LOAD_G(b, r0 + item, e);
            inner[item] = w;
            high[item] = r0 + item < last_row ? LOAD_H(b, r0 + item) : 0;
            scale[item] = r0 + item < last_row ? 1 / LOAD_Z(b, r0 + item) : 0;
        }
#else
        FETCH(d_rows, TR, r0, last_row, D, LOAD_K)
        FETCH(e_rows, TR, r0, last_row, E, LOAD_V)
#endif
        BARRIER;  // the rows are there

        ACC_T scores[RR][RC];
        for (int j = 0; j < RR; ++j)
            for (int i = 0; i < RC; ++i)
                scores[j][i] = 0;
        MULTIPLY(scores, d_rows, d_columns, D)
#if STAGE == 0
        for (int j = 0; j < RR; ++j) {
            for (int i = 0; i < RC; ++i) {
                const int r = r0 + y + SIDE * j;
                const int c = c0 + x + SIDE * i;
                if (r >= last_row) {
                    scores[j][i] = -INFINITY;
                } else if (c < COLUMNS) {
                    scores[j][i] = SCORE_AT(r, c, scores[j][i]);
                }
                weights[(y + SIDE * j) * (TC + 1) + x + SIDE * i] = scores[j][i];
            }
        }
        BARRIER;  // all scores are there
        if (item < TC) {
            ACC_T high = top;
            for (int r = 0; r < TR; ++r) {
                const ACC_T s = weights[r * (TC + 1) + item];
                high = ((s > high) || (s != s)) ? s : high;
            }
            // Of -inf alone so far, nothing is subtracted: the sums stay 0.
            base[item] = high == -INFINITY ? 0 : high;
            rescale[item] = exp(top - base[item]);
            top = high;
        }
        BARRIER;  // all maxima are there
        for (int j = 0; j < RR; ++j) {
            for (int i = 0; i < RC; ++i) {
                weights[(y + SIDE * j) * (TC + 1) + x + SIDE * i] =
                    exp(scores[j][i] - base[x + SIDE * i]);
            }
        }
        for (int j = 0; j < RE; ++j)
            for (int i = 0; i < RC; ++i)
                e_sums[j][i] *= rescale[x + SIDE * i];
        BARRIER;  // all weights are there
        if (item < TC) {
            ACC_T sum = 0;
            for (int r = 0; r < TR; ++r)
                sum += weights[r * (TC + 1) + item];
            total = total * rescale[item] + sum;
        }
        ACCUMULATE(e_sums, e_rows, weights, E, RE)
#else
        ACC_T slopes[RR][RC];
        for (int j = 0; j < RR; ++j)
            for (int i = 0; i < RC; ++i)
                slopes[j][i] = 0;
        MULTIPLY(slopes, e_rows, e_columns, E)
        for (int j = 0; j < RR; ++j) {
            for (int i = 0; i < RC; ++i) {
                const int r = r0 + y + SIDE * j;
                const int c = c0 + x + SIDE * i;
                const int own = STAGE == 2 ? y + SIDE * j : x + SIDE * i;
                ACC_T weight = 0;
                ACC_T g = 0;
                if (r < last_row && c < COLUMNS) {
                    const ACC_T s = scores[j][i];
                    weight = exp(SCORE_AT(r, c, s) - high[own]) * scale[own];
                    g = weight * (slopes[j][i] - inner[own]);
                    g = GRAD_AT(r, c, s, g);
                }
                weights[(y + SIDE * j) * (TC + 1) + x + SIDE * i] = weight;
                grads[(y + SIDE * j) * (TC + 1) + x + SIDE * i] = g;
            }
        }
        BARRIER;  // all weights are there
#if STAGE == 2 && WANT_DV
        ACCUMULATE(e_sums, e_rows, weights, E, RE)
#endif
#if STAGE == 1 || WANT_DK
        ACCUMULATE(d_sums, d_rows, grads, D, RD)
#endif
#endif
        BARRIER;  // rows and weights have been read by all
    }

#if STAGE == 0
    if (item < TC) {
        rescale[item] = total;
#if STATS
        if (c0 + item < COLUMNS) {
            STORE_H(b, c0 + item, top == -INFINITY ? 0 : top);
            STORE_Z(b, c0 + item, total);
        }
#endif
    }
    BARRIER;
    STORE_SUMS(e_sums, E, RE, / rescale[x + SIDE * i], STORE_O)
#elif STAGE == 1
    STORE_SUMS(d_sums, D, RD, , STORE_DQ)
#else
#if WANT_DK
    STORE_SUMS(d_sums, D, RD, , STORE_DK)
#endif
#if WANT_DV
    STORE_SUMS(e_sums, E, RE, , STORE_DV)
#endif
#endif
}
