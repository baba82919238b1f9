/**
 * Packet rates by kind of ring, this switch and OVS-DPDK in turns: split and packed, short and long frames, one queue and two
 * on the one PMD. Frames circulate between two guests of one testpmd, whose core is the other half of the path: where it is
 * the slower half, both switches show the same rate, and cycles per packet tell them apart.
 */
import type { Bench } from '../bench.ts';
import { CROSS, type Row, runRows } from './rates.ts';

const KINDS: { name: string; about: string; packedVq: boolean }[] = [
  { name: 'split', about: 'split rings', packedVq: false },
  { name: 'packed', about: 'packed rings', packedVq: true },
];

export const ROWS: Row[] = KINDS.flatMap(({ name, about, packedVq }) =>
  [
    { packetLength: 64, queues: 1 },
    { packetLength: 1500, queues: 1 },
    { packetLength: 64, queues: 2 },
    { packetLength: 1500, queues: 2 },
  ].map(({ packetLength, queues }) => ({
    name: `${packetLength}-${name}${queues === 2 ? '-2q' : ''}`,
    about: `${packetLength} B, ${about}${queues === 2 ? ', 2 queues' : ''}`,
    flows: CROSS,
    guests: { packetLength, queues, packedVq },
    bursts: 8 / queues,
    target: 1,
  })),
);

export const rings: Bench = {
  name: 'rings',
  about: `packet rates by kind of ring, switches in turns (rows: ${ROWS.map((row) => row.name).join(', ')})`,
  run: (options) => runRows(ROWS, options),
};
