// einsum_gpu.cl: batched strided contraction for GPUs, tiled through local memory.
//
//   C[b,m,n] = EPILOGUE( sum over k of A(b,m,k) * B(b,k,n) )
//
// b, m, n and k are flattened groups of axes; the holes LOAD_* and STORE* (the host's) turn an
// index into an address and hold the fused prologue and epilogue. As it stands the file
// contracts plain row-major float32 buffers.
//
// A work-group computes TM x TN elements of C, in steps of TK along k. Each step copies
//     a_tile[k][m] = A(b, m0+m, k0+k)   and   b_tile[k][n] = B(b, k0+k, n0+n),
// zero beyond the extents, into local memory, so that every element is evaluated once per
// group. A work-item holds RM x RN sums in registers, in pieces of VW x VW:
//     row(i)    = (i / VW) * WM * VW + y * VW + i % VW       (y = local id / WN)
//     column(j) = (j / VW) * WN * VW + x * VW + j % VW       (x = local id % WN)
// so that the work-items of a sub-group read neighbouring vectors of b_tile and store
// neighbouring vectors of C. The next step's elements are fetched into registers while this
// step is computed, and go to the other half of the local tiles where BUFFERS is 2: then one
// barrier a step is enough.
//
// Launch: one dimension. Local size (WM*WN); global size (GROUPS * WM*WN), where
//   GROUPS = BATCH * SPLIT_K * ceil(M/TM) * ceil(N/TN); groups are numbered with n fastest:
//   group = ((b * SPLIT_K + split) * ceil(M/TM) + m_tile) * ceil(N/TN) + n_tile
// Large results: TM = TN = 128, TK = 8, WM = WN = 16 (8x8 sums a work-item).
// Small results: TM = TN = 16, WM = WN = 8, VW = 2 (64 work-items, 2x2 sums each), with SPLIT_K
//   where k is long; it also suits devices with a work-group limit of 64.
// Source of the method: V. Volkov and J. Demmel, "Benchmarking GPUs to Tune Dense Linear
//   Algebra", SC 2008; C. Nugteren, "CLBlast: A Tuned OpenCL BLAS Library", IWOCL 2018.

#pragma OPENCL FP_CONTRACT ON

// ---- Extents: integer constants, or names of kernel parameters ------------------------------
#ifndef BATCH
#define BATCH 1
#endif
#ifndef M
#define M 512
#endif
#ifndef N
#define N 512
#endif
#ifndef K
#define K 512
#endif

// ---- Tile parameters ------------------------------------------------------------------------
#ifndef ACC_T
#define ACC_T float   // type of products and sums: float or double
#endif
#ifndef VW
#define VW 4          // lanes of a vector: 2 or 4
#endif
#ifndef TM
#define TM 64         // rows of C a work-group computes, a multiple of WM*VW
#endif
#ifndef TN
#define TN 64         // columns of C a work-group computes, a multiple of WN*VW
#endif
#ifndef TK
#define TK 16         // depth of a step, a multiple of VW
#endif
#ifndef WM
#define WM 16         // work-items along m
#endif
#ifndef WN
#define WN 16         // work-items along n
#endif
#ifndef BUFFERS
#define BUFFERS 1     // 2: a step is computed while the next one's tiles are written
#endif
#ifndef PAD
#define PAD VW        // elements between rows of the local tiles, against bank conflicts
#endif
#ifndef A_UNIT
#define A_UNIT 1      // LOAD_A_V reads VW consecutive... 0: undefined, 1: k, 2: m
#endif
#ifndef B_UNIT
#define B_UNIT 2      // LOAD_B_V reads VW consecutive... 0: undefined, 1: k, 2: n
#endif
#ifndef C_UNIT
#define C_UNIT 1      // 1: STORE_V is defined, 0: only STORE
#endif
#ifndef SPLIT_K
#define SPLIT_K 1     // parts of k summed apart, each stored by STORE_PART; 1: STORE
#endif

#define WORK_ITEMS (WM * WN)
#define A_TILE (TK * (TM + PAD))
#define B_TILE (TK * (TN + PAD))
#define RM (TM / WM)  // rows of sums in a work-item
#define RN (TN / WN)  // columns of sums in a work-item
#define A_FETCH ((TM * TK / VW + WORK_ITEMS - 1) / WORK_ITEMS) // vectors a work-item copies
#define B_FETCH ((TN * TK / VW + WORK_ITEMS - 1) / WORK_ITEMS)
#if TM % (WM * VW) != 0 || TN % (WN * VW) != 0 || TK % VW != 0 || PAD % VW != 0
#error "TM must be a multiple of WM*VW, TN of WN*VW, TK and PAD of VW"
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define ACC_V JOIN(ACC_T, VW)
#define VLOAD JOIN(vload, VW)
#define VSTORE JOIN(vstore, VW)

// ---- Holes ----------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME einsum_gpu
#endif
#ifndef GROUP_ID
#define GROUP_ID ((int)get_group_id(0))
#endif
#ifndef LOCAL_ID
#define LOCAL_ID ((int)get_local_id(0))
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
// where all of them are in range, from a start that is a multiple of VW (of the split's first k
// where SPLIT_K cuts k elsewhere).
#ifndef LOAD_A_V
#define LOAD_A_V(b, m, k) VLOAD(0, &LOAD_A(b, m, k))
#endif
#ifndef LOAD_B_V
#define LOAD_B_V(b, k, n) VLOAD(0, &LOAD_B(b, k, n))
#endif
// Statements that take the finished sum; STORE_V takes VW consecutive n.
#ifndef STORE
#define STORE(b, m, n, acc) C[((size_t)(b) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_V
#define STORE_V(b, m, n, acc) VSTORE(acc, 0, &C[((size_t)(b) * M + (m)) * N + (n)])
#endif
// With SPLIT_K > 1: the sum of part s, into a scratch buffer [SPLIT_K, BATCH, M, N].
#ifndef STORE_PART
#define STORE_PART(s, b, m, n, acc) \
    C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_PART_V
#define STORE_PART_V(s, b, m, n, acc) \
    VSTORE(acc, 0, &C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)])
#endif

#if SPLIT_K > 1
#define PUT(b, m, n, acc) STORE_PART(split, b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_PART_V(split, b, m, n, acc)
#else
#define PUT(b, m, n, acc) STORE(b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_V(b, m, n, acc)
#endif

// Which VW elements of the tile the v-th vector of a copy is. Consecutive work-items take
// consecutive memory: along the unit axis, or along the last one where there is none.
#if A_UNIT == 2
#define A_M(v) ((v) % (TM / VW) * VW)
#define A_K(v) ((v) / (TM / VW))
#else
#define A_M(v) ((v) / (TK / VW))
#define A_K(v) ((v) % (TK / VW) * VW)
#endif
#if B_UNIT == 1
#define B_K(v) ((v) % (TK / VW) * VW)
#define B_N(v) ((v) / (TK / VW))
#else
#define B_K(v) ((v) / (TN / VW))
#define B_N(v) ((v) % (TN / VW) * VW)
#endif

__kernel __attribute__((reqd_work_group_size(WORK_ITEMS, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local ACC_T a_tiles[BUFFERS * A_TILE];
    __local ACC_T b_tiles[BUFFERS * B_TILE];
    const int m_tiles = (M + TM - 1) / TM;
    const int n_tiles = (N + TN - 1) / TN;
    const int n0 = GROUP_ID % n_tiles * TN;
    const int m0 = GROUP_ID / n_tiles % m_tiles * TM;
    const int split = GROUP_ID / (n_tiles * m_tiles) % SPLIT_K;
    const int b = GROUP_ID / (n_tiles * m_tiles) / SPLIT_K;
    const int x = LOCAL_ID % WN;
    const int y = LOCAL_ID / WN;
    const int k_part = (K + SPLIT_K - 1) / SPLIT_K;
    const int k_first = split * k_part;
    const int k_last = min(K, k_first + k_part);

    ACC_T a_next[A_FETCH][VW];
    ACC_T b_next[B_FETCH][VW];
    ACC_T acc[RM][RN];
    #pragma unroll
    for (int i = 0; i < RM; ++i) {
        #pragma unroll
        for (int j = 0; j < RN; ++j)
            acc[i][j] = 0;
    }

    // Step s fetches the elements of step s from global memory and computes step s - 1.
    const int steps = k_last > k_first ? (k_last - k_first + TK - 1) / TK : 0;
    for (int step = 0; step <= steps; ++step) {
        const int k0 = k_first + step * TK;

        // ---- fetch this step's share of A and B into registers
        if (step < steps) {
            #pragma unroll
            for (int f = 0; f < A_FETCH; ++f) {
                const int v = f * WORK_ITEMS + LOCAL_ID;
                const int m = m0 + A_M(v);
                const int k = k0 + A_K(v);
#if A_UNIT == 1
                if (m < M && k + VW <= k_last) {
                    VSTORE(LOAD_A_V(b, m, k), 0, a_next[f]);
                } else
#elif A_UNIT == 2
                if (m + VW <= M && k < k_last) {
                    VSTORE(LOAD_A_V(b, m, k), 0, a_next[f]);
                } else
#endif
                {
                    #pragma unroll
                    for (int lane = 0; lane < VW; ++lane) {
                        const int ml = A_UNIT == 2 ? m + lane : m;
                        const int kl = A_UNIT == 2 ? k : k + lane;
                        a_next[f][lane] = 0;
                        if (ml < M && kl < k_last)
                            a_next[f][lane] = LOAD_A(b, ml, kl);
                    }
                }
            }
            #pragma unroll
            for (int f = 0; f < B_FETCH; ++f) {
                const int v = f * WORK_ITEMS + LOCAL_ID;
                const int k = k0 + B_K(v);
                const int n = n0 + B_N(v);
#if B_UNIT == 1
                if (n < N && k + VW <= k_last) {
                    VSTORE(LOAD_B_V(b, k, n), 0, b_next[f]);
                } else
#elif B_UNIT == 2
                if (n + VW <= N && k < k_last) {
                    VSTORE(LOAD_B_V(b, k, n), 0, b_next[f]);
                } else
#endif
                {
                    #pragma unroll
                    for (int lane = 0; lane < VW; ++lane) {
                        const int nl = B_UNIT == 1 ? n : n + lane;
                        const int kl = B_UNIT == 1 ? k + lane : k;
                        b_next[f][lane] = 0;
                        if (nl < N && kl < k_last)
                            b_next[f][lane] = LOAD_B(b, kl, nl);
                    }
                }
            }
        }

        // ---- compute the step before this one from local memory
        if (step > 0) {
            __local const ACC_T *a_tile = a_tiles + (step - 1) % BUFFERS * A_TILE;
            __local const ACC_T *b_tile = b_tiles + (step - 1) % BUFFERS * B_TILE;
            for (int k = 0; k < TK; ++k) {
                ACC_T av[RM];
                ACC_T bv[RN];
                #pragma unroll
                for (int i = 0; i < RM; i += VW)
                    VSTORE(VLOAD(0, &a_tile[k * (TM + PAD) + i * WM + y * VW]), 0, &av[i]);
                #pragma unroll
                for (int j = 0; j < RN; j += VW)
                    VSTORE(VLOAD(0, &b_tile[k * (TN + PAD) + j * WN + x * VW]), 0, &bv[j]);
                #pragma unroll
                for (int i = 0; i < RM; ++i) {
                    #pragma unroll
                    for (int j = 0; j < RN; ++j)
                        acc[i][j] = av[i] * bv[j] + acc[i][j];
                }
            }
        }
#if BUFFERS == 1
        barrier(CLK_LOCAL_MEM_FENCE);  // the tiles have been read by all
#endif

        // ---- registers to local memory
        if (step < steps) {
            __local ACC_T *a_tile = a_tiles + step % BUFFERS * A_TILE;
            __local ACC_T *b_tile = b_tiles + step % BUFFERS * B_TILE;
            #pragma unroll
            for (int f = 0; f < A_FETCH; ++f) {
                const int v = f * WORK_ITEMS + LOCAL_ID;
                if (v < TM * TK / VW) {
                    #pragma unroll
                    for (int lane = 0; lane < VW; ++lane) {
                        const int m = A_UNIT == 2 ? A_M(v) + lane : A_M(v);
                        const int k = A_UNIT == 2 ? A_K(v) : A_K(v) + lane;
                        a_tile[k * (TM + PAD) + m] = a_next[f][lane];
                    }
                }
            }
            #pragma unroll
            for (int f = 0; f < B_FETCH; ++f) {
                const int v = f * WORK_ITEMS + LOCAL_ID;
                if (v < TN * TK / VW) {
                    #pragma unroll
                    for (int lane = 0; lane < VW; ++lane) {
                        const int n = B_UNIT == 1 ? B_N(v) : B_N(v) + lane;
                        const int k = B_UNIT == 1 ? B_K(v) + lane : B_K(v);
                        b_tile[k * (TN + PAD) + n] = b_next[f][lane];
                    }
                }
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);  // the tiles have been written, and those before read, by all
    }

    // ---- epilogue
    #pragma unroll
    for (int i = 0; i < RM; ++i) {
        const int m = m0 + i / VW * WM * VW + y * VW + i % VW;
        if (m < M) {
            #pragma unroll
            for (int j = 0; j < RN; j += VW) {
                const int n = n0 + j * WN + x * VW;
#if C_UNIT
                if (n + VW <= N) {
                    PUT_V(b, m, n, VLOAD(0, &acc[i][j]));
                } else
#endif
                {
                    #pragma unroll
                    for (int lane = 0; lane < VW; ++lane) {
                        if (n + lane < N) {
                            PUT(b, m, n + lane, acc[i][j + lane]);
                        }
                    }
                }
            }
        }
    }
}
