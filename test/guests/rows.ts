/**
 * The matrix of `npm run guests`: what the cards of two Linux guests can be, and the names of its rows.
 *
 * A row is a pair of cards, one in each guest, that differ in nothing but offloads. Which cards there are stands in
 * {@link DIMENSIONS}; packed rings need a modern device (virtio 1.2 section 2.8).
 */
import type { VirtioFeature } from '#ports/vhost-user/wire.ts';

export const DIMENSIONS = {
  /** `modern`: virtio 1.x only. `legacy`: the interface and byte order of before, without VIRTIO_F_VERSION_1. */
  era: ['modern', 'legacy'],
  ring: ['split', 'packed'],
  queues: ['1q', '2q'],
  /** `offload`: both guests take and leave checksums and segments; `plain`: none does; `mixed`: guest a only. */
  offloads: ['offload', 'plain', 'mixed'],
  mtu: ['1500', '9000'],
} as const;

type Dimension = keyof typeof DIMENSIONS;
const ORDER = Object.keys(DIMENSIONS) as Dimension[];

export type Row = { readonly [D in Dimension]: (typeof DIMENSIONS)[D][number] };

/** Of one guest: a row's card without the other's offloads. */
export type Kind = Omit<Row, 'offloads'> & { readonly offloads: 'offload' | 'plain' };

/** Such as `modern-packed-2q-mixed-9000`. */
export const nameOf = (row: Row | Kind): string => ORDER.map((dimension) => row[dimension]).join('-');

function allRows(): Row[] {
  let rows: Record<string, string>[] = [{}];
  for (const dimension of ORDER)
    rows = rows.flatMap((row) => DIMENSIONS[dimension].map((value) => ({ ...row, [dimension]: value })));
  return (rows as Row[]).filter(({ era, ring }) => !(era === 'legacy' && ring === 'packed'));
}

export const ROWS: readonly Row[] = allRows();

/**
 * Rows that each have one of the words given, for every dimension that words are given for: `packed,1500,9000` are the
 * rows with packed rings of either MTU. @throws Error that names a word which is none.
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

export const kindOf = (row: Row, guest: 'a' | 'b'): Kind => {
  const { offloads, ...rest } = row;
  return { ...rest, offloads: offloads === 'plain' || (offloads === 'mixed' && guest === 'b') ? 'plain' : 'offload' };
};

/** What a card cannot do that has no offloads: neither leave work to the switch nor take frames that need it. */
const PLAIN = [
  ...['csum', 'gso', 'guest_csum', 'guest_tso4', 'guest_tso6', 'guest_ecn', 'guest_ufo'],
  ...['host_tso4', 'host_tso6', 'host_ecn', 'host_ufo'],
].map((property) => `${property}=off`);

/** Properties of QEMU's virtio-net-pci for a card. */
export function deviceOf({ era, ring, queues, offloads, mtu }: Kind): string {
  return [
    era === 'modern' ? 'disable-legacy=on' : 'disable-modern=on',
    ...(ring === 'packed' ? ['packed=on'] : []),
    ...(offloads === 'plain' ? PLAIN : []),
    // Without mergeable buffers a legacy header is the short one, and a jumbo frame lies in one chain.
    ...(offloads === 'plain' && queues === '1q' ? ['mrg_rxbuf=off'] : []),
    ...(mtu === '9000' ? ['host_mtu=9000'] : []),
  ].join();
}

/** Features that guest and switch must have agreed on for a card, and those that they must not. */
export function featuresOf({ era, ring, queues, offloads, mtu }: Kind): Record<'with' | 'without', VirtioFeature[]> {
  const features: Record<'with' | 'without', VirtioFeature[]> = { with: [], without: [] };
  const demand = (condition: boolean, ...names: VirtioFeature[]) =>
    features[condition ? 'with' : 'without'].push(...names);
  demand(era === 'modern', 'VERSION_1');
  demand(ring === 'packed', 'RING_PACKED');
  demand(queues === '2q', 'MQ');
  demand(offloads === 'offload', 'CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'HOST_TSO6', 'GUEST_TSO4', 'GUEST_TSO6');
  demand(offloads === 'offload' || queues === '2q', 'MRG_RXBUF');
  demand(mtu === '9000', 'MTU');
  return features;
}
