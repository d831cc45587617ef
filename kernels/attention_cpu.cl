// attention_cpu.cl: softmax attention and its gradients for CPU devices, without the score matrix.
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
// STAGE 0 computes O, H and Z, 1 computes dQ, 2 computes dK and dV. A work-item owns CB *columns* of
// one b (queries in stages 0 and 1, keys in stage 2) and goes through all *rows* (the others) in
// blocks of RB. Columns are vector lanes throughout, in panels of NR = NV * VW:
//
//              fixed: [depth][NR]                    sums: [width][NR]
//              +--------+                            +--------+
//              | Q^T    |                            | O^T    |   += rows_block^T * scores
//              +--------+                            +--------+
//    +---------+--------+
// RB | K block | scores |   RB x NR, in the L1 cache: scores, then weights, in place. The maximum
//    +---------+--------+   and the sum of a softmax run down the columns, lane by lane.
//
// Both products take their left factor from a row block as it lies in memory, [row][depth], by
// broadcasts: nothing is transposed but the fixed columns, once per work-item. The softmax is
// the running one: a larger maximum rescales the sums so far by exp(old - new). A row of -inf
// alone gives NaN, as exp(-inf) / 0 does. Order of summation: rows rising, one accumulator an
// element, the same in every run; no atomics. dQ and dK, dV each compute the scores again.
//
// Launch: global size (BATCH * ceil(COLUMNS / CB)), local size (1); the columns' block is fastest.
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
#ifndef VW
#define VW 8          // lanes of a vector
#endif
#ifndef MR
#define MR 6          // rows of the register tile
#endif
#ifndef NV
#define NV 2          // vectors per row of the register tile
#endif
#ifndef CB
#define CB 64         // columns of a work-item, a multiple of NV*VW
#endif
#ifndef RB
#define RB 48         // rows of a block, a multiple of MR
#endif
#ifndef CAUSAL
#define CAUSAL 0      // 1: scores of keys n > m + OFFSET are -inf, and blocks of them are left out
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
// Whether the holes *_V are there: Q_UNIT, K_UNIT … read and write VW neighbours of d or e;
// SCORE_V and GRAD_V take VW neighbouring columns, which must be at least VW then.
#ifndef Q_UNIT
#define Q_UNIT 0
#endif
#ifndef K_UNIT
#define K_UNIT 0
#endif
#ifndef V_UNIT
#define V_UNIT 0
#endif
#ifndef G_UNIT
#define G_UNIT 0
#endif
#ifndef WIDE
#define WIDE 0        // whether SCORE_V and GRAD_V are there
#endif
#ifndef OWN_EXP
#define OWN_EXP 1     // 1: the exponential below, for floats; 0: the driver's
#endif

#define NR (NV * VW)
#define PANELS (CB / NR)
#define COLUMNS (STAGE == 2 ? N : M)
#define ROWS (STAGE == 2 ? M : N)
#define D_PITCH ((D + MR - 1) / MR * MR)
#define E_PITCH ((E + MR - 1) / MR * MR)
#if CB % NR != 0 || RB % MR != 0
#error "CB must be a multiple of NV*VW, and RB of MR"
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define ACC_V JOIN(ACC_T, VW)
#define LESSER(x, y) ((x) < (y) ? (x) : (y))
typedef ACC_V unaligned_v __attribute__((aligned(sizeof(ACC_T))));
#define VEC_PRIVATE(p) (*(unaligned_v *)(p))

// ---- Holes --------------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME attention_cpu
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

// e to x for x <= 88, below -87: 0. Cephes' polynomial, as in the project's other kernels, which
// also take the smallest numbers apart; weights below 1e-38 do not show beside one of 1.
static inline ACC_V exponential(ACC_V x)
{
#if defined(__FAST_RELAXED_MATH__) || !OWN_EXP
    return exp(x);
#else
    const ACC_V shifted = x * 1.44269504f + 12582912.0f;
    const ACC_V whole = shifted - 12582912.0f;
    const ACC_V r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    ACC_V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    p = JOIN(as_float, VW)(JOIN(as_int, VW)(p) + (JOIN(as_int, VW)(shifted) << 23));
    return x >= -87.0f ? p : (x < -87.0f ? (ACC_V)0 : x);
#endif
}

// scores[r][NR] = sum over k of block[r][k] * fixed[k][NR]; rows come in multiples of MR.
static inline void multiply(const ACC_T *block, int pitch, int rows, int depth,
                            const ACC_V *fixed, ACC_V *scores)
{
    for (int r = 0; r < rows; r += MR) {
        ACC_V acc[MR][NV];
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                acc[i][v] = 0;
        }
        for (int k = 0; k < depth; ++k) {
            ACC_V f[NV];
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                f[v] = fixed[k * NV + v];
            #pragma unroll
            for (int i = 0; i < MR; ++i) {
                const ACC_V a = (ACC_V)(block[(r + i) * pitch + k]);
                #pragma unroll
                for (int v = 0; v < NV; ++v)
                    acc[i][v] = a * f[v] + acc[i][v];
            }
        }
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                scores[(r + i) * NV + v] = acc[i][v];
        }
    }
}

// sums[c][NR] = sums[c][NR] * rescale + sum over r of block[r][c] * scores[r][NR]
static inline void accumulate(const ACC_T *block, int pitch, int rows, const ACC_V *scores,
                              const ACC_V *rescale, ACC_V *sums)
{
    for (int c = 0; c < pitch; c += MR) {
        ACC_V acc[MR][NV];
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                acc[i][v] = sums[(c + i) * NV + v] * rescale[v];
        }
        for (int r = 0; r < rows; ++r) {
            ACC_V f[NV];
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                f[v] = scores[r * NV + v];
            #pragma unroll
            for (int i = 0; i < MR; ++i) {
                const ACC_V a = (ACC_V)(block[r * pitch + c + i]);
                #pragma unroll
                for (int v = 0; v < NV; ++v)
                    acc[i][v] = a * f[v] + acc[i][v];
            }
        }
        #pragma unroll
        for (int i = 0; i < MR; ++i) {
            #pragma unroll
            for (int v = 0; v < NV; ++v)
                sums[(c + i) * NV + v] = acc[i][v];
        }
    }
}

// Copy rows r0 … r0+rows-1 of an operand into a block [row][pitch], zero up to `pitch` and to the
// next multiple of MR rows. Tails are one loop with a condition, as in einsum_cpu.cl.
#define PACK_VECTORS(LOAD_VECTOR, width)                                                  \
    for (; i + VW <= (width); i += VW)                                                    \
        VEC_PRIVATE(row + i) = LOAD_VECTOR(b, r0 + r, i);
#define PACK_NOTHING(LOAD_VECTOR, width)
#define PACK(block, pitch, width, VECTORS, LOAD_ONE, LOAD_VECTOR)                         \
    for (int r = 0; r < padded; ++r) {                                                    \
        ACC_T *row = (block) + r * (pitch);                                               \
        int i = 0;                                                                        \
        if (r < rows) {                                                                   \
            VECTORS(LOAD_VECTOR, width)                                                   \
        }                                                                                 \
        for (; i < (pitch); ++i)                                                          \
            row[i] = r < rows && i < (width) ? LOAD_ONE(b, r0 + r, i) : 0;                \
    }
#if Q_UNIT
#define Q_VECTORS PACK_VECTORS
#else
#define Q_VECTORS PACK_NOTHING
#endif
#if K_UNIT
#define K_VECTORS PACK_VECTORS
#else
#define K_VECTORS PACK_NOTHING
#endif
#if V_UNIT
#define V_VECTORS PACK_VECTORS
#else
#define V_VECTORS PACK_NOTHING
#endif
#if G_UNIT
#define G_VECTORS PACK_VECTORS
#else
#define G_VECTORS PACK_NOTHING
#endif

// Columns c0 … of an operand as panels [depth][NR], zero beyond the last.
#define PACK_FIXED(fixed, width, LOAD_ONE)                                                \
    for (int c = 0; c < CB; ++c) {                                                        \
        ACC_T *lane = (ACC_T *)(fixed) + c / NR * ((width) * NR) + c % NR;                \
        for (int i = 0; i < (width); ++i)                                                 \
            lane[i * NR] = c < columns ? LOAD_ONE(b, c0 + c, i) : 0;                      \
    }

// Call STORE_ONE for every element of sums [panel][pitch][NR].
#define STORE_SUMS(sums, pitch, width, STORE_ONE)                                         \
    for (int c = 0; c < columns; ++c) {                                                   \
        const ACC_T *lane = (const ACC_T *)(sums) + c / NR * ((pitch) * NR) + c % NR;     \
        for (int i = 0; i < (width); ++i)                                                 \
            STORE_ONE(b, c0 + c, i, lane[i * NR]);                                        \
    }

// Replace x, a score of row r0+r and the columns of vector v, by what a hole makes of it (and of
// g, an lvalue of its own for scalars). The scalar hole serves the last columns.
#if STAGE == 2
#define SCORE_AT(HOLE, r, c, s) HOLE(b, r0 + (r), c0 + (c), s)
#define GRAD_AT(HOLE, r, c, s, g) HOLE(b, r0 + (r), c0 + (c), s, g)
#else
#define SCORE_AT(HOLE, r, c, s) HOLE(b, c0 + (c), r0 + (r), s)
#define GRAD_AT(HOLE, r, c, s, g) HOLE(b, c0 + (c), r0 + (r), s, g)
#endif
#define EACH_LANE(statement)                                                              \
    for (int lane = 0; lane < VW && first + lane < columns; ++lane) { statement; }

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    const int c_blocks = (COLUMNS + CB - 1) / CB;
    const int item = (int)get_global_id(0);
    const int b = item / c_blocks;
    const int c0 = item % c_blocks * CB;
    const int columns = LESSER(CB, COLUMNS - c0);
    int first_row = 0;
    int last_row = ROWS;
#if CAUSAL && STAGE == 2
    first_row = c0 - OFFSET < 0 ? 0 : LESSER((c0 - OFFSET) / RB * RB, ROWS);
#elif CAUSAL
    last_row = c0 + columns + OFFSET < 0 ? 0 : LESSER(c0 + columns + OFFSET, ROWS);
#endif

    ACC_V scores[RB * NV];
#if STAGE != 0
    ACC_V one[NV];
    for (int v = 0; v < NV; ++v)
        one[v] = 1;
#endif
#if STAGE == 2
    ACC_T d_block[RB * D_PITCH] __attribute__((aligned(64)));   // Q
    ACC_T e_block[RB * E_PITCH] __attribute__((aligned(64)));   // G
    ACC_T h_block[RB];
    ACC_T z_block[RB];                                          // 1 / Z
    ACC_T w_block[RB];
#else
    ACC_T d_block[RB * D_PITCH] __attribute__((aligned(64)));   // K
    ACC_T e_block[RB * E_PITCH] __attribute__((aligned(64)));   // V
#endif
    ACC_V d_fixed[PANELS * D * NV];
#if STAGE == 2
    PACK_FIXED(d_fixed, D, LOAD_K)
#else
    PACK_FIXED(d_fixed, D, LOAD_Q)
#endif
#if STAGE == 0
    ACC_V top[PANELS * NV];
    ACC_V total[PANELS * NV];
    for (int i = 0; i < PANELS * NV; ++i) {
        top[i] = -INFINITY;
        total[i] = 0;
    }
#else
    ACC_V grads[RB * NV];
    ACC_V e_fixed[PANELS * E * NV];
#endif
#if STAGE != 1
    ACC_V e_sums[PANELS * E_PITCH * NV];
    for (int i = 0; i < PANELS * E_PITCH * NV; ++i)
        e_sums[i] = 0;
#endif
#if STAGE != 0
    ACC_V d_sums[PANELS * D_PITCH * NV];
    for (int i = 0; i < PANELS * D_PITCH * NV; ++i)
        d_sums[i] = 0;
#endif
#if STAGE == 1
    ACC_V h_fixed[PANELS * NV];
    ACC_V z_fixed[PANELS * NV];
    ACC_V w_fixed[PANELS * NV];
    PACK_FIXED(e_fixed, E, LOAD_G)
    for (int c = 0; c < CB; ++c) {
        ACC_T w = 0;
        #pragma clang loop vectorize(disable)  // Intel's compiler gets sums of -x wrong
        for (int e = 0; e < E && c < columns; ++e)
            w += LOAD_O(b, c0 + c, e) * LOAD_G(b, c0 + c, e);
        ((ACC_T *)w_fixed)[c] = w;
        ((ACC_T *)h_fixed)[c] = c < columns ? LOAD_H(b, c0 + c) : 0;
        ((ACC_T *)z_fixed)[c] = c < columns ? 1 / LOAD_Z(b, c0 + c) : 0;
    }
#elif STAGE == 2
    PACK_FIXED(e_fixed, E, LOAD_V)
#endif

    for (int r0 = first_row; r0 < last_row; r0 += RB) {
        const int rows = LESSER(RB, last_row - r0);
        const int padded = (rows + MR - 1) / MR * MR;
#if STAGE == 2
        PACK(d_block, D_PITCH, D, Q_VECTORS, LOAD_Q, LOAD_Q_V)
        PACK(e_block, E_PITCH, E, G_VECTORS, LOAD_G, LOAD_G_V)
        for (int r = 0; r < rows; ++r) {
            ACC_T w = 0;
            #pragma clang loop vectorize(disable)
            for (int e = 0; e < E; ++e)
                w += LOAD_O(b, r0 + r, e) * e_block[r * E_PITCH + e];
            w_block[r] = w;
            h_block[r] = LOAD_H(b, r0 + r);
            z_block[r] = 1 / LOAD_Z(b, r0 + r);
        }
#else
        PACK(d_block, D_PITCH, D, K_VECTORS, LOAD_K, LOAD_K_V)
        PACK(e_block, E_PITCH, E, V_VECTORS, LOAD_V, LOAD_V_V)
#endif
        for (int panel = 0; panel * NR < columns; ++panel) {
            multiply(d_block, D_PITCH, padded, D, d_fixed + panel * D * NV, scores);

#if STAGE == 0
            // ---- the running softmax, down the columns
            ACC_V rescale[NV];
            #pragma unroll
            for (int v = 0; v < NV; ++v) {
                const int first = panel * NR + v * VW;
                const ACC_V old = top[panel * NV + v];
                ACC_V high = old;
                for (int r = 0; r < rows; ++r) {
                    ACC_V s = scores[r * NV + v];
#if WIDE
                    if (first + VW <= columns) {
                        s = SCORE_AT(SCORE_V, r, first, s);
                    } else
#endif
                    EACH_LANE(((ACC_T *)&s)[lane] =
                                  SCORE_AT(SCORE, r, first + lane, ((ACC_T *)&s)[lane]))
                    scores[r * NV + v] = s;
                    high = ((s > high) | (s != s)) ? s : high;
                }
                // Of -inf alone so far, nothing is subtracted: the sums stay 0.
                const ACC_V base = high == (ACC_V)(-INFINITY) ? (ACC_V)0 : high;
                ACC_V sum = 0;
                for (int r = 0; r < rows; ++r) {
                    const ACC_V weight = exponential(scores[r * NV + v] - base);
                    scores[r * NV + v] = weight;
                    sum += weight;
                }
                rescale[v] = exponential(old - base);
                total[panel * NV + v] = total[panel * NV + v] * rescale[v] + sum;
                top[panel * NV + v] = high;
            }
            accumulate(e_block, E_PITCH, rows, scores, rescale, e_sums + panel * E_PITCH * NV);
#else
            // ---- weights again, then the scores' gradients
            multiply(e_block, E_PITCH, padded, E, e_fixed + panel * E * NV, grads);
            for (int r = 0; r < rows; ++r) {
                #pragma unroll
                for (int v = 0; v < NV; ++v) {
                    const int first = panel * NR + v * VW;
                    const ACC_V s = scores[r * NV + v];
                    ACC_V t = s;
#if STAGE == 2
                    const ACC_V h = (ACC_V)(h_block[r]);
                    const ACC_V z = (ACC_V)(z_block[r]);
                    const ACC_V w = (ACC_V)(w_block[r]);
#else
                    const ACC_V h = h_fixed[panel * NV + v];
                    const ACC_V z = z_fixed[panel * NV + v];
                    const ACC_V w = w_fixed[panel * NV + v];
#endif
#if WIDE
                    if (first + VW <= columns) {
                        t = SCORE_AT(SCORE_V, r, first, s);
                    } else
#endif
                    EACH_LANE(((ACC_T *)&t)[lane] =
                                  SCORE_AT(SCORE, r, first + lane, ((const ACC_T *)&s)[lane]))
                    const ACC_V weight = exponential(t - h) * z;
                    ACC_V g = weight * (grads[r * NV + v] - w);
#if WIDE
                    if (first + VW <= columns) {
                        g = GRAD_AT(GRAD_V, r, first, s, g);
                    } else
#endif
                    EACH_LANE(((ACC_T *)&g)[lane] = GRAD_AT(GRAD, r, first + lane,
                                  ((const ACC_T *)&s)[lane], ((ACC_T *)&g)[lane]))
                    scores[r * NV + v] = weight;
                    grads[r * NV + v] = g;
                }
            }
#if STAGE == 2 && WANT_DV
            accumulate(e_block, E_PITCH, rows, scores, one, e_sums + panel * E_PITCH * NV);
#endif
#if STAGE == 1 || WANT_DK
            accumulate(d_block, D_PITCH, rows, grads, one, d_sums + panel * D_PITCH * NV);
#endif
#endif
        }
    }

#if STAGE == 0
    for (int panel = 0; panel * NR < columns; ++panel) {
        for (int e = 0; e < E; ++e) {
            for (int v = 0; v < NV; ++v) {
                const int at = (panel * E_PITCH + e) * NV + v;
                e_sums[at] = e_sums[at] / total[panel * NV + v];
            }
        }
    }
    STORE_SUMS(e_sums, E_PITCH, E, STORE_O)
#if STATS
    for (int c = 0; c < columns; ++c) {
        const ACC_T high = ((const ACC_T *)top)[c];
        STORE_H(b, c0 + c, high == -INFINITY ? 0 : high);
        STORE_Z(b, c0 + c, ((const ACC_T *)total)[c]);
    }
#endif
#elif STAGE == 1
    STORE_SUMS(d_sums, D_PITCH, D, STORE_DQ)
#else
#if WANT_DK
    STORE_SUMS(d_sums, D_PITCH, D, STORE_DK)
#endif
#if WANT_DV
    STORE_SUMS(e_sums, E_PITCH, E, STORE_DV)
#endif
#endif
}
