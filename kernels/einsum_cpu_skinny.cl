// einsum_cpu_skinny.cl: batched strided contraction for CPU devices where one extent is tiny.
//
//   C[b,m,n] = EPILOGUE( sum over k of A(b,m,k) * B(b,k,n) )
//
// The same holes as einsum_cpu.cl. As it stands the file contracts plain row-major float32
// buffers. The host may exchange the roles of A and B (and of m and n) to reach a variant: with
// LOAD_A, LOAD_B and STORE written for the exchanged indices, C_UNIT says what became of C.
//
// VARIANT 1, "dot": N is 1 to 4 and both operands are read along k (A_UNIT 1; B is packed as
//   columns, or read in place with B_PACK 0 and B_UNIT 1). Vectors run along k:
//     acc[m][n][u] += A(m, k .. k+VW-1) * B(k .. k+VW-1, n),   MR*N*KU vectors of partial sums,
//   added up at the end of each K block in a fixed tree. One work-item computes MB rows.
// VARIANT 2, "strip": M is 1 to 4, B is read along n (B_UNIT 2), any k, N >= NV*VW. Vectors run
//   along n: acc[m][v] += A(m,k) * B(k, n .. n+VW-1), M*NV vectors. One work-item computes NB
//   columns and all M rows. The last strip is moved back to end at N; what it recomputes is not
//   stored again.
// VARIANT 3, "outer": K is 1 to 4; the time is that of writing C. One work-item computes MB rows
//   of NB columns with the K rows of B in a private array.
//
// Launch: global size (TILES), local size (1), where TILES = BATCH * SPLIT_K * blocks, n fastest:
//   dot: blocks = ceil(M/MB)   strip: blocks = ceil(N/NB)   outer: ceil(M/MB) * ceil(N/NB),
//   SPLIT_K 1
// Source of the method: the level 2 kernels of any BLAS, e.g. F. Van Zee and R. van de Geijn,
//   "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", ACM TOMS 41(3), 2015
//   (dotxf, axpyf and ger).

// Contraction of a*b+c into one instruction; see einsum_cpu.cl.
#pragma OPENCL FP_CONTRACT ON

#ifndef VARIANT
#define VARIANT 1     // 1: dot, 2: strip, 3: outer
#endif

// ---- Extents: integer constants; all but the tiny one may be names of kernel parameters -----
#ifndef BATCH
#define BATCH 1
#endif
#ifndef M
#define M (VARIANT == 2 ? 2 : 600)
#endif
#ifndef N
#define N (VARIANT == 1 ? 3 : 1024)
#endif
#ifndef K
#define K (VARIANT == 3 ? 2 : 1000)
#endif

// ---- Tile parameters ------------------------------------------------------------------------
#ifndef ACC_T
#define ACC_T float   // type of products and sums: float or double
#endif
#ifndef VW
#define VW 8          // lanes of a vector: 8 for AVX2 floats, 16 for AVX-512 (2 to 16)
#endif
#ifndef MR
#define MR 2          // dot: rows at a time; MR*N*KU accumulators should be 8 to 12
#endif
#ifndef KU
#define KU 2          // dot: vectors of k at a time, each with accumulators of its own
#endif
#ifndef NV
#define NV 4          // strip: vectors at a time; M*NV accumulators should be 8 to 12
#endif
#ifndef KB
#define KB (VARIANT == 2 ? 64 : 1024) // dot, strip: length of a K block, a multiple of VW
#endif
#ifndef MB
#define MB 64         // dot, outer: rows of C a work-item computes, a multiple of MR
#endif
#ifndef NB
#define NB (VARIANT == 2 ? 256 : 1024) // strip, outer: columns of a work-item, a multiple of NR
#endif
#ifndef B_PACK
#define B_PACK 1      // dot: 0 reads LOAD_B_V in the inner loop (needs B_UNIT 1)
#endif
#ifndef A_UNIT
#define A_UNIT 1      // LOAD_A_V reads VW consecutive... 0: undefined, 1: k (dot needs 1)
#endif
#ifndef B_UNIT
#define B_UNIT 2      // LOAD_B_V reads VW consecutive... 0: undefined, 1: k, 2: n (strip needs 2)
#endif
#ifndef C_UNIT
#define C_UNIT 1      // 1: STORE_V is defined, 0: only STORE
#endif
#ifndef SPLIT_K
#define SPLIT_K 1     // parts of k summed apart, each stored by STORE_PART; 1: STORE
#endif

#define NR (NV * VW)

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define ACC_V JOIN(ACC_T, VW)
// Vector access through any ACC_T pointer; see einsum_cpu.cl on built-in functions and tails.
typedef ACC_V unaligned_v __attribute__((aligned(sizeof(ACC_T))));
#define VEC_GLOBAL(p) (*(__global unaligned_v *)(p))
#define VEC_CONST(p) (*(__global const unaligned_v *)(p))
#define VEC_PRIVATE(p) (*(unaligned_v *)(p))
#define LESSER(x, y) ((x) < (y) ? (x) : (y))

// ---- Holes ----------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME einsum_cpu_skinny
#endif
#ifndef WORK_ID
#define WORK_ID ((int)get_global_id(0))
#endif
// The kernel's parameters. Holes are expanded inside the kernel and may name any of them.
#ifndef PARAMS
#define PARAMS __global const float *restrict A, __global const float *restrict B, \
               __global float *restrict C
#endif
// One element as ACC_T. Called with indices in range only.
#ifndef LOAD_A
#define LOAD_A(b, m, k) (A[((size_t)(b) * M + (m)) * K + (k)])
#endif
#ifndef LOAD_B
#define LOAD_B(b, k, n) (B[((size_t)(b) * K + (k)) * N + (n)])
#endif
// VW consecutive elements as ACC_V, along the axis that A_UNIT or B_UNIT names. Called only
// where all of them are in range; any start may be asked for, aligned or not.
#ifndef LOAD_A_V
#define LOAD_A_V(b, m, k) VEC_CONST(&LOAD_A(b, m, k))
#endif
#ifndef LOAD_B_V
#define LOAD_B_V(b, k, n) VEC_CONST(&LOAD_B(b, k, n))
#endif
// Statements that take the finished sum; STORE_V takes VW consecutive n.
#ifndef STORE
#define STORE(b, m, n, acc) C[((size_t)(b) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_V
#define STORE_V(b, m, n, acc) VEC_GLOBAL(&C[((size_t)(b) * M + (m)) * N + (n)]) = (acc)
#endif
// With SPLIT_K > 1: the sum of part s, into a scratch buffer [SPLIT_K, BATCH, M, N].
#ifndef STORE_PART
#define STORE_PART(s, b, m, n, acc) \
    C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_PART_V
#define STORE_PART_V(s, b, m, n, acc) \
    VEC_GLOBAL(&C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)]) = (acc)
#endif

#if SPLIT_K > 1
#define PUT(b, m, n, acc) STORE_PART(split, b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_PART_V(split, b, m, n, acc)
#else
#define PUT(b, m, n, acc) STORE(b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_V(b, m, n, acc)
#endif

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    const int tile = WORK_ID;
#if VARIANT != 3
    const int k_part = (K + SPLIT_K - 1) / SPLIT_K;
#endif

#if VARIANT == 1
    ACC_T sums[MB * N];                // [m][n]
#if B_PACK
    ACC_V b_block[N * (KB / VW)];      // [n][k]
    ACC_T *b_lanes = (ACC_T *)b_block;
#define B_VECTOR(n, k) VEC_PRIVATE(b_lanes + (n) * KB + (k))
#define B_SCALAR(n, k) (b_lanes[(n) * KB + (k)])
#else
#define B_VECTOR(n, k) LOAD_B_V(b, k0 + (k), n)
#define B_SCALAR(n, k) LOAD_B(b, k0 + (k), n)
#endif
    const int m_blocks = (M + MB - 1) / MB;
    const int m0 = tile % m_blocks * MB;
    const int split = tile / m_blocks % SPLIT_K;
    const int b = tile / m_blocks / SPLIT_K;
    const int rows = LESSER(MB, M - m0);
    const int k_first = split * k_part;
    const int k_last = LESSER(K, k_first + k_part);

    for (int i = 0; i < MB * N; ++i)
        sums[i] = 0;
    for (int k0 = k_first; k0 < k_last; k0 += KB) {
        const int depth = LESSER(KB, k_last - k0);
#if B_PACK
        for (int n = 0; n < N; ++n) {
            int k = 0;
#if B_UNIT == 1
            for (; k + VW <= depth; k += VW)
                VEC_PRIVATE(b_lanes + n * KB + k) = LOAD_B_V(b, k0 + k, n);
#endif
            for (; k < depth; ++k)
                b_lanes[n * KB + k] = LOAD_B(b, k0 + k, n);
        }
#endif
        for (int m = 0; m < rows; m += MR) {
            int row[MR];               // rows beyond M repeat the last one and are not stored
            ACC_V acc[MR][N][KU];
            #pragma unroll
            for (int i = 0; i < MR; ++i) {
                row[i] = LESSER(m0 + m + i, M - 1);
                #pragma unroll
                for (int n = 0; n < N; ++n) {
                    #pragma unroll
                    for (int u = 0; u < KU; ++u)
                        acc[i][n][u] = 0;
                }
            }
            int k = 0;
            for (; k + KU * VW <= depth; k += KU * VW) {
                #pragma unroll
                for (int u = 0; u < KU; ++u) {
                    ACC_V bv[N];
                    #pragma unroll
                    for (int n = 0; n < N; ++n)
                        bv[n] = B_VECTOR(n, k + u * VW);
                    #pragma unroll
                    for (int i = 0; i < MR; ++i) {
                        const ACC_V av = LOAD_A_V(b, row[i], k0 + k + u * VW);
                        #pragma unroll
                        for (int n = 0; n < N; ++n)
                            acc[i][n][u] = av * bv[n] + acc[i][n][u];
                    }
                }
            }
            #pragma unroll
            for (int i = 0; i < MR; ++i) {
                #pragma unroll
                for (int n = 0; n < N; ++n) {
                    #pragma unroll
                    for (int u = 1; u < KU; ++u)
                        acc[i][n][0] += acc[i][n][u];
                    ACC_T lane[VW];
                    VEC_PRIVATE(lane) = acc[i][n][0];
                    #pragma unroll
                    for (int half_vw = VW / 2; half_vw > 0; half_vw /= 2) {
                        #pragma unroll
                        for (int l = 0; l < half_vw; ++l)
                            lane[l] += lane[l + half_vw];
                    }
                    sums[(m + i) * N + n] += lane[0];
                }
            }
            #pragma clang loop vectorize(disable)  // Intel's compiler gets sums of -x wrong
            for (; k < depth; ++k) {   // fewer than KU*VW
                #pragma unroll
                for (int i = 0; i < MR; ++i) {
                    const ACC_T a = LOAD_A(b, row[i], k0 + k);
                    #pragma unroll
                    for (int n = 0; n < N; ++n)
                        sums[(m + i) * N + n] = a * B_SCALAR(n, k) + sums[(m + i) * N + n];
                }
            }
        }
    }
    for (int m = 0; m < rows; ++m) {
        for (int n = 0; n < N; ++n) {
            PUT(b, m0 + m, n, sums[m * N + n]);
        }
    }

#elif VARIANT == 2
    ACC_V c_block[(NB / NR) * M * NV]; // [strip][m][NV]
    ACC_T a_block[KB * M];             // [k][m]
    const int n_blocks = (N + NB - 1) / NB;
    const int n0 = tile % n_blocks * NB;
    const int split = tile / n_blocks % SPLIT_K;
    const int b = tile / n_blocks / SPLIT_K;
    const int n_last = LESSER(n0 + NB, N);
    const int k_first = split * k_part;
    const int k_last = LESSER(K, k_first + k_part);

    int k0 = k_first;
    do {                               // once even where k is empty: its sum is zero
        const int depth = k_last < k0 ? 0 : LESSER(KB, k_last - k0);
        for (int m = 0; m < M; ++m)
            for (int k = 0; k < depth; ++k)
                a_block[k * M + m] = LOAD_A(b, m, k0 + k);

        for (int strip = 0; n0 + strip * NR < n_last; ++strip) {
            const int n1 = LESSER(n0 + strip * NR, N - NR);
            ACC_V *parked = c_block + strip * M * NV;
            ACC_V acc[M][NV];
            #pragma unroll
            for (int i = 0; i < M; ++i) {
                #pragma unroll
                for (int v = 0; v < NV; ++v)
                    acc[i][v] = k0 == k_first ? (ACC_V)0 : parked[i * NV + v];
            }
            for (int k = 0; k < depth; ++k) {
                ACC_V bv[NV];
                #pragma unroll
                for (int v = 0; v < NV; ++v)
                    bv[v] = LOAD_B_V(b, k0 + k, n1 + v * VW);
                #pragma unroll
                for (int i = 0; i < M; ++i) {
                    const ACC_V av = (ACC_V)(a_block[k * M + i]);
                    #pragma unroll
                    for (int v = 0; v < NV; ++v)
                        acc[i][v] = av * bv[v] + acc[i][v];
                }
            }
            #pragma unroll
            for (int i = 0; i < M; ++i) {
                #pragma unroll
                for (int v = 0; v < NV; ++v)
                    parked[i * NV + v] = acc[i][v];
            }
        }
        k0 += KB;
    } while (k0 < k_last);

    for (int m = 0; m < M; ++m) {
        for (int strip = 0; n0 + strip * NR < n_last; ++strip) {
            const int first = n0 + strip * NR;
            const int n1 = LESSER(first, N - NR);
            for (int v = 0; v < NV; ++v) {
                const int at = (strip * M + m) * NV + v;
                const int n = n1 + v * VW;
#if C_UNIT
                if (n >= first) {
                    PUT_V(b, m, n, c_block[at]);
                } else
#endif
                for (int lane = 0; lane < VW; ++lane) {
                    if (n + lane >= first) {
                        PUT(b, m, n + lane, ((const ACC_T *)c_block)[at * VW + lane]);
                    }
                }
            }
        }
    }

#else
    ACC_V b_rows[K * (NB / VW)];       // [k][n], zero beyond N
    ACC_T *b_lanes = (ACC_T *)b_rows;
    const int m_blocks = (M + MB - 1) / MB;
    const int n_blocks = (N + NB - 1) / NB;
    const int n0 = tile % n_blocks * NB;
    const int m0 = tile / n_blocks % m_blocks * MB;
    const int b = tile / n_blocks / m_blocks;
    const int rows = LESSER(MB, M - m0);
    const int columns = LESSER(NB, N - n0);

    for (int k = 0; k < K; ++k) {
        int n = 0;
#if B_UNIT == 2
        for (; n + VW <= columns; n += VW)
            b_rows[k * (NB / VW) + n / VW] = LOAD_B_V(b, k, n0 + n);
#endif
        for (; n < (columns + VW - 1) / VW * VW; ++n)
            b_lanes[k * NB + n] = n < columns ? LOAD_B(b, k, n0 + n) : 0;
    }
    for (int m = 0; m < rows; ++m) {
        ACC_T a[K];
        #pragma unroll
        for (int k = 0; k < K; ++k)
            a[k] = LOAD_A(b, m0 + m, k);
        for (int n = 0; n < columns; n += VW) {
            ACC_V acc = 0;
            #pragma unroll
            for (int k = 0; k < K; ++k)
                acc = (ACC_V)(a[k]) * b_rows[k * (NB / VW) + n / VW] + acc;
#if C_UNIT
            if (n + VW <= columns) {
                PUT_V(b, m0 + m, n0 + n, acc);
            } else
#endif
            {
                ACC_T lanes[VW];
                VEC_PRIVATE(lanes) = acc;
                for (int lane = 0; lane < LESSER(VW, columns - n); ++lane) {
                    PUT(b, m0 + m, n0 + n + lane, lanes[lane]);
                }
            }
        }
    }
#endif
}
