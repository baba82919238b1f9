/**
 * vhost-user messages that fit together more often than not: every request, payloads of the right kind with fields beside
 * their borders, payloads of any kind, and too few, too many or the wrong descriptors.
 */
import { OFFERED_PROTOCOL, offeredFeatures } from '#ports/vhost-user/features.ts';
import { OFFLOAD_FEATURES } from '#ports/vhost-user/offload-options.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import type { Random } from './random.ts';

export const FILE_BYTES = 1 << 20;
const TOP = 2n ** 64n;
/** Requests whose descriptor is a file to be mapped. */
const MEMORY_CODES = new Set([wire.SET_MEM_TABLE, wire.SET_LOG_BASE, wire.SET_INFLIGHT_FD, wire.ADD_MEM_REG]);
const REQUESTS = [...wire.MESSAGES];

/** What a descriptor of a message is. */
export const FD_KINDS = ['event', 'memory', 'short memory', 'read-only', 'socket', 'pipe', 'null'] as const;
export type FdKind = (typeof FD_KINDS)[number];

export interface FuzzMessage {
  readonly code: number;
  readonly needReply: boolean;
  readonly payload: Uint8Array;
  readonly fds: readonly FdKind[];
}

const small = (random: Random): number =>
  random.once(3) ? random.pick([8, 256, 0xffff, 0xffff_ffff]) : random.below(5);

const place = (random: Random): bigint => {
  if (random.once(8)) return random.wide();
  if (random.once(8)) return (TOP - BigInt(random.pick([1, 4096, 65_536, FILE_BYTES]))) % TOP;
  if (random.once(8)) return BigInt(2 ** 52 - random.pick([0, 1, FILE_BYTES]));
  return BigInt(random.below(16)) * 65_536n + BigInt(random.once(6) ? random.range(1, 17) : 0);
};

const size = (random: Random): bigint =>
  random.once(6) ? random.wide() : random.pick([0n, 1n, 4095n, 4096n, 65_536n, 1n << 20n, (1n << 20n) + 1n]);

const region = (random: Random): wire.MemoryRegion => ({
  guestAddress: place(random),
  size: size(random),
  userAddress: place(random),
  mmapOffset: random.once(8) ? random.wide() : random.pick([0n, 0n, 4096n, 7n]),
});

const noise = (random: Random, most: number): Uint8Array =>
  Uint8Array.from({ length: random.range(0, most) }, () => random.below(256));

const payloads: Record<wire.PayloadKind, (random: Random) => Uint8Array> = {
  none: () => new Uint8Array(0),
  u64: (random) => {
    const offers = [
      offeredFeatures(OFFLOAD_FEATURES, true),
      offeredFeatures(OFFLOAD_FEATURES, false),
      OFFERED_PROTOCOL,
    ];
    if (random.once(3)) return wire.encodeU64(random.pick(offers) & (random.once(2) ? TOP - 1n : random.wide()));
    return wire.encodeU64(random.once(2) ? BigInt(random.below(4)) | (random.once(4) ? 256n : 0n) : place(random));
  },
  vringState: (random) => wire.VRING_STATE.encode({ index: small(random), num: small(random) }),
  vringAddress: (random) =>
    wire.VRING_ADDRESS.encode({
      index: small(random),
      flags: small(random),
      descriptors: place(random),
      used: place(random),
      available: place(random),
      log: place(random),
    }),
  memory: (random) => wire.encodeMemoryTable(Array.from({ length: random.below(4) }, () => region(random))),
  region: (random) => wire.encodeRegion(region(random)),
  log: (random) => wire.LOG.encode({ size: size(random), offset: place(random) }),
  inflight: (random) =>
    wire.INFLIGHT.encode(
      { size: size(random), offset: place(random), queues: random.below(65_536), queueSize: random.below(65_536) },
      new Uint8Array(24),
    ),
  iotlb: (random) =>
    wire.encodeIotlb({
      iova: place(random),
      size: size(random),
      userAddress: place(random),
      permission: random.below(5),
      type: random.below(6),
    }),
  config: (random) => wire.encodeConfig({ offset: small(random), flags: small(random), bytes: noise(random, 30) }),
};

export function message(random: Random): FuzzMessage {
  const [code, row] = random.pick(REQUESTS);
  const few = Math.min(1, row.fds);
  const wanted: FdKind = MEMORY_CODES.has(code) ? 'memory' : 'event';
  const fds = random.once(5)
    ? Array.from({ length: random.below(4) }, () => random.pick(FD_KINDS))
    : Array.from({ length: few }, () => (random.once(6) ? random.pick(FD_KINDS) : wanted));
  return {
    code: random.once(40) ? random.below(256) : code,
    needReply: random.once(2),
    payload: random.once(10) ? noise(random, 64) : payloads[row.payload](random),
    fds,
  };
}

const say = (code: number, payload: Uint8Array = new Uint8Array(0), fds: FdKind[] = []): FuzzMessage => ({
  ...{ code, payload, fds },
  needReply: true,
});

/** What brings a connection as far as its features. */
export const agreeing = (packed: boolean): FuzzMessage[] => [
  say(wire.SET_FEATURES, wire.encodeU64(offeredFeatures(OFFLOAD_FEATURES, packed))),
  say(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(OFFERED_PROTOCOL)),
  say(wire.SET_INFLIGHT_FD, wire.INFLIGHT.encode({ size: 4096n, offset: 0n, queues: 2, queueSize: 8 }), ['memory']),
];

/** What makes both rings of the first queue pair run. */
export const running = (): FuzzMessage[] => [
  say(
    wire.ADD_MEM_REG,
    wire.encodeRegion({ guestAddress: 0n, userAddress: 0n, size: BigInt(FILE_BYTES), mmapOffset: 0n }),
    ['memory'],
  ),
  ...[0, 1].flatMap((index) => [
    say(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index, num: 256 })),
    say(
      wire.SET_VRING_ADDR,
      wire.VRING_ADDRESS.encode({
        ...{ index, flags: 1, descriptors: 0n, available: 65_536n, used: 131_072n, log: 131_072n },
      }),
    ),
    say(wire.SET_VRING_KICK, wire.encodeU64(BigInt(index)), ['event']),
    say(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index, num: 1 })),
  ]),
];

/** One conversation: agreed on features or not, running or not, then anything. */
export function conversation(random: Random): FuzzMessage[] {
  const start = random.once(8) ? [] : agreeing(random.once(4));
  const up = start.length > 0 && random.once(2) ? running() : [];
  return [...start, ...up, ...Array.from({ length: random.below(40) }, () => message(random))];
}

export const toText = ({ code, needReply, payload, fds }: FuzzMessage): string =>
  `${wire.MESSAGES.get(code)?.name ?? code}${needReply ? ' (reply)' : ''} ${Buffer.from(payload).toString('hex')} [${fds.join(', ')}]`;
