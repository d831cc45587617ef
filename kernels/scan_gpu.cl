// scan_gpu.cl: a recurrence over time in one kernel, for GPU devices.
//
//   p[b,n] = sum over r of past[b,r] * M(r,n)      past: the multiplied fields after the step before
//   fields[·,b,k] = CELL(t, b, k, p[b,·*HIDDEN+k], fields after the step before, inputs at t)
//
// Batch rows do not meet: a work-group owns BB of them and goes through all times. The fields' whole
// history is the result, (FIELDS, TIME+1, BATCH, HIDDEN), and the only state: each step reads what
// the step before wrote there, which a barrier shows to the whole group. What CELL computes is the
// host's, and so is what M and the inputs are in memory.
//
//   work-item: unit k of BB rows, all PRODUCTS of it    M is read along k: neighbours together
//   past goes through local memory in parts of DC numbers a row, read by all items at once
//
// Launch: global size (ceil(BATCH / BB) * WG), local size (WG). Order of summation: r rising.
// Source of the idea (a group that stays with its rows): G. Diamos et al., "Persistent RNNs:
//   stashing recurrent weights on-chip", 2016.

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
#ifndef WG
#define WG 64         // work-items of a group
#endif
#ifndef BB
#define BB 2          // batch rows of a group
#endif
#ifndef DC
#define DC 64         // numbers of a row in local memory
#endif

#define DEPTH (MULTIPLIED * HIDDEN)
#define WIDTH (PRODUCTS * HIDDEN)
#define LESSER(x, y) ((x) < (y) ? (x) : (y))

// ---- Holes --------------------------------------------------------------------------------------
// STEP stores all fields at one place of the slot after t, from PRODUCT and PAST; START stores them
// before the first step.
#ifndef KERNEL_NAME
#define KERNEL_NAME scan_gpu
#define PARAMS __global const float *restrict matrix, __global const float *restrict inputs, \
               __global float *fields
#define LOAD_M(r, n) matrix[(r) * WIDTH + (n)]
#define LOAD_PAST(f, slot, b, k) fields[(((f) * (TIME + 1) + (slot)) * BATCH + (b)) * HIDDEN + (k)]
#define START(b, k) LOAD_PAST(0, 0, b, k) = 0
#define STEP(t, b, k) LOAD_PAST(0, (t) + 1, b, k) = \
    tanh(PRODUCT(0) + inputs[((t) * BATCH + (b)) * HIDDEN + (k)])
#endif
#define PRODUCT(p) acc[p][row]
#define PAST(f) LOAD_PAST(f, before, b0 + row, k)

__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local ACC_T past[BB * DC];
    const int item = (int)get_local_id(0);
    const int b0 = (int)get_group_id(0) * BB;
    const int rows = LESSER(BB, BATCH - b0);
    for (int row = 0; row < rows; ++row) {
        for (int k = item; k < HIDDEN; k += WG)
            START(b0 + row, k);
    }
    for (int step = 0; step < TIME; ++step) {
        const int t = REVERSE ? TIME - 1 - step : step;
        const int before = REVERSE ? t + 1 : t;
        barrier(CLK_GLOBAL_MEM_FENCE);
        for (int k0 = 0; k0 < HIDDEN; k0 += WG) {
            const int k = k0 + item;
            ACC_T acc[PRODUCTS][BB];
            #pragma unroll
            for (int p = 0; p < PRODUCTS; ++p) {
                #pragma unroll
                for (int row = 0; row < BB; ++row)
                    acc[p][row] = 0;
            }
            for (int r0 = 0; r0 < DEPTH; r0 += DC) {
                barrier(CLK_LOCAL_MEM_FENCE);
                for (int i = item; i < BB * DC; i += WG) {
                    const int row = i / DC;
                    const int r = r0 + i % DC;
                    past[i] = row < rows && r < DEPTH
                        ? LOAD_PAST(r / HIDDEN, before, b0 + row, r % HIDDEN) : 0;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                const int depth = k < HIDDEN ? LESSER(DC, DEPTH - r0) : 0;
                for (int r = 0; r < depth; ++r) {
                    #pragma unroll
                    for (int p = 0; p < PRODUCTS; ++p) {
                        const ACC_T m = LOAD_M(r0 + r, p * HIDDEN + k);
                        #pragma unroll
                        for (int row = 0; row < BB; ++row)
                            acc[p][row] += past[row * DC + r] * m;
                    }
                }
            }
            #pragma unroll
            for (int row = 0; row < BB; ++row) {
                if (row < rows && k < HIDDEN)
                    STEP(t, b0 + row, k);
            }
        }
    }
}
