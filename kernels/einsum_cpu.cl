// einsum_cpu.cl: batched strided contraction for CPU devices, register-tiled.
//
//   C[b,m,n] = EPILOGUE( sum over k of A(b,m,k) * B(b,k,n) )
//
// b, m, n and k are flattened groups of axes. How an index becomes an address, and what is
// computed on the way in (prologue) and out (epilogue), is the host's: it defines the holes
// LOAD_* and STORE*. As it stands the file contracts plain row-major float32 buffers.
//
// One work-item computes MB x NB elements of C, in registers MR x NR at a time:
//
//                  NR       NR                  NR = NV vectors of VW lanes
//              +--------+--------+
//           KB |b_panel |  next  |   ...        b_panel: packed [k][NR], zero beyond N;
//              +--------+--------+                       it stays in the L1 cache
//        KB    |<------ NB ----->|
//    +--------+--------+--------+
// MR |a_block | MR x NR|                        a_block: packed once per K block, zero rows
//    +--------+ accum. |                                 beyond M; it stays in L2
//    |  ...   | in reg.|                        c_block: all MB x NB sums, between K blocks
// MB +--------+--------+
//
// Every element of A and B is evaluated once per packed block (A: once per NB columns of C, B:
// once per MB rows), so a fused prologue may cost something. The epilogue runs once per
// element, after the whole of k. Order of summation: k rising, one accumulator an element,
// whatever the tile: K blocks only park the accumulator in memory. (SPLIT_K changes it.)
//
// Launch: global size (ceil(TILES / TILES_PER_ITEM)), local size (1), where
//   TILES = BATCH * SPLIT_K * ceil(M/MB) * ceil(N/NB); tiles are numbered with n fastest:
//   tile = ((b * SPLIT_K + split) * ceil(M/MB) + m_block) * ceil(N/NB) + n_block
// Source of the method: K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix
//   Multiplication", ACM TOMS 34(3), 2008; the tile shapes are those of BLIS's Haswell kernels.

// Contraction of a*b+c into one instruction: PoCL's fma() and mad() on vectors are library
// calls (15 GFLOP/s where the contracted form reaches 180).
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
#define VW 8          // lanes of a vector: 8 for AVX2 floats, 16 for AVX-512 (2 to 16)
#endif
#ifndef MR
#define MR 6          // rows of the register tile
#endif
#ifndef NV
#define NV 2          // vectors per row of the register tile; MR*NV + NV + 1 registers are used
#endif
#ifndef KB
#define KB 256        // length of a K block: b_panel is KB*NR elements, a_block about KB*MB
#endif
#ifndef MB
#define MB 96         // rows of C a work-item computes, a multiple of MR
#endif
#ifndef NB
#define NB 128        // columns of C a work-item computes, a multiple of NV*VW
#endif
#ifndef A_PACK
#define A_PACK 1      // 0: read LOAD_A in the inner loop; for plain loads and small M*K only
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
// M_RUN, N_RUN and K_RUN, where defined, say that an axis is made of runs of so many positions,
// as the pixels of an image are of its lines: vectors are asked for inside a run only. Where it
// has no room for VW lanes, there are shorter vectors, of A_SHORT and B_SHORT lanes.
#ifndef A_SHORT
#define A_SHORT VW
#endif
#ifndef B_SHORT
#define B_SHORT VW
#endif
#ifdef M_RUN
#define M_INSIDE(m) ((m) % M_RUN + VW <= M_RUN)
#else
#define M_INSIDE(m) 1
#endif
#ifdef N_RUN
#define N_INSIDE(n) ((n) % N_RUN + VW <= N_RUN)
#else
#define N_INSIDE(n) 1
#endif
// Lanes of the longest vector that `room` positions of a run take.
#define LANES(run, short_lanes, room) \
    ((run) >= VW && (room) >= VW ? VW : (room) >= (short_lanes) ? (short_lanes) : 1)
#ifndef TILES_PER_ITEM
#define TILES_PER_ITEM 1 // consecutive tiles a work-item computes; more for tiny batched ones
#endif

#define NR (NV * VW)
#define A_PAD 16      // elements between packed rows: KB a power of two would alias in L1
#define LINE ((int)(64 / sizeof(ACC_T))) // elements of a cache line
#if MB % MR != 0 || NB % NR != 0
#error "MB must be a multiple of MR, and NB of NV*VW"
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define ACC_V JOIN(ACC_T, VW)
// Vector access through any ACC_T pointer (VEC(p) is an lvalue). vloadn and vstoren, and min and
// max, are avoided throughout: PoCL leaves built-in functions as calls on some processors.
// Loops that read vectors by themselves are told not to be vectorized once more: trying costs up
// to a quarter of the time that the kernel takes to compile.
// Tails are one loop with a condition: of two loops in a row that share their counter, Intel's
// compiler (2026.2) made an endless one.
typedef ACC_V unaligned_v __attribute__((aligned(sizeof(ACC_T))));
#define VEC_GLOBAL(p) (*(__global unaligned_v *)(p))
#define VEC_CONST(p) (*(__global const unaligned_v *)(p))
#define VEC_PRIVATE(p) (*(unaligned_v *)(p))
typedef JOIN(ACC_T, A_SHORT) unaligned_a __attribute__((aligned(sizeof(ACC_T))));
typedef JOIN(ACC_T, B_SHORT) unaligned_b __attribute__((aligned(sizeof(ACC_T))));
#define SHORT_A(p) (*(unaligned_a *)(p))
#define SHORT_B(p) (*(unaligned_b *)(p))
#define LESSER(x, y) ((x) < (y) ? (x) : (y))

// ---- Holes ----------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME einsum_cpu
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
// The same of A_SHORT and B_SHORT elements.
#ifndef LOAD_A_SHORT
#define LOAD_A_SHORT(b, m, k) LOAD_A_V(b, m, k)
#endif
#ifndef LOAD_B_SHORT
#define LOAD_B_SHORT(b, k, n) LOAD_B_V(b, k, n)
#endif
// AHEAD_B(b, k, n), where defined, asks for an element of B that is needed soon.
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

// Packed A lies as it was read, so that packing copies vectors: [m][k], or [k][m] if A_UNIT is 2.
#if A_UNIT == 2
#define A_ROWS ((MB + VW - 1) / VW * VW)
#define A_SIZE (KB * A_ROWS)
#define A_AT(m, k) ((k) * A_ROWS + (m))
#else
#define A_SIZE (MB * (KB + A_PAD))
#define A_AT(m, k) ((m) * (KB + A_PAD) + (k))
#endif

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    ACC_V b_panel[KB * NV];            // [k][NV]
    ACC_V c_block[MB * (NB / VW)];     // [panel][m][NV]
#if A_PACK
    ACC_T a_block[A_SIZE] __attribute__((aligned(64)));
#endif
    ACC_T *b_lanes = (ACC_T *)b_panel;
    const int m_blocks = (M + MB - 1) / MB;
    const int n_blocks = (N + NB - 1) / NB;
    const int tiles = BATCH * SPLIT_K * m_blocks * n_blocks;
    const int first_tile = WORK_ID * TILES_PER_ITEM;
    const int last_tile = LESSER(first_tile + TILES_PER_ITEM, tiles);

    for (int tile = first_tile; tile < last_tile; ++tile) {
        const int n0 = tile % n_blocks * NB;
        const int m0 = tile / n_blocks % m_blocks * MB;
        const int split = tile / (n_blocks * m_blocks) % SPLIT_K;
        const int b = tile / (n_blocks * m_blocks) / SPLIT_K;
        const int rows = LESSER(MB, M - m0);
#if A_PACK
        const int padded_rows = (rows + MR - 1) / MR * MR;
#endif
        const int columns = LESSER(NB, N - n0);
        const int k_part = (K + SPLIT_K - 1) / SPLIT_K;
        const int k_first = split * k_part;
        const int k_last = LESSER(K, k_first + k_part);

        int k0 = k_first;
        do {                           // once even where k is empty: its sum is zero
            const int depth = k_last < k0 ? 0 : LESSER(KB, k_last - k0);

            // ---- pack A: a_block[m][k] = A(b, m0+m, k0+k)
#if A_PACK
#if A_UNIT == 2
            for (int k = 0; k < depth; ++k) {
                #pragma clang loop vectorize(disable)
                for (int m = 0, step; m < padded_rows; m += step) {
                    step = m + VW <= rows && M_INSIDE(m0 + m) ? VW : 1;
                    if (step == VW) {
                        VEC_PRIVATE(a_block + A_AT(m, k)) = LOAD_A_V(b, m0 + m, k0 + k);
                    } else {
                        a_block[A_AT(m, k)] = m < rows ? LOAD_A(b, m0 + m, k0 + k) : 0;
                    }
                }
            }
#else
            for (int m = 0; m < rows; ++m) {
#if A_UNIT == 1
                #pragma clang loop vectorize(disable)
#endif
                for (int k = 0, step; k < depth; k += step) {
                    step = 1;
#if A_UNIT == 1 && defined(K_RUN)
                    const int before = LESSER((k0 + k) % K_RUN, k);
                    const int left = LESSER(K_RUN - (k0 + k) % K_RUN, depth - k);
                    const int lanes = LANES(K_RUN, A_SHORT, before + left);
                    step = LESSER(left, lanes);
                    const int at = k + step - lanes;
                    if (lanes == VW) {
                        VEC_PRIVATE(a_block + A_AT(m, at)) = LOAD_A_V(b, m0 + m, k0 + at);
                        continue;
                    }
                    if (lanes == A_SHORT) {
                        SHORT_A(a_block + A_AT(m, at)) = LOAD_A_SHORT(b, m0 + m, k0 + at);
                        continue;
                    }
#elif A_UNIT == 1
                    if (k + VW <= depth) {
                        step = VW;
                        VEC_PRIVATE(a_block + A_AT(m, k)) = LOAD_A_V(b, m0 + m, k0 + k);
                        continue;
                    }
#endif
                    a_block[A_AT(m, k)] = LOAD_A(b, m0 + m, k0 + k);
                }
            }
            for (int m = rows; m < padded_rows; ++m)
                for (int k = 0; k < depth; ++k)
                    a_block[A_AT(m, k)] = 0;
#endif
#endif

            for (int panel = 0; panel * NR < columns; ++panel) {
                const int n1 = n0 + panel * NR;
                const int width = LESSER(NR, N - n1);

                // ---- pack B: b_panel[k][n] = B(b, k0+k, n1+n)
#if B_UNIT == 2 && defined(N_RUN)
                int whole = width == NR;
                for (int v = 0; v < NV; ++v)
                    whole = whole && N_INSIDE(n1 + v * VW);
                for (int k = 0; whole && k < depth; ++k) {
                    #pragma unroll
                    for (int v = 0; v < NV; ++v)
                        b_panel[k * NV + v] = LOAD_B_V(b, k0 + k, n1 + v * VW);
                }
                // Run by run: the last vector is moved back to end where the run, or panel, does.
                #pragma clang loop vectorize(disable)
                for (int n = 0, step; !whole && n < width; n += step) {
                    const int before = LESSER((n1 + n) % N_RUN, n);
                    const int left = LESSER(N_RUN - (n1 + n) % N_RUN, width - n);
                    const int room = before + left;
                    const int lanes = LANES(N_RUN, B_SHORT, room);
                    step = LESSER(left, lanes);
                    const int at = n + step - lanes;
                    if (lanes == VW) {
                        for (int k = 0; k < depth; ++k)
                            VEC_PRIVATE(b_lanes + k * NR + at) = LOAD_B_V(b, k0 + k, n1 + at);
                    } else if (lanes == B_SHORT) {
                        for (int k = 0; k < depth; ++k)
                            SHORT_B(b_lanes + k * NR + at) = LOAD_B_SHORT(b, k0 + k, n1 + at);
                    } else {
                        for (int k = 0; k < depth; ++k)
                            b_lanes[k * NR + at] = LOAD_B(b, k0 + k, n1 + at);
                    }
                }
                for (int k = 0; width < NR && k < depth; ++k)
                    for (int n = width; n < NR; ++n)
                        b_lanes[k * NR + n] = 0;
#else
#if B_UNIT != 0
                #pragma clang loop vectorize(disable)
#endif
                for (int k = 0, step; k < depth; k += step) {
                    step = 1;
#if B_UNIT == 2
                    if (width == NR) {
                        #pragma unroll
                        for (int v = 0; v < NV; ++v)
                            b_panel[k * NV + v] = LOAD_B_V(b, k0 + k, n1 + v * VW);
                        continue;
                    }
#elif B_UNIT == 1
                    int at = k, lanes = width == NR && k + VW <= depth ? VW : 1;
                    step = lanes;
#ifdef K_RUN
                    const int before = LESSER((k0 + k) % K_RUN, k);
                    const int left = LESSER(K_RUN - (k0 + k) % K_RUN, depth - k);
                    lanes = LANES(width == NR ? K_RUN : 0, B_SHORT, before + left);
                    step = LESSER(left, lanes);
                    at = k + step - lanes;
                    if (lanes == B_SHORT) {
                        for (int n = 0; n < NR; ++n) {
                            ACC_T x[B_SHORT];
                            SHORT_B(x) = 0;
                            if (n < width)
                                SHORT_B(x) = LOAD_B_SHORT(b, k0 + at, n1 + n);
                            #pragma unroll
                            for (int i = 0; i < B_SHORT; ++i)
                                b_lanes[(at + i) * NR + n] = x[i];
                        }
                        continue;
                    }
#endif
                    // VW x VW blocks, transposed in registers: interleaving the rows' upper half
                    // with their lower half rotates the bits of (row, lane) by one; log2(VW)
                    // times exchanges row and lane.
                    if (lanes == VW) {
                        for (int v = 0; v < NV; ++v) {
                            ACC_V x[VW];
                            ACC_V y[VW];
                            #pragma unroll
                            for (int i = 0; i < VW; ++i)
                                x[i] = LOAD_B_V(b, k0 + at, n1 + v * VW + i);
                            #pragma unroll
                            for (int bits = 1; bits < VW; bits *= 2) {
                                #pragma unroll
                                for (int i = 0; i < VW / 2; ++i) {
                                    y[2 * i].even = x[i].lo;
                                    y[2 * i].odd = x[i + VW / 2].lo;
                                    y[2 * i + 1].even = x[i].hi;
                                    y[2 * i + 1].odd = x[i + VW / 2].hi;
                                }
                                #pragma unroll
                                for (int i = 0; i < VW; ++i)
                                    x[i] = y[i];
                            }
                            #pragma unroll
                            for (int i = 0; i < VW; ++i)
                                b_panel[(at + i) * NV + v] = x[i];
                        }
                        continue;
                    }
#endif
#if B_UNIT == 1
                    #pragma clang loop vectorize(disable)
#endif
                    for (int n = 0; n < NR; ++n)
                        b_lanes[k * NR + n] = n < width ? LOAD_B(b, k0 + k, n1 + n) : 0;
                }
#endif

                for (int m = 0; m < rows; m += MR) {
#ifdef AHEAD_B
                    // Rows of B lie too far apart for the processor to foresee the next panel:
                    // each row of register tiles asks for its share.
                    const int last = (panel + 1) * NR >= columns;
                    const int n_next = last ? n0 : n1 + NR;
                    const int share = (KB * MR + rows - 1) / rows;
                    const int from = (last ? k0 + KB : k0) + m / MR * share;
                    const int to = LESSER(from + share, last ? k_last : k0 + depth);
                    for (int k = from; k < to; ++k)
                        for (int n = 0; n < NR; n += LINE)
                            AHEAD_B(b, k, LESSER(n_next + n, N - 1));
#endif
                    ACC_V *parked = c_block + (panel * MB + m) * NV;
                    ACC_V acc[MR][NV];
                    #pragma unroll
                    for (int i = 0; i < MR; ++i) {
                        #pragma unroll
                        for (int v = 0; v < NV; ++v)
                            acc[i][v] = k0 == k_first ? (ACC_V)0 : parked[i * NV + v];
                    }
#if !A_PACK
                    int row[MR];       // rows beyond M repeat the last one and are not stored
                    #pragma unroll
                    for (int i = 0; i < MR; ++i)
                        row[i] = LESSER(m0 + m + i, M - 1);
#endif
                    for (int k = 0; k < depth; ++k) {
                        ACC_V bv[NV];
                        #pragma unroll
                        for (int v = 0; v < NV; ++v)
                            bv[v] = b_panel[k * NV + v];
                        #pragma unroll
                        for (int i = 0; i < MR; ++i) {
#if A_PACK
                            const ACC_V av = (ACC_V)(a_block[A_AT(m + i, k)]);
#else
                            const ACC_V av = (ACC_V)(LOAD_A(b, row[i], k0 + k));
#endif
                            #pragma unroll
                            for (int v = 0; v < NV; ++v)
                                acc[i][v] = av * bv[v] + acc[i][v];
                        }
                    }
                    #pragma unroll
                    for (int i = 0; i < MR; ++i) {
                        #pragma unroll
                        for (int v = 0; v < NV; ++v)
                            parked[i * NV + v] = acc[i][v];
                    }
                }
            }
            k0 += KB;
        } while (k0 < k_last);

        // ---- epilogue, row by row
        for (int m = 0; m < rows; ++m) {
            for (int n = 0; n < columns; n += VW) {
                const int at = (n / NR * MB + m) * NV + n % NR / VW;
#if C_UNIT
                if (n + VW <= columns && N_INSIDE(n0 + n)) {
                    PUT_V(b, m0 + m, n0 + n, c_block[at]);
                } else
#endif
                for (int lane = 0; lane < LESSER(VW, columns - n); ++lane) {
                    PUT(b, m0 + m, n0 + n + lane, ((const ACC_T *)c_block)[at * VW + lane]);
                }
            }
        }
    }
}
