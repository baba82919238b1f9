/** Feature sets of a port by name; the bits are those of the wire (virtio 1.2 sections 5.1.3 and 6; vhost-user.rst). */
import {
  bits,
  hasBit,
  PROTOCOL_FEATURES,
  type ProtocolFeature,
  VIRTIO_FEATURES,
  type VirtioFeature,
} from '#ports/vhost-user/wire.ts';

export type Feature = VirtioFeature;
export type { ProtocolFeature };

/** What a port asks for unless told otherwise: plain frames, mergeable buffers, few notifications. */
export const DEFAULT_FEATURES: readonly Feature[] = [
  'VERSION_1',
  'MRG_RXBUF',
  'INDIRECT_DESC',
  'ANY_LAYOUT',
  'EVENT_IDX',
];

/** Checksum and segmentation offload both ways, to be added to DEFAULT_FEATURES. */
export const OFFLOAD_FEATURES: readonly Feature[] = [
  'CSUM',
  'GUEST_CSUM',
  'HOST_TSO4',
  'HOST_TSO6',
  'GUEST_TSO4',
  'GUEST_TSO6',
];

export const DEFAULT_PROTOCOL: readonly ProtocolFeature[] = ['MQ', 'REPLY_ACK', 'NET_MTU', 'STATUS'];

const maskOf = <T extends string>(names: readonly T[], table: Readonly<Record<T, number>>): bigint => {
  for (const name of names) {
    if (!(name in table)) throw new RangeError(`unknown feature ${name}; known are ${Object.keys(table).join(', ')}`);
  }
  return bits(table, names);
};

/** Mask of virtio features by name. @throws RangeError for a name that is not in VIRTIO_FEATURES. */
export const featureMask = (names: readonly Feature[]): bigint => maskOf(names, VIRTIO_FEATURES);
/** Mask of vhost-user protocol features by name. @throws RangeError for a name that is not in PROTOCOL_FEATURES. */
export const protocolMask = (names: readonly ProtocolFeature[]): bigint => maskOf(names, PROTOCOL_FEATURES);

/** True when the mask has the feature's bit. */
export const hasFeature = (mask: bigint, name: Feature): boolean => hasBit(mask, VIRTIO_FEATURES[name]);
export const hasProtocol = (mask: bigint, name: ProtocolFeature): boolean => hasBit(mask, PROTOCOL_FEATURES[name]);

/** Names of the known bits in a mask, lowest first. */
export const featureNames = (mask: bigint): Feature[] =>
  (Object.keys(VIRTIO_FEATURES) as Feature[]).filter((name) => hasFeature(mask, name));

/** Bytes of the virtio-net header: 12 with VERSION_1 or MRG_RXBUF, else 10 (virtio 1.2 section 5.1.6.1). */
export const headerBytes = (mask: bigint): number =>
  hasFeature(mask, 'VERSION_1') || hasFeature(mask, 'MRG_RXBUF') ? 12 : 10;
