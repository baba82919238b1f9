/** What this back end offers, and what the negotiated features mean for its queues. */
import type { RxOptions, TxOptions } from './queue-options.ts';
import { bits, hasBit, PROTOCOL_FEATURES, VIRTIO_FEATURES, type VirtioFeature } from './wire.ts';

const PLAIN: readonly VirtioFeature[] = [
  'MTU',
  'MRG_RXBUF',
  'STATUS',
  // The control queue, when there is one, is served by the front end.
  'CTRL_VQ',
  'CTRL_RX',
  'GUEST_ANNOUNCE',
  'MQ',
  'NOTIFY_ON_EMPTY',
  'LOG_ALL',
  'ANY_LAYOUT',
  'INDIRECT_DESC',
  'EVENT_IDX',
  'PROTOCOL_FEATURES',
  'VERSION_1',
  // All chains go back in the order in which they came.
  'IN_ORDER',
];

const OFFLOAD: readonly VirtioFeature[] = [
  'CSUM',
  'GUEST_CSUM',
  'GUEST_TSO4',
  'GUEST_TSO6',
  'GUEST_ECN',
  'HOST_TSO4',
  'HOST_TSO6',
  'HOST_ECN',
];

export const offeredFeatures = (offload: boolean, packed: boolean, iommu = false): bigint =>
  bits(VIRTIO_FEATURES, [
    ...PLAIN,
    ...(offload ? OFFLOAD : []),
    ...(packed ? (['RING_PACKED'] as const) : []),
    ...(iommu ? (['ACCESS_PLATFORM'] as const) : []),
  ]);

export const OFFERED_PROTOCOL: bigint = bits(PROTOCOL_FEATURES, [
  'MQ',
  'LOG_SHMFD',
  'RARP',
  'REPLY_ACK',
  'NET_MTU',
  'BACKEND_REQ',
  'CONFIG',
  'INFLIGHT_SHMFD',
  'RESET_DEVICE',
  'CONFIGURE_MEM_SLOTS',
  'STATUS',
]);

const has = (features: bigint, name: VirtioFeature): boolean => hasBit(features, VIRTIO_FEATURES[name]);

/** The front end wants every write to guest memory logged. */
export const isLogging = (features: bigint): boolean => has(features, 'LOG_ALL');

/** The device works with I/O virtual addresses. */
export const hasIommu = (features: bigint): boolean => has(features, 'ACCESS_PLATFORM');

export const isPacked = (features: bigint): boolean => has(features, 'RING_PACKED');

/** Bytes of the virtio-net header (virtio 1.2 section 5.1.6.1). */
export const headerBytes = (features: bigint): number =>
  has(features, 'VERSION_1') || has(features, 'MRG_RXBUF') ? 12 : 10;

export const rxOptions = (features: bigint): RxOptions => ({
  headerBytes: headerBytes(features),
  eventIdx: has(features, 'EVENT_IDX'),
  notifyOnEmpty: has(features, 'NOTIFY_ON_EMPTY') && !has(features, 'VERSION_1'),
  headersEmpty: !has(features, 'CSUM'),
});

export const txOptions = (features: bigint, mtu: number, retries: number): TxOptions => ({
  headerBytes: headerBytes(features),
  eventIdx: has(features, 'EVENT_IDX'),
  mergeable: has(features, 'MRG_RXBUF'),
  checksum: has(features, 'GUEST_CSUM'),
  tso4: has(features, 'GUEST_TSO4'),
  tso6: has(features, 'GUEST_TSO6'),
  ecn: has(features, 'GUEST_ECN'),
  mtu,
  retries,
});
