/**
 * A lane: the memory that one PMD worker shares with the control plane (a memfd, one per worker).
 *
 * | section | writer | reader |
 * |---|---|---|
 * | header, words 0..15 | data plane, at start | control plane |
 * | upcall ring | worker | control plane |
 * | command ring | control plane | worker |
 * | worker, port and flow counters | worker | control plane |
 *
 * Both rings carry records of 8-byte-aligned length, head and tail are free-running byte counts, each alone on a cache
 * line and published with Atomics once per burst. Upcalls are answered in order, each by exactly one REPLY command: the
 * worker keeps a record's bytes until its answer has come, and executes the packet from there without a copy back.
 *
 * Counters are float64, written by one worker only; a reader sees whole values (aligned 8-byte loads) and adds the lanes.
 */
import { PORT_ROW, WORKER_ROW } from './catalogue.ts';

export const LANE_MAGIC = 0x52574c31;
export const LANE_VERSION = 3;

/** Highest datapath port number + 1. Port 0 is never used. */
export const MAX_PORTS = 1024;
/** Megaflow ids are 0..MAX_FLOWS-1; a flow's id is its slot in the statistics. */
export const MAX_FLOWS = 262_144;

export const UPCALL_RING_BYTES = 1 << 22;
export const COMMAND_RING_BYTES = 1 << 22;
/** Longest record of either ring, in bytes: the largest frame with its key. */
export const MAX_RECORD_BYTES = 1 << 17;

/** Words of the header page; each index sits on a cache line of its own. */
export const H_MAGIC = 0;
export const H_VERSION = 1;
export const H_WORKER = 2;
/** Bumped by the worker each time a control plane attaches; both rings start at 0 again. */
export const H_EPOCH = 3;
/** A random number, by which a journal names this lane. */
export const H_NAME = 4;
/** Upcall ring: bytes written (worker). */
export const H_UPCALL_HEAD = 16;
/** Upcall ring: bytes read (control plane). */
export const H_UPCALL_READ = 32;
/** 1 while the control plane wants a byte on its doorbell at the next upcall (control plane sets, worker clears). */
export const H_CONTROL_ASLEEP = 48;
/** Command ring: bytes written (control plane). */
export const H_COMMAND_HEAD = 64;
/** Command ring: bytes taken (worker). */
export const H_COMMAND_TAIL = 80;
/** 1 while the worker sleeps in poll() and wants its wake eventfd signalled (worker writes). */
export const H_WORKER_ASLEEP = 96;
/** Sequence number of the newest BARRIER command that the worker has passed (worker). */
export const H_BARRIER = 112;
/** Upcall ring: bytes whose upcalls are answered and done with; free for new ones (worker). */
export const H_UPCALL_FREED = 128;

export const LANE_HEADER_BYTES = 4096;
export const LANE_UPCALL_AT = LANE_HEADER_BYTES;
export const LANE_COMMAND_AT = LANE_UPCALL_AT + UPCALL_RING_BYTES;
export const LANE_WORKER_AT = LANE_COMMAND_AT + COMMAND_RING_BYTES;
export const LANE_PORTS_AT = LANE_WORKER_AT + WORKER_ROW * 8;
export const LANE_FLOWS_AT = LANE_PORTS_AT + MAX_PORTS * PORT_ROW * 8;

/** Slots of a flow's statistics row: packets, bytes, used (ms since the epoch), or of all TCP flags seen. */
export const FLOW_ROW = 4;
export const FLOW_PACKETS = 0;
export const FLOW_BYTES = 1;
export const FLOW_USED = 2;
export const FLOW_TCP_FLAGS = 3;

export const LANE_BYTES = LANE_FLOWS_AT + MAX_FLOWS * FLOW_ROW * 8;

/** Views of a mapped lane. */
export class Lane {
  readonly buffer: ArrayBuffer;
  readonly header: Int32Array;
  /** float64 per WORKER_COUNTERS entry. */
  readonly worker: Float64Array;
  /** Row of port p starts at p * PORT_ROW. */
  readonly ports: Float64Array;
  /** Row of flow id f starts at f * FLOW_ROW. */
  readonly flows: Float64Array;

  /** @param buffer a mapping of LANE_BYTES. */
  constructor(buffer: ArrayBuffer) {
    if (buffer.byteLength < LANE_BYTES)
      throw new RangeError(`lane has ${buffer.byteLength} bytes, ${LANE_BYTES} needed`);
    this.buffer = buffer;
    this.header = new Int32Array(buffer, 0, LANE_HEADER_BYTES / 4);
    this.worker = new Float64Array(buffer, LANE_WORKER_AT, WORKER_ROW);
    this.ports = new Float64Array(buffer, LANE_PORTS_AT, MAX_PORTS * PORT_ROW);
    this.flows = new Float64Array(buffer, LANE_FLOWS_AT, MAX_FLOWS * FLOW_ROW);
  }
}
