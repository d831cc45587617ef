// as_strided.cl: a view whose reads and writes are contiguous along different axes.
//
//   for all b, i, j:   STORE(b, i, j) what LOAD_0(b, i, j) … give
//
// Reads are contiguous along i, writes along j: a transposition, once for every b. As it stands
// the file writes the transpose of a row-major J x I float matrix. A tile of TI x TJ elements is
// read in runs along i, turned in fast memory, and written in runs along j.
//
// CPU family (GPU 0): one work-item takes TILES consecutive tiles; the tile stands in private
//   memory, read in vectors of VW and written to its rows lane by lane.
//   Launch: global size ceil(BATCH * ceil(I/TI) * ceil(J/TJ) / TILES), local size 1.
// GPU family (GPU 1): one work-group of TI x ROWS work-items (TI = TJ) takes one tile; it stands in
//   local memory, with a pitch that spreads a column over all banks.
//   Launch: global size BATCH * ceil(I/TI) * ceil(J/TJ) * TI * ROWS, local size TI * ROWS.
// Source of the method: G. Ruetsch and P. Micikevicius, "Optimizing Matrix Transpose in CUDA",
//   NVIDIA, 2009.

#ifndef GPU
#define GPU 0
#endif

// ---- Extents ----------------------------------------------------------------------------------
#ifndef BATCH
#define BATCH 1
#endif
#ifndef I
#define I 1000        // contiguous in what is read
#endif
#ifndef J
#define J 600         // contiguous in what is written
#endif
#ifndef VIEWS
#define VIEWS 1       // arrays that are turned: 1 to 3
#endif

// ---- Tile parameters --------------------------------------------------------------------------
#ifndef T
#define T float       // type of the elements as computed with
#endif
#ifndef VW
#define VW 8          // lanes of a vector (CPU family)
#endif
#ifndef TI
#define TI 32         // tile: elements along i
#endif
#ifndef TJ
#define TJ 64         // tile: elements along j
#endif
#ifndef TILES
#define TILES 1       // tiles of a work-item (CPU family)
#endif
#ifndef ROWS
#define ROWS 8        // rows that a work-group moves at a time (GPU family)
#endif
#ifndef PITCH
#define PITCH (GPU ? TJ + 1 : TJ + 64 / (int)sizeof(T))  // elements from a tile's row to the next
#endif

#define JOIN_(x, y) x##y
#define JOIN(x, y) JOIN_(x, y)
#define T_V JOIN(T, VW)
// Vector access through any pointer to T: PoCL calls a function for each vloadn and vstoren.
typedef T_V unaligned_v __attribute__((aligned(sizeof(T))));
#define VEC_GLOBAL(p) (*(__global unaligned_v *)(p))
#define VEC_CONST(p) (*(__global const unaligned_v *)(p))
#define VEC_PRIVATE(p) (*(__private unaligned_v *)(p))
#define LESSER(x, y) ((x) < (y) ? (x) : (y))

// ---- Holes ------------------------------------------------------------------------------------
#ifndef KERNEL_NAME
#define KERNEL_NAME as_strided
#endif
#ifndef PARAMS
#define PARAMS __global const T *restrict X, __global T *restrict Y
#endif
// Element (b, i, j) of view number 0, and of 1 and 2 where there are more; LOAD_V_0 gives VW
// consecutive i. Called only where all of them are in range.
#ifndef LOAD_0
#define LOAD_0(b, i, j) (X[((size_t)(b) * J + (j)) * I + (i)])
#endif
#ifndef LOAD_V_0
#define LOAD_V_0(b, i, j) VEC_CONST(&LOAD_0(b, i, j))
#endif
// Statements that store element (b, i, j), or VW consecutive j. turned[v * SIZE] is the element
// of view v; its neighbours along j follow it.
#ifndef STORE
#define STORE(b, i, j, turned) Y[((size_t)(b) * I + (i)) * J + (j)] = (turned)[0]
#endif
#ifndef STORE_V
#define STORE_V(b, i, j, turned) \
    VEC_GLOBAL(&Y[((size_t)(b) * I + (i)) * J + (j)]) = VEC_PRIVATE(turned)
#endif

// Statements that ask for the cache line of element (b, i, j) of a view, or of the first output;
// the element may lie outside.
#ifndef AHEAD_0
#define AHEAD_0(b, i, j)
#endif
#ifndef AHEAD_1
#define AHEAD_1(b, i, j)
#endif
#ifndef AHEAD_2
#define AHEAD_2(b, i, j)
#endif
#ifndef AHEAD_STORE
#define AHEAD_STORE(b, i, j)
#endif

#define SIZE (TI * PITCH)
#if VIEWS == 1
#define TAKE_ALL TAKE(0)
#elif VIEWS == 2
#define TAKE_ALL TAKE(0) TAKE(1)
#else
#define TAKE_ALL TAKE(0) TAKE(1) TAKE(2)
#endif
#define LINE (64 / (int)sizeof(T))

#if GPU

#define TAKE(view)                                                              \
    for (int r = row; r < TJ; r += ROWS)                                        \
        if (i0 + column < I && j0 + r < J)                                      \
            tile[(view) * SIZE + column * PITCH + r] = JOIN(LOAD_, view)(b, i0 + column, j0 + r);

__kernel __attribute__((reqd_work_group_size(TI * ROWS, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    __local T tile[VIEWS * SIZE];
    const int tiles_i = (I + TI - 1) / TI;
    const int tiles_j = (J + TJ - 1) / TJ;
    const int number = (int)get_group_id(0);
    const int column = (int)get_local_id(0) % TI;
    const int row = (int)get_local_id(0) / TI;
    const int j0 = number % tiles_j * TJ;
    const int i0 = number / tiles_j % tiles_i * TI;
    const int b = number / tiles_j / tiles_i;

    TAKE_ALL
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int r = row; r < TI; r += ROWS)
        if (i0 + r < I && j0 + column < J) {
            STORE(b, i0 + r, j0 + column, tile + r * PITCH + column);
        }
}

#else

#define TAKE(view)                                                              \
    for (int j = 0; j < width; ++j) {                                           \
        /* the same row of the next tile, and a share of this tile's output */  \
        for (int i = 0; i < TI; i += LINE) {                                    \
            JOIN(AHEAD_, view)(next_b, next_i0 + i, next_j0 + j);               \
        }                                                                       \
        if ((view) == 0)                                                        \
            for (int line = j * TI / LINE; line < (j + 1) * TI / LINE; ++line) { \
                AHEAD_STORE(b, i0 + line * LINE / TJ, j0 + line * LINE % TJ);   \
            }                                                                   \
        __private T *place = tile + (view) * SIZE + j;                          \
        int i = 0;                                                              \
        for (; i + VW <= height; i += VW) {                                     \
            T lane[VW];                                                         \
            VEC_PRIVATE(lane) = JOIN(LOAD_V_, view)(b, i0 + i, j0 + j);         \
            _Pragma("unroll")                                                   \
            for (int l = 0; l < VW; ++l)                                        \
                place[(i + l) * PITCH] = lane[l];                               \
        }                                                                       \
        for (; i < height; ++i)                                                 \
            place[i * PITCH] = JOIN(LOAD_, view)(b, i0 + i, j0 + j);            \
    }

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void KERNEL_NAME(PARAMS)
{
    T tile[VIEWS * SIZE];
    const int tiles_i = (I + TI - 1) / TI;
    const int tiles_j = (J + TJ - 1) / TJ;
    const int first = (int)get_group_id(0) * TILES;
    const int last = LESSER(first + TILES, BATCH * tiles_i * tiles_j);
    for (int number = first; number < last; ++number) {
        const int j0 = number % tiles_j * TJ;
        const int i0 = number / tiles_j % tiles_i * TI;
        const int b = number / tiles_j / tiles_i;
        const int next_j0 = (number + 1) % tiles_j * TJ;
        const int next_i0 = (number + 1) / tiles_j % tiles_i * TI;
        const int next_b = (number + 1) / tiles_j / tiles_i;
        const int height = LESSER(TI, I - i0);
        const int width = LESSER(TJ, J - j0);
        TAKE_ALL
        for (int i = 0; i < height; ++i) {
            __private T *from = tile + i * PITCH;
            int j = 0;
            for (; j + VW <= width; j += VW) {
                STORE_V(b, i0 + i, j0 + j, from + j);
            }
            for (; j < width; ++j) {
                STORE(b, i0 + i, j0 + j, from + j);
            }
        }
    }
}

#endif
