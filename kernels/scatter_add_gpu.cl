// scatter_add_gpu.cl: rows added where their indices say, on GPUs, without atomics.
//
//   out[e, t] = EPILOGUE( sum over all r with at(r) == e of row(r, t) ),  in the order of r
//
// A work-group owns EB x TB results, which stand in local memory, and reads all R indices in tiles
// of WG * PER. Of each tile it makes an ordered list of the rows that are its own:
//
//   tile      at(r) - first of WG * PER rows, read side by side
//   counts    own rows among the PER that work-item i looks at, summed over the items before it
//   list      the places of own rows in the tile, ascending
//
// Work-item (q, c), c = local id % TB and q = local id / TB, then walks down the list and adds
// column c of those rows whose result is one of its own: e % (WG / TB) == q. So every result has
// one writer, who adds in the order of r; neighbours along c read neighbours in memory.
//
// Launch: local size WG, global size WG * ceil(E/EB) * T_BLOCKS; T_BLOCKS = ceil(T/TB), fastest.
//   WG and TB are powers of two, TB <= WG; WG * PER <= 65536.
// As it stands the file adds float rows of a row-major R x T matrix to the places in `at`.
// Source of the method: the compaction by prefix sums of G. Blelloch, "Prefix Sums and Their
//   Applications", CMU-CS-90-190, 1990 (the step-doubling form of Hillis and Steele).

// ---- Extents ----------------------------------------------------------------------------------
#ifndef E
#define E 1000        // results
#endif
#ifndef T
#define T 24          // columns
#endif
#ifndef R
#define R 5000        // rows
#endif

// ---- Tile parameters --------------------------------------------------------------------------
#ifndef WG
#define WG 128        // work-items of a group
#endif
#ifndef PER
#define PER 16        // indices of a tile that one work-item looks at
#endif
#ifndef EB
#define EB 64         // results of a group
#endif
#ifndef TB
#define TB 32         // columns of a group
#endif
#ifndef T_BLOCKS
#define T_BLOCKS 1    // groups side by side along t
#endif
#ifndef ACC_T
#define ACC_T float   // type of the sums; unsigned for integers, which wrap
#endif
#ifndef VALUE_T
#define VALUE_T float // type of the values
#endif

// ---- Holes ------------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME scatter_add_gpu
#endif
#ifndef PARAMS
#define PARAMS __global const int *restrict at, __global const float *restrict rows, \
               __global float *restrict out
#endif
#ifndef LOAD_AT
#define LOAD_AT(r) (at[r])
#endif
#ifndef LOAD_ROW
#define LOAD_ROW(r, t) (rows[(size_t)(r) * T + (t)])
#endif
#ifndef STORE
#define STORE(e, t, acc) out[(size_t)(e) * T + (t)] = (acc)
#endif

#define TILE (WG * PER)
#define OUTSIDE (-1)
#define FENCE barrier(CLK_LOCAL_MEM_FENCE)

__kernel __attribute__((reqd_work_group_size(WG, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local int tile[TILE];
    __local ushort list[TILE];
    __local int counts[WG];
    __local ACC_T sums[EB * TB];
    const int item = (int)get_local_id(0);
    const int c = item % TB;
    const int q = item / TB;
    const long first = (long)get_group_id(0) / T_BLOCKS * EB;
    const long column = (long)get_group_id(0) % T_BLOCKS * TB + c;

    for (int e = q; e < EB; e += WG / TB)
        sums[e * TB + c] = 0;
    for (long r0 = 0; r0 < R; r0 += TILE) {
        for (int i = item; i < TILE; i += WG) {
            int own = OUTSIDE;
            if (r0 + i < R) {
                const long e = (long)LOAD_AT(r0 + i) - first;
                own = e >= 0 && e < EB ? (int)e : OUTSIDE;
            }
            tile[i] = own;
        }
        FENCE;  // the tile is there

        int mine = 0;
        for (int i = 0; i < PER; ++i)
            mine += tile[item * PER + i] != OUTSIDE;
        counts[item] = mine;
        FENCE;
        int before = 0;  // what the items before this one have found, two barriers a doubling
        for (int step = 1; step < WG; step *= 2) {
            const int other = item >= step ? counts[item - step] : 0;
            FENCE;
            counts[item] += other;
            FENCE;
        }
        before = counts[item] - mine;
        for (int i = 0; i < PER; ++i)
            if (tile[item * PER + i] != OUTSIDE)
                list[before++] = (ushort)(item * PER + i);
        FENCE;  // the list is there

        const int found = counts[WG - 1];
        for (int i = 0; i < found; ++i) {
            const int place = list[i];
            const int e = tile[place];
            if (e % (WG / TB) == q && column < T)
                sums[e * TB + c] += (ACC_T)LOAD_ROW(r0 + place, column);
        }
        FENCE;  // the tile, the list and the counts have been read by all
    }
    if (column < T) {
        for (int e = q; e < EB && first + e < E; e += WG / TB) {
            STORE(first + e, column, (VALUE_T)sums[e * TB + c]);
        }
    }
}
