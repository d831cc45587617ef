/* Rows added where their indices say: out[e, t] = sum of row[r, t] over all r with at[r] == e.
 *
 * A work-item owns EB x TB results in private memory and reads all R indices; rows that are not
 * its own it never reads. No atomics: every result is added up in the order of r.
 *
 * E, T, R       results, columns, rows
 * EB, TB        results and columns of a work-item
 * T_BLOCKS      work-items side by side along t
 * VW            lanes along t, 1 for none
 * ACC_T, VALUE_T  type of the sums (unsigned for integers, which wrap), and of the values
 * LOAD_AT(r), LOAD_ROW(r, t), LOAD_ROW_V(r, t), STORE(e, t, acc): filled in
 */
__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void KERNEL_NAME(PARAMS)
{
  const long unit = get_group_id(0);
  const long first = unit / T_BLOCKS * EB, left = unit % T_BLOCKS * TB;
  const long own = E - first < EB ? E - first : EB;
  const long width = T - left < TB ? T - left : TB;
  ACC_T acc[EB * TB];
  for (int i = 0; i < EB * TB; ++i) acc[i] = 0;
  for (long r = 0; r < R; ++r) {
    const long at = (long)LOAD_AT(r) - first;
    if (at < 0 || at >= own) continue;
    ACC_T *row = acc + at * TB;
    long t = 0;
#if VW > 1
    for (; t + VW <= width; t += VW) *(LANES_AT *)(row + t) += LOAD_ROW_V(r, left + t);
#endif
    for (; t < width; ++t) row[t] += (ACC_T)LOAD_ROW(r, left + t);
  }
  for (long e = 0; e < own; ++e)
    for (long t = 0; t < width; ++t)
      STORE(first + e, left + t, (VALUE_T)acc[e * TB + t]);
}
