/**
 * Rings in shared memory (libmemif's memif.h: memif_ring_t, memif_desc_t), and the state that outlives an attachment.
 *
 * | bytes | field | writer |
 * |---|---|---|
 * | 0-3 | cookie | client, once |
 * | 4-5 | flags: RING_MASK_INT while the receiver of packets polls | receiver |
 * | 6-7 | head | client |
 * | 64-65 | tail | server |
 * | 128- | descriptors of 16 bytes: flags (16 bits), region (16), length, offset, metadata | client; server where it sends |
 *
 * Head and tail are free-running. From client to server (S2M) the client fills descriptors and moves the head, the server
 * takes packets and moves the tail. From server to client (M2S) the client offers buffers and moves the head, the server
 * fills them and moves the tail. So in either role and direction one cursor says where this side stands, and the other's
 * index how far it may go; see `Ring`.
 *
 * State lies in one SharedArrayBuffer per port, a row of STATE_WORDS words per ring: STATE_CURSOR (written by the worker that
 * holds the ring), STATE_LOCK (1 while a sender on a shared ring holds it), STATE_BROKEN (a BROKEN_ reason, written by the
 * worker that sends there and found it, read by the main thread).
 */
import { address, release } from '#contract/os.ts';
import { type FilePart, mapFiles } from '../memory.ts';

export const RING_HEADER_BYTES = 128;
export const DESC_BYTES = 16;
/** Byte offsets. */
export const COOKIE_AT = 0;
/** Offsets in 16-bit words. */
export const FLAGS_AT = 2;
export const HEAD_AT = 3;
export const TAIL_AT = 32;
export const RING_MASK_INT = 1;
export const DESC_NEXT = 1;

export const STATE_WORDS = 16;
export const STATE_CURSOR = 0;
export const STATE_LOCK = 1;
export const STATE_BROKEN = 2;

export const BROKEN_INDEX = 1;
export const BROKEN_BUFFER = 2;
/** What the peer did, by BROKEN_ reason. */
export const BROKEN_REASONS: readonly string[] = [
  '',
  'the index of taken packets or offered buffers is ahead by more than the ring',
  'a buffer offered for packets is empty or outside its region',
];

export const ringBytes = (size: number): number => RING_HEADER_BYTES + DESC_BYTES * size;

/** Where a ring lies, as plain data. */
export interface RingPlace {
  /** Queue number, within its direction. */
  readonly index: number;
  /** Packets go from client to server. */
  readonly s2m: boolean;
  /** Descriptors, a power of two. */
  readonly size: number;
  readonly region: number;
  /** Bytes from the start of its region; a multiple of 4. */
  readonly offset: number;
  /** eventfd by which the sender wakes the receiver. */
  readonly eventFd: number;
  /** Client role: this side's buffers of this ring, in region 0: offset of the first, distance and usable bytes of each. */
  readonly buffers: number;
  readonly stride: number;
  readonly capacity: number;
}

/** Row of a ring in the state. */
export const stateRow = ({ index, s2m }: RingPlace): number => (2 * index + (s2m ? 1 : 0)) * STATE_WORDS;

/** The regions of a connection, mapped; each worker has its own. */
export class Regions {
  readonly buffers: readonly ArrayBuffer[];
  readonly count: number;
  /** By region: absolute address, and bytes. */
  readonly base: Float64Array;
  readonly bytes: Float64Array;
  #open = true;

  /** @param owner port number for the SIGBUS guard. @throws OsError when one cannot be mapped. */
  constructor(parts: readonly FilePart[], owner: number) {
    this.buffers = mapFiles(parts, owner);
    this.count = parts.length;
    this.base = Float64Array.from(this.buffers, (buffer) => address(buffer));
    this.bytes = Float64Array.from(parts, ({ size }) => size);
  }

  /** Views of them read zeros from here on. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const buffer of this.buffers) release(buffer);
  }
}

/** Views of one ring, in the terms of this side. */
export class Ring {
  readonly size: number;
  /** Four words per descriptor: flags | region << 16, length, offset, metadata. */
  readonly desc: Uint32Array;
  /** The header. */
  readonly u16: Uint16Array;
  /** Index in `u16` of the other side's index and of this side's. */
  readonly theirs: number;
  readonly ours: number;
  readonly state: Int32Array;
  readonly eventFd: number;
  /** 1: the buffers are this side's (client), and lie where `buffers`, `stride` and `capacity` say. */
  readonly owned: number;
  readonly buffers: number;
  readonly stride: number;
  readonly capacity: number;

  /** @throws RangeError when the ring does not fit its region; the session has checked that. */
  constructor(place: RingPlace, server: boolean, regions: Regions, state: SharedArrayBuffer) {
    const memory = regions.buffers[place.region]!;
    this.size = place.size;
    this.u16 = new Uint16Array(memory, place.offset, RING_HEADER_BYTES / 2);
    this.desc = new Uint32Array(memory, place.offset + RING_HEADER_BYTES, place.size * 4);
    this.theirs = server ? HEAD_AT : TAIL_AT;
    this.ours = server ? TAIL_AT : HEAD_AT;
    this.state = new Int32Array(state, stateRow(place) * 4, STATE_WORDS);
    this.eventFd = place.eventFd;
    this.owned = server ? 0 : 1;
    this.buffers = place.buffers;
    this.stride = place.stride;
    this.capacity = place.capacity;
  }
}
