/**
 * The control messages of memif 2.0 (libmemif's memif.h, DPDK's drivers/net/memif/memif.h), both directions, pure.
 *
 * Every message is one packet of 128 bytes on a SOCK_SEQPACKET unix socket: a type, then the fields of that type, packed,
 * the rest zero; at most one descriptor comes along. The server is "master" in older texts (M), the client "slave" (S).
 * The client owns all memory and asks; the server answers each request with ACK, and CONNECT with CONNECTED. The protocol
 * has no message to ask whether the other side is alive: the end of the socket says it.
 */
import { layout, type RecordOf } from '../layout.ts';

export const MESSAGE_BYTES = 128;
export const COOKIE = 0x3e31f20;
/** Major 2, minor 0. */
export const VERSION = 0x0200;
export const MODE_ETHERNET = 0;
/** ADD_RING: packets go from client to server; without it, from server to client. */
export const RING_S2M = 1;
export const MAX_LOG2_RING_SIZE = 14;
/** Regions of one connection, at most (DPDK makes one per memory segment list in its zero-copy mode). */
export const MAX_REGIONS = 64;
/** Rings of one direction, at most. */
export const MAX_QUEUES = 128;
export const SECRET_BYTES = 24;

export const ACK = 1;
export const HELLO = 2;
export const INIT = 3;
export const ADD_REGION = 4;
export const ADD_RING = 5;
export const CONNECT = 6;
export const CONNECTED = 7;
export const DISCONNECT = 8;

const FIELDS = {
  hello: {
    name: 'text32',
    minVersion: 'u16',
    maxVersion: 'u16',
    /** Highest index, not number, of regions and rings. */
    maxRegion: 'u16',
    maxM2sRing: 'u16',
    maxS2mRing: 'u16',
    maxLog2RingSize: 'u8',
  },
  init: { version: 'u16', id: 'u32', mode: 'u8', secret: 'text24', name: 'text32' },
  addRegion: { index: 'u16', size: 'u64' },
  addRing: { flags: 'u16', index: 'u16', region: 'u16', offset: 'u32', log2RingSize: 'u8', privateHeader: 'u16' },
  /** CONNECT and CONNECTED. */
  connect: { name: 'text32' },
  disconnect: { code: 'u32', reason: 'text96' },
} as const;

export const HELLO_LAYOUT = layout('HELLO', 43, FIELDS.hello);
export const INIT_LAYOUT = layout('INIT', 63, FIELDS.init);
export const ADD_REGION_LAYOUT = layout('ADD_REGION', 10, FIELDS.addRegion);
export const ADD_RING_LAYOUT = layout('ADD_RING', 13, FIELDS.addRing);
export const CONNECT_LAYOUT = layout('CONNECT', 32, FIELDS.connect);
export const DISCONNECT_LAYOUT = layout('DISCONNECT', 100, FIELDS.disconnect);

export type Hello = RecordOf<typeof FIELDS.hello>;
export type Init = RecordOf<typeof FIELDS.init>;
export type AddRegion = RecordOf<typeof FIELDS.addRegion>;
export type AddRing = RecordOf<typeof FIELDS.addRing>;
export type Connect = RecordOf<typeof FIELDS.connect>;
export type Disconnect = RecordOf<typeof FIELDS.disconnect>;

export interface MessageRow {
  readonly name: string;
  /** Who sends it. */
  readonly from: 'client' | 'server' | 'both';
  /** Descriptors that come along, exactly. */
  readonly fds: 0 | 1;
}

export const MESSAGES: ReadonlyMap<number, MessageRow> = new Map<number, MessageRow>([
  [ACK, { name: 'ACK', from: 'server', fds: 0 }],
  [HELLO, { name: 'HELLO', from: 'server', fds: 0 }],
  [INIT, { name: 'INIT', from: 'client', fds: 0 }],
  [ADD_REGION, { name: 'ADD_REGION', from: 'client', fds: 1 }],
  [ADD_RING, { name: 'ADD_RING', from: 'client', fds: 1 }],
  [CONNECT, { name: 'CONNECT', from: 'client', fds: 0 }],
  [CONNECTED, { name: 'CONNECTED', from: 'server', fds: 0 }],
  [DISCONNECT, { name: 'DISCONNECT', from: 'both', fds: 0 }],
]);

const message = (type: number): Uint8Array => {
  const out = new Uint8Array(MESSAGE_BYTES);
  out[0] = type;
  return out;
};

export const encodeAck = (): Uint8Array => message(ACK);
export const encodeHello = (hello: Hello): Uint8Array => HELLO_LAYOUT.encode(hello, message(HELLO), 2);
export const encodeInit = (init: Init): Uint8Array => INIT_LAYOUT.encode(init, message(INIT), 2);
export const encodeAddRegion = (region: AddRegion): Uint8Array =>
  ADD_REGION_LAYOUT.encode(region, message(ADD_REGION), 2);
export const encodeAddRing = (ring: AddRing): Uint8Array => ADD_RING_LAYOUT.encode(ring, message(ADD_RING), 2);
export const encodeConnect = (name: string): Uint8Array => CONNECT_LAYOUT.encode({ name }, message(CONNECT), 2);
export const encodeConnected = (name: string): Uint8Array => CONNECT_LAYOUT.encode({ name }, message(CONNECTED), 2);
export const encodeDisconnect = (reason: string): Uint8Array =>
  DISCONNECT_LAYOUT.encode({ code: 0, reason }, message(DISCONNECT), 2);

/** The type of a whole message. */
export const typeOf = (bytes: Uint8Array): number => bytes[0]! | (bytes[1]! << 8);

/**
 * What is wrong with a message, whoever receives it; undefined when nothing is.
 * @param from who sent it.
 */
export function checkMessage(bytes: Uint8Array, from: 'client' | 'server', fds: number): string | undefined {
  if (bytes.length !== MESSAGE_BYTES) {
    return `a control message of ${bytes.length} bytes came; all have ${MESSAGE_BYTES}`;
  }
  const type = typeOf(bytes);
  const row = MESSAGES.get(type);
  if (!row) return `a message of unknown type ${type} came`;
  if (row.from !== from && row.from !== 'both') return `${row.name} came from the ${from}, whose message it is not`;
  if (fds !== row.fds) return `${row.name} came with ${fds} descriptors, not ${row.fds}`;
  return undefined;
}
