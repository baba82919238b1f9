/**
 * The matrix of `npm run testpmd-matrix`: all that DPDK's virtio driver can be told about its rings, and the names of its
 * rows. A row is a pair of devices, alike, that the switch joins.
 */
import type { VirtioUser } from '../support/testpmd.ts';

export const DIMENSIONS = {
  ring: ['split', 'packed'],
  order: ['any-order', 'in-order'],
  buffers: ['one-buffer', 'mergeable'],
  code: ['scalar', 'vectorized'],
  /** Who listens on the socket: `server` is testpmd. */
  role: ['client', 'server'],
  queues: ['1q', '2q', '4q'],
} as const;

type Dimension = keyof typeof DIMENSIONS;
const ORDER = Object.keys(DIMENSIONS) as Dimension[];

export type Row = { readonly [D in Dimension]: (typeof DIMENSIONS)[D][number] };

/** Such as `packed-in-order-mergeable-scalar-client-2q`. */
export const nameOf = (row: Row): string => ORDER.map((dimension) => row[dimension]).join('-');

export const queuesOf = (row: Row): number => Number.parseInt(row.queues, 10);

function allRows(): Row[] {
  let rows: Record<string, string>[] = [{}];
  for (const dimension of ORDER)
    rows = rows.flatMap((row) => DIMENSIONS[dimension].map((value) => ({ ...row, [dimension]: value })));
  return rows as Row[];
}

export const ROWS: readonly Row[] = allRows();

/**
 * Rows that each have one of the words given, for every dimension that words are given for: `packed,1q,2q` are the rows with
 * packed rings and one or two queues. @throws Error that names a word which is none.
 */
export function select(words: readonly string[]): Row[] {
  const known = ORDER.flatMap((dimension) => DIMENSIONS[dimension] as readonly string[]);
  const strange = words.find((word) => !known.includes(word));
  if (strange !== undefined) throw new Error(`'${strange}' is none of ${known.join(', ')}`);
  return ROWS.filter((row) =>
    ORDER.every((dimension) => {
      const wanted = words.filter((word) => (DIMENSIONS[dimension] as readonly string[]).includes(word));
      return wanted.length === 0 || wanted.includes(row[dimension]);
    }),
  );
}

/** The device of a row, but for its socket. */
export const deviceOf = (row: Row): Omit<VirtioUser, 'path'> => ({
  role: row.role,
  queues: queuesOf(row),
  packedVq: row.ring === 'packed',
  inOrder: row.order === 'in-order',
  mrgRxbuf: row.buffers === 'mergeable',
  vectorized: row.code === 'vectorized',
});

/**
 * Whether DPDK 22.11 receives with vector instructions in this row: neither kind of ring does so into mergeable buffers, packed
 * ones want IN_ORDER and AVX-512, split ones prefer their in-order code.
 * @param avx512 the processor has AVX-512F.
 */
export const isVectorized = (row: Row, avx512: boolean): boolean =>
  row.code === 'vectorized' &&
  row.buffers === 'one-buffer' &&
  (row.ring === 'packed' ? row.order === 'in-order' && avx512 : row.order === 'any-order');
