/** Options of a port: what may be given, the defaults, and the check of both. */
import {
  DEFAULT_FEATURES,
  DEFAULT_PROTOCOL,
  type Feature,
  featureMask,
  hasFeature,
  type ProtocolFeature,
  protocolMask,
} from './features.ts';

/** How a frame is laid over descriptors. The bytes stay where they are; only the descriptors differ. */
export interface ChainShape {
  /** The virtio-net header has a descriptor of its own. Default: only where legacy framing asks for it. */
  headerAlone?: boolean;
  /** Frame offsets, ascending, at which a new descriptor begins; those at or past a frame's end do not count. */
  cuts?: readonly number[];
  /** The chain lies in an indirect table (needs INDIRECT_DESC). */
  indirect?: boolean;
}

/** Where the guest's memory lies and how the switch gets to see it. */
export interface MemoryOptions {
  /** memfds; the blocks of rings and buffers are dealt out over them. Default 1. */
  files?: number;
  /** Regions of the memory table per file; they adjoin, so that a buffer may lie across two. Default 1. */
  splits?: number;
  /** Guest physical address of the first file. Default 4 GiB. */
  gpaBase?: number;
  /** Unused guest physical addresses between two files, in bytes. Default 1 GiB. */
  gap?: number;
  /** Seal the memfds against a change of size, which lets the switch trust them. Default true. */
  sealed?: boolean;
}

export interface PortOptions {
  /** Path of the unix socket. */
  path: string;
  /** `client` connects, and again after a loss; `server` listens. Default `client`. */
  role?: 'client' | 'server';
  /** Queue pairs. Default 1. */
  queues?: number;
  /** Queue pairs enabled at the start. Default: all that the switch offers. */
  enabled?: number;
  /** Descriptors per ring, 8 to 32768; of a split ring a power of two. Default 256. */
  ringSize?: number;
  /** Packed rings (RING_PACKED, which the switch must offer then) in place of split ones. Default false. */
  packed?: boolean;
  /** Virtio features to accept where offered. Default DEFAULT_FEATURES. */
  features?: readonly Feature[];
  /** Features without which opening fails. Default: none. */
  required?: readonly Feature[];
  /** vhost-user protocol features to accept where offered; an empty list leaves the negotiation of them out. */
  protocol?: readonly ProtocolFeature[];
  /** Order of the set-up messages: as DPDK's virtio_user or as QEMU sends them. Default `virtio-user`. */
  order?: 'virtio-user' | 'qemu';
  /** Messages that ask for an acknowledgement where REPLY_ACK was negotiated. Default `memory`. */
  acknowledge?: 'memory' | 'all';
  /** MTU to tell the switch with NET_SET_MTU, in bytes. Default: none. */
  mtu?: number;
  /** Longest frame, in bytes, that one tx and one rx buffer hold. Default 2032, or 65 584 where TSO makes frames longer. */
  txFrameBytes?: number;
  rxFrameBytes?: number;
  /** Buffers per queue and direction, at most the ring size. Default: the ring size. */
  txBuffers?: number;
  rxBuffers?: number;
  memory?: MemoryOptions;
  /** Shape of the posted rx buffers. Default: one descriptor. */
  rxShape?: ChainShape;
  /**
   * What a new connection finds after a loss: `continue` goes on where the used rings stand, `reset` starts with empty
   * rings and loses what was in them. Default `continue`.
   */
  reconnect?: 'continue' | 'reset' | 'never';
  /** Milliseconds between two attempts to connect. Default 100. */
  retryMs?: number;
  /** Milliseconds in which the port must be up for the first time. Default 10 000. */
  timeoutMs?: number;
  /** Milliseconds to wait for one reply of the switch. Default 5000. */
  replyMs?: number;
}

/** Options after the check, nothing left open. */
export interface Settings
  extends Required<Omit<PortOptions, 'mtu' | 'memory' | 'rxShape' | 'features' | 'required' | 'protocol'>> {
  mtu: number | undefined;
  memory: Required<MemoryOptions>;
  rxShape: ChainShape | undefined;
  wanted: bigint;
  required: bigint;
  protocol: bigint;
}

export const MAX_QUEUE_PAIRS = 128;
/** Frame bytes that 64 KiB of IP payload with tags and an Ethernet header need. */
export const TSO_FRAME_BYTES = 65_584;
const FRAME_BYTES = 2032;
const GIB = 2 ** 30;

const PACKED_FEATURES: readonly Feature[] = ['VERSION_1', 'RING_PACKED'];

const within = (name: string, value: number, low: number, high: number): number => {
  if (!Number.isSafeInteger(value) || value < low || value > high) {
    throw new RangeError(`option ${name} is ${value}; it must be a whole number from ${low} to ${high}`);
  }
  return value;
};

/** Checks options and fills in the defaults. @throws RangeError that names the option and what it may be. */
export function checkOptions(options: PortOptions): Settings {
  if (!options.path) throw new RangeError('option path is missing: the path of the vhost-user socket');
  const ringSize = within('ringSize', options.ringSize ?? 256, 8, 32_768);
  const packed = options.packed ?? false;
  if (!packed && (ringSize & (ringSize - 1)) !== 0)
    throw new RangeError(`option ringSize is ${ringSize}; it must be a power of two, or the rings packed`);
  const queues = within('queues', options.queues ?? 1, 1, MAX_QUEUE_PAIRS);
  let wanted = featureMask(options.features ?? DEFAULT_FEATURES);
  const required = featureMask([...(options.required ?? []), ...(packed ? PACKED_FEATURES : [])]);
  wanted |= required;
  if (queues > 1) wanted |= featureMask(['MQ']);
  const tso = hasFeature(wanted, 'HOST_TSO4') || hasFeature(wanted, 'HOST_TSO6') || hasFeature(wanted, 'HOST_UFO');
  const lro = hasFeature(wanted, 'GUEST_TSO4') || hasFeature(wanted, 'GUEST_TSO6') || hasFeature(wanted, 'GUEST_UFO');
  const bigRx = lro && !hasFeature(wanted, 'MRG_RXBUF');
  const memory = options.memory ?? {};
  const files = within('memory.files', memory.files ?? 1, 1, 8);
  const splits = within('memory.splits', memory.splits ?? 1, 1, 8);
  if (files * splits > 8)
    throw new RangeError(`memory.files * memory.splits is ${files * splits}; a memory table has at most 8 regions`);
  const gpaBase = within('memory.gpaBase', memory.gpaBase ?? 4 * GIB, 0, 2 ** 48);
  if (gpaBase % 4096 !== 0) throw new RangeError(`option memory.gpaBase is ${gpaBase}; it must be a multiple of 4096`);
  return {
    path: options.path,
    role: options.role ?? 'client',
    queues,
    enabled: within('enabled', options.enabled ?? queues, 1, queues),
    ringSize,
    packed,
    wanted,
    required,
    protocol: protocolMask(options.protocol ?? DEFAULT_PROTOCOL),
    order: options.order ?? 'virtio-user',
    acknowledge: options.acknowledge ?? 'memory',
    mtu: options.mtu === undefined ? undefined : within('mtu', options.mtu, 68, 65_535),
    txFrameBytes: within('txFrameBytes', options.txFrameBytes ?? (tso ? TSO_FRAME_BYTES : FRAME_BYTES), 64, 1 << 20),
    rxFrameBytes: within('rxFrameBytes', options.rxFrameBytes ?? (bigRx ? TSO_FRAME_BYTES : FRAME_BYTES), 64, 1 << 20),
    txBuffers: within('txBuffers', options.txBuffers ?? ringSize, 1, ringSize),
    rxBuffers: within('rxBuffers', options.rxBuffers ?? ringSize, 1, ringSize),
    memory: {
      files,
      splits,
      gpaBase,
      gap: within('memory.gap', memory.gap ?? GIB, 0, 2 ** 46),
      sealed: memory.sealed ?? true,
    },
    rxShape: options.rxShape,
    reconnect: options.reconnect ?? 'continue',
    retryMs: within('retryMs', options.retryMs ?? 100, 1, 60_000),
    timeoutMs: within('timeoutMs', options.timeoutMs ?? 10_000, 1, 2 ** 31 - 1),
    replyMs: within('replyMs', options.replyMs ?? 5000, 1, 2 ** 31 - 1),
  };
}
