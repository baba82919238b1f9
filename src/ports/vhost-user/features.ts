/** What this back end offers, and what the negotiated features mean for its queues. */
import { GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4 } from '#datapath/packet/batch.ts';
import { OFFLOAD_FEATURES } from './offload-options.ts';
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

export const offeredFeatures = (offloads: readonly VirtioFeature[], packed: boolean, iommu = false): bigint =>
  bits(VIRTIO_FEATURES, [
    ...PLAIN,
    ...offloads,
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

/** @param pagefault this process may have its page faults served by the front end (post-copy migration). */
export const offeredProtocol = (pagefault: boolean): bigint =>
  pagefault ? OFFERED_PROTOCOL | bits(PROTOCOL_FEATURES, ['PAGEFAULT']) : OFFERED_PROTOCOL;

const has = (features: bigint, name: VirtioFeature): boolean => hasBit(features, VIRTIO_FEATURES[name]);

/** The front end wants every write to guest memory logged. */
export const isLogging = (features: bigint): boolean => has(features, 'LOG_ALL');

/** The device works with I/O virtual addresses. */
export const hasIommu = (features: bigint): boolean => has(features, 'ACCESS_PLATFORM');

export const isPacked = (features: bigint): boolean => has(features, 'RING_PACKED');

/** Bytes of the virtio-net header (virtio 1.2 section 5.1.6.1). */
export const headerBytes = (features: bigint): number =>
  has(features, 'VERSION_1') || has(features, 'MRG_RXBUF') ? 12 : 10;

/** Names of the offloads among features: `csum,guest_csum,host_tso4,…`, or `none`. */
export const offloadNames = (features: bigint): string =>
  OFFLOAD_FEATURES.filter((name) => has(features, name))
    .join(',')
    .toLowerCase() || 'none';

const tcp = (features: bigint, type: number, name: VirtioFeature, ecn: VirtioFeature): number[] =>
  has(features, name) ? (has(features, ecn) ? [type, type | GSO_ECN] : [type]) : [];

/** gso_type of frames that the guest may send. */
const sentGso = (features: bigint): number[] => [
  ...tcp(features, GSO_TCPV4, 'HOST_TSO4', 'HOST_ECN'),
  ...tcp(features, GSO_TCPV6, 'HOST_TSO6', 'HOST_ECN'),
  ...(has(features, 'HOST_UFO') ? [GSO_UDP] : []),
  ...(has(features, 'HOST_USO') ? [GSO_UDP_L4] : []),
];

/** gso_type of frames that the guest takes; none without checksums. */
const takenGso = (features: bigint): number[] =>
  has(features, 'GUEST_CSUM')
    ? [
        ...tcp(features, GSO_TCPV4, 'GUEST_TSO4', 'GUEST_ECN'),
        ...tcp(features, GSO_TCPV6, 'GUEST_TSO6', 'GUEST_ECN'),
        ...(has(features, 'GUEST_UFO') ? [GSO_UDP] : []),
        // The type does not tell IPv4 from IPv6: a guest that takes but one of them gets short frames.
        ...(has(features, 'GUEST_USO4') && has(features, 'GUEST_USO6') ? [GSO_UDP_L4] : []),
      ]
    : [];

export const rxOptions = (features: bigint): RxOptions => ({
  headerBytes: headerBytes(features),
  eventIdx: has(features, 'EVENT_IDX'),
  notifyOnEmpty: has(features, 'NOTIFY_ON_EMPTY') && !has(features, 'VERSION_1'),
  headersEmpty: !has(features, 'CSUM'),
  gso: sentGso(features),
});

/** What is sent to the guest: no more than a driver that took the device's MTU was told of (virtio 1.2 section 5.1.4.1). */
export const boundMtu = (features: bigint, mtu: number, told: number): number =>
  told > 0 && has(features, 'MTU') ? Math.min(mtu, told) : mtu;

export const txOptions = (features: bigint, mtu: number, retries: number): TxOptions => ({
  headerBytes: headerBytes(features),
  eventIdx: has(features, 'EVENT_IDX'),
  mergeable: has(features, 'MRG_RXBUF'),
  checksum: has(features, 'GUEST_CSUM'),
  gso: takenGso(features),
  mtu,
  retries,
});
