// einsum_mma.cl: batched strided contraction on NVIDIA's matrix units, through inline PTX.
//
//   C[b,m,n] = EPILOGUE( sum over k of A(b,m,k) * B(b,k,n) ),  sums in float
//
// b, m, n and k are flattened groups of axes; the holes LOAD_* give the *bits* of an element, and
// STORE* take finished sums. As it stands the file contracts row-major float16 buffers into float.
//
//   KIND 0: float16, KIND 1: bfloat16   mma.m16n8k16, two elements a 32-bit word
//   KIND 2: float32 rounded to tf32     mma.m16n8k8, one element a word
//
// In words the operands of both instructions lie alike, so that one text serves both. Lane l of a
// warp of 32 (g = l / 4, t = l % 4) holds of a 16 x 8-word piece of A, an 8-word x 8 piece of B
// and a 16 x 8 piece of C:
//     a0 = A[g][t]  a1 = A[g+8][t]  a2 = A[g][t+4]  a3 = A[g+8][t+4]     b0 = B[t][g]  b1 = B[t+4][g]
//     c0, c1 = C[g][2t], C[g][2t+1]     c2, c3 = C[g+8][2t], C[g+8][2t+1]
//
// A work-group of 4 warps, 2 x 2, computes TM x TN elements of C in steps of 16 words along k. The
// tiles a_tile[m][word] and b_tile[n][word] stand in local memory, rows 4 words apart more than
// they are long: then the 32 lanes read 32 banks. The next step's elements are fetched into
// registers while this step is computed.
//
// Launch: local size (128); global size 128 * BATCH * SPLIT_K * ceil(M/TM) * ceil(N/TN), groups
//   numbered as in einsum_gpu.cl.
// EMULATE_MMA 1 replaces the instruction by the same sums over local memory, lane by lane from the
//   registers that the instruction would read: for tests on devices without matrix units.
// Source of the method: NVIDIA, "PTX ISA", section "Matrix Fragments for mma.m16n8k16 / m16n8k8".

// ---- Extents ----------------------------------------------------------------------------------
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

// ---- Tile parameters --------------------------------------------------------------------------
#ifndef KIND
#define KIND 0
#endif
#ifndef EMULATE_MMA
#define EMULATE_MMA 0
#endif
#ifndef VW
#define VW 4          // elements of a vector load: 2, 4 or 8
#endif
#ifndef TM
#define TM 64         // rows of C a work-group computes, a multiple of 32
#endif
#ifndef TN
#define TN 64         // columns of C a work-group computes, a multiple of 16
#endif
#ifndef A_UNIT
#define A_UNIT 1      // LOAD_A_V reads VW consecutive... 0: undefined, 1: k, 2: m
#endif
#ifndef B_UNIT
#define B_UNIT 2      // LOAD_B_V reads VW consecutive... 0: undefined, 1: k, 2: n
#endif
#ifndef C_UNIT
#define C_UNIT 1      // 1: STORE_V, of two neighbours along n, is defined; 0: only STORE
#endif
#ifndef SPLIT_K
#define SPLIT_K 1     // parts of k summed apart, each stored by STORE_PART; 1: STORE
#endif

#define WORK_ITEMS 128
#define WORDS 16                       // of k in a step
#define PITCH (WORDS + 4)
#if KIND == 2
#define BITS uint
#define PER_WORD 1
#else
#define BITS ushort
#define PER_WORD 2
#endif
#define TK (WORDS * PER_WORD)
#define RM (TM / 32)                   // 16-row pieces of a warp
#define RN (TN / 16)                   // 8-column pieces of a warp
#define A_FETCH (TM * TK / VW / WORK_ITEMS)
#define B_FETCH (TN * TK / VW / WORK_ITEMS)
#if TM % 32 != 0 || TN % 16 != 0 || TK % VW != 0
#error "TM must be a multiple of 32, TN of 16, the depth of a step of VW"
#endif
#if TM * TK % (VW * WORK_ITEMS) != 0 || TN * TK % (VW * WORK_ITEMS) != 0
#error "128 work-items must be able to share the elements of both tiles evenly"
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define BITS_V JOIN(BITS, VW)

// ---- Holes ------------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME einsum_mma
#endif
#ifndef PARAMS
#define PARAMS __global const BITS *restrict A, __global const BITS *restrict B, \
               __global float *restrict C
#endif
// The bits of one element. Called with indices in range only.
#ifndef LOAD_A
#define LOAD_A(b, m, k) (A[((size_t)(b) * M + (m)) * K + (k)])
#endif
#ifndef LOAD_B
#define LOAD_B(b, k, n) (B[((size_t)(b) * K + (k)) * N + (n)])
#endif
// VW consecutive elements, along the axis that A_UNIT or B_UNIT names; all of them in range.
#ifndef LOAD_A_V
#define LOAD_A_V(b, m, k) JOIN(vload, VW)(0, &LOAD_A(b, m, k))
#endif
#ifndef LOAD_B_V
#define LOAD_B_V(b, k, n) JOIN(vload, VW)(0, &LOAD_B(b, k, n))
#endif
// Statements that take the finished sum; STORE_V takes two consecutive n.
#ifndef STORE
#define STORE(b, m, n, acc) C[((size_t)(b) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_V
#define STORE_V(b, m, n, acc) vstore2(acc, 0, &C[((size_t)(b) * M + (m)) * N + (n)])
#endif
// With SPLIT_K > 1: the sum of part s, into a scratch buffer [SPLIT_K, BATCH, M, N].
#ifndef STORE_PART
#define STORE_PART(s, b, m, n, acc) C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)] = (acc)
#endif
#ifndef STORE_PART_V
#define STORE_PART_V(s, b, m, n, acc) \
    vstore2(acc, 0, &C[(((size_t)(s) * BATCH + (b)) * M + (m)) * N + (n)])
#endif

#if SPLIT_K > 1
#define PUT(b, m, n, acc) STORE_PART(split, b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_PART_V(split, b, m, n, acc)
#else
#define PUT(b, m, n, acc) STORE(b, m, n, acc)
#define PUT_V(b, m, n, acc) STORE_V(b, m, n, acc)
#endif

// Which VW elements of the tile the v-th vector of a copy is, as in einsum_gpu.cl.
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

#if KIND == 2  // to the nearest, of two equally near the larger in size; infinity and NaN as they are
#define PREPARED(x) (((x) & 0x7f800000u) == 0x7f800000u ? (x) : ((x) + 0x1000u) & 0xffffe000u)
#else
#define PREPARED(x) (x)
#endif

#if EMULATE_MMA
#define UNROLL                         // the emulation is long enough
static float one(__local const uint *words, int word, int part)
{
#if KIND == 0
    return vload_half(2 * word + part, (__local const half *)words);
#elif KIND == 1
    return as_float((uint)((__local const ushort *)words)[2 * word + part] << 16);
#else
    return as_float(words[word]);
#endif
}

// Every lane writes down its registers: a[4] and b[2] of all lanes of its warp, then adds up.
#define MMA(c, a, b)                                                                    \
    {                                                                                   \
        barrier(CLK_LOCAL_MEM_FENCE);                                                   \
        for (int r = 0; r < 4; ++r) seen[(warp * 32 + lane) * 6 + r] = (a)[r];          \
        for (int r = 0; r < 2; ++r) seen[(warp * 32 + lane) * 6 + 4 + r] = (b)[r];      \
        barrier(CLK_LOCAL_MEM_FENCE);                                                   \
        for (int r = 0; r < 4; ++r) {                                                   \
            const int row = g + r / 2 * 8;                                              \
            const int column = 2 * t + r % 2;                                           \
            for (int word = 0; word < 8; ++word) {                                      \
                const int from_a = row % 8 * 4 + word % 4, reg_a = row / 8 + word / 4 * 2; \
                const int from_b = column * 4 + word % 4, reg_b = 4 + word / 4;         \
                for (int part = 0; part < PER_WORD; ++part)                             \
                    (c)[r] += one(seen, (warp * 32 + from_a) * 6 + reg_a, part)         \
                            * one(seen, (warp * 32 + from_b) * 6 + reg_b, part);        \
            }                                                                           \
        }                                                                               \
    }
#else
#define UNROLL _Pragma("unroll")
#if KIND == 0
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#elif KIND == 1
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
#define INSTRUCTION "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
#endif
#define MMA(c, a, b)                                                                    \
    asm volatile(INSTRUCTION "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "           \
                 "{%0, %1, %2, %3};"                                                    \
                 : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])               \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]),                  \
                   "r"((b)[0]), "r"((b)[1]));
#endif

__kernel __attribute__((reqd_work_group_size(WORK_ITEMS, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local uint a_tile[TM * PITCH];
    __local uint b_tile[TN * PITCH];
#if EMULATE_MMA
    __local uint seen[WORK_ITEMS * 6];
#endif
    __local BITS *a_bits = (__local BITS *)a_tile;
    __local BITS *b_bits = (__local BITS *)b_tile;
    const int group = (int)get_group_id(0);
    const int item = (int)get_local_id(0);
    const int m_tiles = (M + TM - 1) / TM;
    const int n_tiles = (N + TN - 1) / TN;
    const int n0 = group % n_tiles * TN;
    const int m0 = group / n_tiles % m_tiles * TM;
    const int split = group / (n_tiles * m_tiles) % SPLIT_K;
    const int b = group / (n_tiles * m_tiles) / SPLIT_K;
    const int k_part = (K + SPLIT_K - 1) / SPLIT_K;
    const int k_first = split * k_part;
    const int k_last = min(K, k_first + k_part);
    const int warp = item / 32;
    const int lane = item % 32;
    const int g = lane / 4;
    const int t = lane % 4;
    const int warp_m = warp / 2 * (TM / 2);
    const int warp_n = warp % 2 * (TN / 2);

    BITS a_next[A_FETCH][VW];
    BITS b_next[B_FETCH][VW];
    float acc[RM][RN][4];
    #pragma unroll
    for (int i = 0; i < RM; ++i) {
        #pragma unroll
        for (int j = 0; j < RN; ++j) {
            #pragma unroll
            for (int r = 0; r < 4; ++r)
                acc[i][j][r] = 0;
        }
    }

    // Step s fetches the elements of step s from global memory and computes step s - 1.
    const int steps = k_last > k_first ? (k_last - k_first + TK - 1) / TK : 0;
    for (int step = 0; step <= steps; ++step) {
        const int k0 = k_first + step * TK;

        // ---- fetch this step's share of A and B into registers
        if (step < steps) {
            #pragma unroll
            for (int f = 0; f < A_FETCH; ++f) {
                const int v = f * WORK_ITEMS + item;
                const int m = m0 + A_M(v);
                const int k = k0 + A_K(v);
#if A_UNIT == 1
                if (m < M && k + VW <= k_last) {
                    JOIN(vstore, VW)(LOAD_A_V(b, m, k), 0, a_next[f]);
                } else
#elif A_UNIT == 2
                if (m + VW <= M && k < k_last) {
                    JOIN(vstore, VW)(LOAD_A_V(b, m, k), 0, a_next[f]);
                } else
#endif
                {
                    #pragma unroll
                    for (int l = 0; l < VW; ++l) {
                        const int ml = A_UNIT == 2 ? m + l : m;
                        const int kl = A_UNIT == 2 ? k : k + l;
                        a_next[f][l] = 0;
                        if (ml < M && kl < k_last)
                            a_next[f][l] = LOAD_A(b, ml, kl);
                    }
                }
            }
            #pragma unroll
            for (int f = 0; f < B_FETCH; ++f) {
                const int v = f * WORK_ITEMS + item;
                const int k = k0 + B_K(v);
                const int n = n0 + B_N(v);
#if B_UNIT == 1
                if (n < N && k + VW <= k_last) {
                    JOIN(vstore, VW)(LOAD_B_V(b, k, n), 0, b_next[f]);
                } else
#elif B_UNIT == 2
                if (n + VW <= N && k < k_last) {
                    JOIN(vstore, VW)(LOAD_B_V(b, k, n), 0, b_next[f]);
                } else
#endif
                {
                    #pragma unroll
                    for (int l = 0; l < VW; ++l) {
                        const int nl = B_UNIT == 1 ? n : n + l;
                        const int kl = B_UNIT == 1 ? k + l : k;
                        b_next[f][l] = 0;
                        if (nl < N && kl < k_last)
                            b_next[f][l] = LOAD_B(b, kl, nl);
                    }
                }
            }
        }

        // ---- compute the step before this one from local memory
        if (step > 0) {
            UNROLL
            for (int w = 0; w < WORDS; w += 8) {
                uint a[RM][4];
                UNROLL
                for (int i = 0; i < RM; ++i) {
                    __local const uint *from = a_tile + (warp_m + i * 16 + g) * PITCH + w + t;
                    a[i][0] = from[0];
                    a[i][1] = from[8 * PITCH];
                    a[i][2] = from[4];
                    a[i][3] = from[8 * PITCH + 4];
                }
                UNROLL
                for (int j = 0; j < RN; ++j) {
                    __local const uint *from = b_tile + (warp_n + j * 8 + g) * PITCH + w + t;
                    const uint two[2] = {from[0], from[4]};
                    UNROLL
                    for (int i = 0; i < RM; ++i)
                        MMA(acc[i][j], a[i], two)
                }
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);  // the tiles have been read by all

        // ---- registers to local memory
        if (step < steps) {
            #pragma unroll
            for (int f = 0; f < A_FETCH; ++f) {
                const int v = f * WORK_ITEMS + item;
                #pragma unroll
                for (int l = 0; l < VW; ++l) {
                    const int m = A_UNIT == 2 ? A_M(v) + l : A_M(v);
                    const int k = A_UNIT == 2 ? A_K(v) : A_K(v) + l;
                    a_bits[m * PITCH * PER_WORD + k] = PREPARED(a_next[f][l]);
                }
            }
            #pragma unroll
            for (int f = 0; f < B_FETCH; ++f) {
                const int v = f * WORK_ITEMS + item;
                #pragma unroll
                for (int l = 0; l < VW; ++l) {
                    const int n = B_UNIT == 1 ? B_N(v) : B_N(v) + l;
                    const int k = B_UNIT == 1 ? B_K(v) + l : B_K(v);
                    b_bits[n * PITCH * PER_WORD + k] = PREPARED(b_next[f][l]);
                }
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);  // the tiles have been written by all
    }

    // ---- epilogue
    #pragma unroll
    for (int i = 0; i < RM; ++i) {
        #pragma unroll
        for (int j = 0; j < RN; ++j) {
            #pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int m = m0 + warp_m + i * 16 + g + r * 8;
                const int n = n0 + warp_n + j * 8 + 2 * t;
                if (m < M && n < N) {
#if C_UNIT
                    if (n + 1 < N) {
                        PUT_V(b, m, n, (float2)(acc[i][j][2 * r], acc[i][j][2 * r + 1]));
                    } else
#endif
                    {
                        PUT(b, m, n, acc[i][j][2 * r]);
                        if (n + 1 < N) {
                            PUT(b, m, n + 1, acc[i][j][2 * r + 1]);
                        }
                    }
                }
            }
        }
    }
}
