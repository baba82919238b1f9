/**
 * The vhost-user wire protocol (QEMU docs/interop/vhost-user.rst), both directions, pure: bytes in, values out.
 *
 * A message is a 12-byte header (code, flags, payload size), then the payload; file descriptors travel with the header's
 * first byte. `MESSAGES` is the protocol as one table. Import rule: the front end in src/guest uses this file too.
 */
import { layout, type RecordOf } from '../layout.ts';

export const HEADER_BYTES = 12;
export const VERSION = 1;
export const VERSION_MASK = 3;
/** Header flags. */
export const FLAG_REPLY = 4;
export const FLAG_NEED_REPLY = 8;
/** Longest payload that is taken. The longest defined one, a memory table of MAX_REGIONS rows, is well below. */
export const MAX_PAYLOAD = 4096;
/** Rows of a memory table, and descriptors of one message, at most. */
export const MAX_REGIONS = 32;
/** Virtqueues of a device, at most: the index of vring messages with a descriptor has 8 bits. */
export const MAX_VRINGS = 256;
/** Largest virtqueue of either kind (virtio 1.2 sections 2.7, 2.8.10.1). */
export const MAX_RING_SIZE = 32_768;

/**
 * SET_ and GET_VRING_BASE of a packed ring: its available place in the lower half, its used place in the upper, each an entry
 * with the wrap counter as bit 15 (vhost-user.rst, "Vring descriptor indices for packed virtqueues").
 */
export const packedBase = (place: number): number => ((place << 16) | place) >>> 0;

/** SET_VRING_KICK, CALL, ERR: the ring index, and the bit that says that no descriptor comes along. */
export const VRING_INDEX_MASK = 0xffn;
export const VRING_NO_FD = 0x100n;

/** Virtio and virtio-net feature bits (virtio 1.2 sections 5.1.3 and 6; bits 24 and 27 sections 5.1.3.1, 6.3; 30 vhost-user). */
export const VIRTIO_FEATURES = {
  CSUM: 0,
  GUEST_CSUM: 1,
  MTU: 3,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  GUEST_ECN: 9,
  GUEST_UFO: 10,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  HOST_ECN: 13,
  HOST_UFO: 14,
  MRG_RXBUF: 15,
  STATUS: 16,
  CTRL_VQ: 17,
  CTRL_RX: 18,
  CTRL_VLAN: 19,
  GUEST_ANNOUNCE: 21,
  MQ: 22,
  CTRL_MAC_ADDR: 23,
  NOTIFY_ON_EMPTY: 24,
  LOG_ALL: 26,
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  // Virtio 1.3.
  GUEST_USO4: 54,
  GUEST_USO6: 55,
  HOST_USO: 56,
} as const;
export type VirtioFeature = keyof typeof VIRTIO_FEATURES;

/** Protocol feature bits (vhost-user.rst, "Protocol features"), those that the table below names. */
export const PROTOCOL_FEATURES = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  NET_MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  PAGEFAULT: 8,
  CONFIG: 9,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
} as const;
export type ProtocolFeature = keyof typeof PROTOCOL_FEATURES;

/** Mask of the named bits. */
export const bits = <T extends string>(table: Readonly<Record<T, number>>, names: readonly T[]): bigint =>
  names.reduce((mask, name) => mask | (1n << BigInt(table[name])), 0n);
export const hasBit = (mask: bigint, bit: number): boolean => ((mask >> BigInt(bit)) & 1n) === 1n;

export const U64 = layout('u64', 8, { value: 'u64' });
export const VRING_STATE = layout('vring state', 8, { index: 'u32', num: 'u32' });
export const VRING_ADDRESS = layout('vring address', 40, {
  index: 'u32',
  flags: 'u32',
  descriptors: 'u64',
  used: 'u64',
  available: 'u64',
  log: 'u64',
});
export const MEMORY_HEADER = layout('memory table header', 8, { count: 'u32', padding: 'u32' });
export const MEMORY_REGION = layout('memory region', 32, {
  guestAddress: 'u64',
  size: 'u64',
  userAddress: 'u64',
  mmapOffset: 'u64',
});

export type VringState = RecordOf<{ index: 'u32'; num: 'u32' }>;
export type VringAddress = ReturnType<(typeof VRING_ADDRESS)['decode']>;
export type MemoryRegion = ReturnType<(typeof MEMORY_REGION)['decode']>;

export const encodeU64 = (value: bigint): Uint8Array => U64.encode({ value });
export const decodeU64 = (payload: Uint8Array): bigint => U64.decode(payload).value;

export function encodeMemoryTable(regions: readonly MemoryRegion[]): Uint8Array {
  const out = new Uint8Array(MEMORY_HEADER.bytes + regions.length * MEMORY_REGION.bytes);
  MEMORY_HEADER.encode({ count: regions.length, padding: 0 }, out);
  regions.forEach((region, i) => {
    MEMORY_REGION.encode(region, out, MEMORY_HEADER.bytes + i * MEMORY_REGION.bytes);
  });
  return out;
}

/** @throws RangeError for a payload that `checkPayload` (payload-check.ts) would not take. */
export function decodeMemoryTable(payload: Uint8Array): MemoryRegion[] {
  const { count } = MEMORY_HEADER.decode(payload);
  if (count > MAX_REGIONS) throw new RangeError(`memory table of ${count} regions, at most ${MAX_REGIONS} are taken`);
  return Array.from({ length: count }, (_, i) =>
    MEMORY_REGION.decode(payload, MEMORY_HEADER.bytes + i * MEMORY_REGION.bytes),
  );
}

/** One region of ADD_MEM_REG and REM_MEM_REG: padding, then a row of a memory table. */
export const encodeRegion = (region: MemoryRegion): Uint8Array =>
  MEMORY_REGION.encode(region, new Uint8Array(8 + MEMORY_REGION.bytes), 8);
export const decodeRegion = (payload: Uint8Array): MemoryRegion => MEMORY_REGION.decode(payload, 8);

/** The dirty log: one bit per LOG_PAGE bytes of guest physical memory, from address 0 on ("Migration"). */
export const LOG_PAGE = 0x1000;
export const LOG = layout('log description', 16, { size: 'u64', offset: 'u64' });
/** The flag of SET_VRING_ADDR that asks for a log of the used ring, at address `log`. */
export const VRING_LOG = 1;

/** Where the record of descriptors in flight lies. QEMU's structure has four more bytes, of padding. */
export const INFLIGHT = layout('inflight description', 20, {
  size: 'u64',
  offset: 'u64',
  queues: 'u16',
  queueSize: 'u16',
});
export const INFLIGHT_PADDED = 24;
export type Inflight = ReturnType<(typeof INFLIGHT)['decode']>;

/** Bytes of device configuration that one message may carry. */
export const MAX_CONFIG = 256;
export const CONFIG_HEADER = layout('configuration header', 12, { offset: 'u32', size: 'u32', flags: 'u32' });

/** What of the device configuration a message is about, and the bytes themselves. */
export interface ConfigPart {
  readonly offset: number;
  readonly flags: number;
  readonly bytes: Uint8Array;
}

export function encodeConfig({ offset, flags, bytes }: ConfigPart): Uint8Array {
  const out = new Uint8Array(CONFIG_HEADER.bytes + bytes.length);
  CONFIG_HEADER.encode({ offset, size: bytes.length, flags }, out);
  out.set(bytes, CONFIG_HEADER.bytes);
  return out;
}

/** @throws RangeError for a payload that `checkPayload` (payload-check.ts) would not take. */
export function decodeConfig(payload: Uint8Array): ConfigPart {
  const { offset, size, flags } = CONFIG_HEADER.decode(payload);
  if (payload.length < CONFIG_HEADER.bytes + size) throw new RangeError(`configuration of ${size} bytes is cut short`);
  return { offset, flags, bytes: payload.slice(CONFIG_HEADER.bytes, CONFIG_HEADER.bytes + size) };
}

/** What is said of a device IOTLB (struct vhost_iotlb_msg of linux/vhost_types.h, which C pads to IOTLB_BYTES). */
const IOTLB = layout('IOTLB message', 26, {
  iova: 'u64',
  size: 'u64',
  userAddress: 'u64',
  permission: 'u8',
  type: 'u8',
});
export type IotlbMessage = ReturnType<(typeof IOTLB)['decode']>;
export const IOTLB_BYTES = 32;
export const encodeIotlb = (message: IotlbMessage): Uint8Array => IOTLB.encode(message, new Uint8Array(IOTLB_BYTES));
export const decodeIotlb = (payload: Uint8Array): IotlbMessage => IOTLB.decode(payload);
/** Bits of a permission. */
export const IOTLB_READ = 1;
export const IOTLB_WRITE = 2;
export const IOTLB_MISS = 1;
export const IOTLB_UPDATE = 2;
export const IOTLB_INVALIDATE = 3;
export const IOTLB_ACCESS_FAIL = 4;

export type PayloadKind =
  | 'none'
  | 'u64'
  | 'vringState'
  | 'vringAddress'
  | 'memory'
  | 'region'
  | 'log'
  | 'inflight'
  | 'iotlb'
  | 'config';

export interface MessageRow {
  readonly name: string;
  readonly payload: PayloadKind;
  /** Descriptors that may come along, at most. */
  readonly fds: number;
  /** Payload of the answer that the message always has; without one it is answered only on NEED_REPLY. */
  readonly reply?: 'u64' | 'vringState' | 'inflight' | 'config' | 'fd';
  /** Protocol feature without which the message is unknown. */
  readonly needs?: ProtocolFeature;
}

export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const RESET_OWNER = 4;
export const SET_MEM_TABLE = 5;
export const SET_LOG_BASE = 6;
export const SET_LOG_FD = 7;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_PROTOCOL_FEATURES = 15;
export const SET_PROTOCOL_FEATURES = 16;
export const GET_QUEUE_NUM = 17;
export const SET_VRING_ENABLE = 18;
export const SEND_RARP = 19;
export const NET_SET_MTU = 20;
export const SET_BACKEND_REQ_FD = 21;
export const IOTLB_MSG = 22;
export const GET_CONFIG = 24;
export const SET_CONFIG = 25;
export const POSTCOPY_ADVISE = 28;
export const POSTCOPY_LISTEN = 29;
export const POSTCOPY_END = 30;
export const GET_INFLIGHT_FD = 31;
export const SET_INFLIGHT_FD = 32;
export const RESET_DEVICE = 34;
export const GET_MAX_MEM_SLOTS = 36;
export const ADD_MEM_REG = 37;
export const REM_MEM_REG = 38;
export const SET_STATUS = 39;
export const GET_STATUS = 40;

/** Requests of the back end, on a channel of its own ("Back-end message types"). */
export const BACKEND_IOTLB = 1;
export const BACKEND_CONFIG_CHANGE = 2;

/** Requests of the front end that this switch knows, by code (vhost-user.rst, "Front-end message types"). */
export const MESSAGES: ReadonlyMap<number, MessageRow> = new Map<number, MessageRow>([
  [GET_FEATURES, { name: 'GET_FEATURES', payload: 'none', fds: 0, reply: 'u64' }],
  [SET_FEATURES, { name: 'SET_FEATURES', payload: 'u64', fds: 0 }],
  [SET_OWNER, { name: 'SET_OWNER', payload: 'none', fds: 0 }],
  [RESET_OWNER, { name: 'RESET_OWNER', payload: 'none', fds: 0 }],
  [SET_MEM_TABLE, { name: 'SET_MEM_TABLE', payload: 'memory', fds: MAX_REGIONS }],
  [SET_LOG_BASE, { name: 'SET_LOG_BASE', payload: 'log', fds: 1, reply: 'u64', needs: 'LOG_SHMFD' }],
  [SET_LOG_FD, { name: 'SET_LOG_FD', payload: 'none', fds: 1 }],
  [SET_VRING_NUM, { name: 'SET_VRING_NUM', payload: 'vringState', fds: 0 }],
  [SET_VRING_ADDR, { name: 'SET_VRING_ADDR', payload: 'vringAddress', fds: 0 }],
  [SET_VRING_BASE, { name: 'SET_VRING_BASE', payload: 'vringState', fds: 0 }],
  [GET_VRING_BASE, { name: 'GET_VRING_BASE', payload: 'vringState', fds: 0, reply: 'vringState' }],
  [SET_VRING_KICK, { name: 'SET_VRING_KICK', payload: 'u64', fds: 1 }],
  [SET_VRING_CALL, { name: 'SET_VRING_CALL', payload: 'u64', fds: 1 }],
  [SET_VRING_ERR, { name: 'SET_VRING_ERR', payload: 'u64', fds: 1 }],
  [GET_PROTOCOL_FEATURES, { name: 'GET_PROTOCOL_FEATURES', payload: 'none', fds: 0, reply: 'u64' }],
  [SET_PROTOCOL_FEATURES, { name: 'SET_PROTOCOL_FEATURES', payload: 'u64', fds: 0 }],
  [GET_QUEUE_NUM, { name: 'GET_QUEUE_NUM', payload: 'none', fds: 0, reply: 'u64', needs: 'MQ' }],
  [SET_VRING_ENABLE, { name: 'SET_VRING_ENABLE', payload: 'vringState', fds: 0 }],
  [SEND_RARP, { name: 'SEND_RARP', payload: 'u64', fds: 0, needs: 'RARP' }],
  [NET_SET_MTU, { name: 'NET_SET_MTU', payload: 'u64', fds: 0, needs: 'NET_MTU' }],
  [SET_BACKEND_REQ_FD, { name: 'SET_BACKEND_REQ_FD', payload: 'none', fds: 1, needs: 'BACKEND_REQ' }],
  [IOTLB_MSG, { name: 'IOTLB_MSG', payload: 'iotlb', fds: 0, reply: 'u64' }],
  [GET_CONFIG, { name: 'GET_CONFIG', payload: 'config', fds: 0, reply: 'config', needs: 'CONFIG' }],
  [SET_CONFIG, { name: 'SET_CONFIG', payload: 'config', fds: 0, needs: 'CONFIG' }],
  [POSTCOPY_ADVISE, { name: 'POSTCOPY_ADVISE', payload: 'none', fds: 0, reply: 'fd', needs: 'PAGEFAULT' }],
  [POSTCOPY_LISTEN, { name: 'POSTCOPY_LISTEN', payload: 'none', fds: 0, needs: 'PAGEFAULT' }],
  [POSTCOPY_END, { name: 'POSTCOPY_END', payload: 'none', fds: 0, reply: 'u64', needs: 'PAGEFAULT' }],
  [
    GET_INFLIGHT_FD,
    { name: 'GET_INFLIGHT_FD', payload: 'inflight', fds: 0, reply: 'inflight', needs: 'INFLIGHT_SHMFD' },
  ],
  [SET_INFLIGHT_FD, { name: 'SET_INFLIGHT_FD', payload: 'inflight', fds: 1, needs: 'INFLIGHT_SHMFD' }],
  [RESET_DEVICE, { name: 'RESET_DEVICE', payload: 'none', fds: 0, needs: 'RESET_DEVICE' }],
  [
    GET_MAX_MEM_SLOTS,
    { name: 'GET_MAX_MEM_SLOTS', payload: 'none', fds: 0, reply: 'u64', needs: 'CONFIGURE_MEM_SLOTS' },
  ],
  [ADD_MEM_REG, { name: 'ADD_MEM_REG', payload: 'region', fds: 1, needs: 'CONFIGURE_MEM_SLOTS' }],
  // A descriptor may come along with a region that goes, and means nothing.
  [REM_MEM_REG, { name: 'REM_MEM_REG', payload: 'region', fds: 1, needs: 'CONFIGURE_MEM_SLOTS' }],
  [SET_STATUS, { name: 'SET_STATUS', payload: 'u64', fds: 0, needs: 'STATUS' }],
  [GET_STATUS, { name: 'GET_STATUS', payload: 'none', fds: 0, reply: 'u64', needs: 'STATUS' }],
]);

export interface Message {
  readonly code: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

const HEADER = layout('message header', HEADER_BYTES, { code: 'u32', flags: 'u32', size: 'u32' });

export function encodeMessage(code: number, flags: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + payload.length);
  HEADER.encode({ code, flags, size: payload.length }, out);
  out.set(payload, HEADER_BYTES);
  return out;
}

/** Request of the front end. */
export const encodeRequest = (code: number, payload?: Uint8Array, needReply = false): Uint8Array =>
  encodeMessage(code, needReply ? VERSION | FLAG_NEED_REPLY : VERSION, payload);
/** Answer of the back end. */
export const encodeReply = (code: number, payload: Uint8Array): Uint8Array =>
  encodeMessage(code, VERSION | FLAG_REPLY, payload);

/**
 * Cuts a byte stream into messages. The reader says how many bytes it wants next, never past the end of a message, so that
 * descriptors received with them belong to the message at hand.
 */
export class MessageReader {
  readonly #header = new Uint8Array(HEADER_BYTES);
  #payload: Uint8Array | undefined;
  #have = 0;

  /** Bytes to read next, at most. */
  get want(): number {
    return (this.#payload ?? this.#header).length - this.#have;
  }

  /** True between two messages. */
  get idle(): boolean {
    return this.#payload === undefined && this.#have === 0;
  }

  /**
   * Takes 1 to `want` bytes. @returns the message that they complete, if any.
   * @throws RangeError when the header has a wrong version or an impossible size: the stream has no meaning from there on.
   */
  push(bytes: Uint8Array): Message | undefined {
    const target = this.#payload ?? this.#header;
    target.set(bytes, this.#have);
    this.#have += bytes.length;
    if (this.#have < target.length) return undefined;
    this.#have = 0;
    const { code, flags, size } = HEADER.decode(this.#header);
    if (this.#payload) {
      const payload = this.#payload;
      this.#payload = undefined;
      return { code, flags, payload };
    }
    if ((flags & VERSION_MASK) !== VERSION)
      throw new RangeError(`message ${code} is of protocol version ${flags & VERSION_MASK}`);
    if (size > MAX_PAYLOAD)
      throw new RangeError(`message ${code} announces ${size} bytes, at most ${MAX_PAYLOAD} are taken`);
    if (size === 0) return { code, flags, payload: new Uint8Array(0) };
    this.#payload = new Uint8Array(size);
    return undefined;
  }
}
