// scan_cpu.cl: a recurrence over time in one kernel, for CPU devices.
//
//   p[b,n] = sum over r of past[b,r] * M(r,n)      past: the multiplied fields after the step before
//   fields[·,b,k] = CELL(t, b, k, p[b,·*HIDDEN+k], fields after the step before, inputs at t)
//
// Batch rows do not meet: a work-item owns BB of them and goes through all times. The fields' whole
// history is the result, (FIELDS, TIME+1, BATCH, HIDDEN), and the only state: each step reads what
// the step before wrote there. What CELL computes is the host's, and so is what M and the inputs
// are in memory.
//
//              M [DEPTH][WIDTH]                DEPTH = MULTIPLIED * HIDDEN
//              +---------+                     WIDTH = PRODUCTS * HIDDEN
//              |  panel  |  NR = NV * VW columns, in the caches from step to step
//              +---------+
//    +------+  +---------+
// BB | past |  | product |  MR x NR sums in registers, rows broadcast
//    +------+  +---------+
//
// The last panel, and the last vector of a row of HIDDEN, end where the row ends: they overlap the
// ones before and compute the same again, so that nothing goes lane by lane. Rows beyond the last
// are zeros.
//
// Launch: global size (ceil(BATCH / BB)), local size (1). Order of summation: r rising.
// Source of the idea (weights that stay where the recurrence is): G. Diamos et al., "Persistent
//   RNNs: stashing recurrent weights on-chip", 2016.

#pragma OPENCL FP_CONTRACT ON

// ---- Extents ----------------------------------------------------------------------------------
#ifndef BATCH
#define BATCH 8
#endif
#ifndef TIME
#define TIME 50
#endif
#ifndef HIDDEN
#define HIDDEN 64
#endif
#ifndef MULTIPLIED
#define MULTIPLIED 1  // fields that are multiplied with M
#endif
#ifndef PRODUCTS
#define PRODUCTS 1    // what they give
#endif
#ifndef REVERSE
#define REVERSE 0     // 1: from the last time to the first
#endif

// ---- Tile parameters ----------------------------------------------------------------------------
#ifndef ACC_T
#define ACC_T float   // type of products and sums: float or double
#endif
#ifndef VW
#define VW 8          // lanes of a vector, HIDDEN at most
#endif
#ifndef MR
#define MR 4          // rows of the register tile
#endif
#ifndef NV
#define NV 2          // vectors per row of the register tile; NV * VW <= WIDTH
#endif
#ifndef BB
#define BB 4          // batch rows of a work-item, a multiple of MR
#endif

#define NR (NV * VW)
#define DEPTH (MULTIPLIED * HIDDEN)
#define WIDTH (PRODUCTS * HIDDEN)
#if BB % MR != 0
#error "BB must be a multiple of MR"
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define SPARE 64
#define LESSER(x, y) ((x) < (y) ? (x) : (y))
#if VW > 1
#define ACC_V JOIN(ACC_T, VW)
typedef ACC_V unaligned_v __attribute__((aligned(sizeof(ACC_T))));
#else
#define ACC_V ACC_T
typedef ACC_T unaligned_v;
#endif
#define AT(p) (*(unaligned_v *)(p))

// ---- Holes --------------------------------------------------------------------------------------
// In lanes along n or k where VW > 1. STEP stores all fields at one place of the slot after t, from
// PRODUCT and PAST; START stores them before the first step.
#ifndef KERNEL_NAME
#define KERNEL_NAME scan_cpu
#define PARAMS __global const float *restrict matrix, __global const float *restrict inputs, \
               __global float *fields
#define LOAD_M(r, n) AT(matrix + (r) * WIDTH + (n))
#define LOAD_PAST(f, slot, b, k) AT(fields + (((f) * (TIME + 1) + (slot)) * BATCH + (b)) * HIDDEN + (k))
#define START(b, k) LOAD_PAST(0, 0, b, k) = 0
#define STEP(t, b, k) LOAD_PAST(0, (t) + 1, b, k) = \
    tanh(PRODUCT(0) + AT(inputs + ((t) * BATCH + (b)) * HIDDEN + (k)))
#endif
#define PRODUCT(p) AT(product + row * WIDTH + (p) * HIDDEN + k)
#define PAST(f) LOAD_PAST(f, before, b0 + row, k)

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    const int b0 = (int)get_global_id(0) * BB;
    const int rows = BATCH % BB == 0 ? BB : LESSER(BB, BATCH - b0);
    // Intel's runtime (2026.22) reads arrays of a few numbers before they are written.
    ACC_T past[BB * DEPTH + SPARE] __attribute__((aligned(64)));
    ACC_T product[BB * WIDTH + SPARE] __attribute__((aligned(64)));
    for (int i = 0; i < BB * DEPTH; ++i)
        past[i] = 0;
    for (int row = 0; row < rows; ++row) {
        for (int k0 = 0; k0 < HIDDEN; k0 += VW)
            START(b0 + row, LESSER(k0, HIDDEN - VW));
    }
    for (int step = 0; step < TIME; ++step) {
        const int t = REVERSE ? TIME - 1 - step : step;
        const int before = REVERSE ? t + 1 : t;
        for (int row = 0; row < rows; ++row) {
            for (int f = 0; f < MULTIPLIED; ++f) {
                for (int k0 = 0; k0 < HIDDEN; k0 += VW) {
                    const int k = LESSER(k0, HIDDEN - VW);
                    AT(past + row * DEPTH + f * HIDDEN + k) = PAST(f);
                }
            }
        }
        for (int n0 = 0; n0 < WIDTH; n0 += NR) {
            const int n = LESSER(n0, WIDTH - NR);
            for (int row = 0; row < BB; row += MR) {
                ACC_V acc[MR][NV];
                #pragma unroll
                for (int i = 0; i < MR; ++i) {
                    #pragma unroll
                    for (int v = 0; v < NV; ++v)
                        acc[i][v] = 0;
                }
                const ACC_T *left = past + row * DEPTH;
                for (int r = 0; r < DEPTH; ++r) {
                    ACC_V m[NV];
                    #pragma unroll
                    for (int v = 0; v < NV; ++v)
                        m[v] = LOAD_M(r, n + v * VW);
                    #pragma unroll
                    for (int i = 0; i < MR; ++i) {
                        const ACC_V a = (ACC_V)(left[i * DEPTH + r]);
                        #pragma unroll
                        for (int v = 0; v < NV; ++v)
                            acc[i][v] = a * m[v] + acc[i][v];
                    }
                }
                #pragma unroll
                for (int i = 0; i < MR; ++i) {
                    #pragma unroll
                    for (int v = 0; v < NV; ++v)
                        AT(product + (row + i) * WIDTH + n + v * VW) = acc[i][v];
                }
            }
        }
        for (int row = 0; row < rows; ++row) {
            for (int k0 = 0; k0 < HIDDEN; k0 += VW) {
                const int k = LESSER(k0, HIDDEN - VW);
                STEP(t, b0 + row, k);
            }
        }
    }
}
