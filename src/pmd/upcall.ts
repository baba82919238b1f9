// hot
/**
 * A worker's end of the upcall ring (contract/lane.ts): misses go out as records, answers run on those same bytes.
 *
 * Records are answered in order, each once. The bytes of a record stay until its answer has come, so the packet goes on from
 * there. With no control plane attached every miss is lost, and named so.
 *
 * The ring outlives a data plane that is killed: the control plane keeps the lane for the next one. Under a journal both ends
 * of the ring are part of a burst's one step (`UpcallEnds`).
 */
import { dropReason } from '#contract/catalogue.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';
import {
  H_CONTROL_ASLEEP,
  H_NAME,
  H_UPCALL_FREED,
  H_UPCALL_HEAD,
  H_UPCALL_READ,
  LANE_UPCALL_AT,
  type Lane,
  UPCALL_RING_BYTES,
} from '#contract/lane.ts';
import { address, eventfdSignal } from '#contract/os.ts';
import {
  RECORD_UPCALL,
  UPCALL_FRAME,
  UPCALL_IN_PORT,
  UPCALL_KEY,
  UPCALL_LENGTH,
  UPCALL_SEQ,
  UPCALL_VNET,
} from '#contract/records.ts';
import { RingReader, RingWriter } from '#contract/ring.ts';
import type { PacketBatch, UpcallEnds } from '#datapath/packet/batch.ts';

const REASON_NO_CONTROL = dropReason('no_control_plane');
const REASON_RING_FULL = dropReason('upcall_ring_full');
const HEAD_BYTES = UPCALL_FRAME * 4;
const signal = eventfdSignal;

export class UpcallPath implements UpcallEnds {
  readonly #lane: Lane;
  readonly #writer: RingWriter;
  /** Walks the unanswered records. */
  readonly #answered: RingReader;
  readonly #ringAddress: number;
  #doorbell = -1;
  #sequence = 0;
  #written = 0;
  /** Where the records end whose answers were carried out. */
  #settled = 0;

  constructor(lane: Lane) {
    const { buffer, header } = lane;
    this.#lane = lane;
    this.#writer = new RingWriter(buffer, header, LANE_UPCALL_AT, UPCALL_RING_BYTES, H_UPCALL_HEAD, H_UPCALL_FREED);
    this.#answered = new RingReader(buffer, header, LANE_UPCALL_AT, UPCALL_RING_BYTES, H_UPCALL_HEAD, H_UPCALL_FREED);
    this.#ringAddress = address(buffer) + LANE_UPCALL_AT;
  }

  /** A control plane came (its doorbell eventfd), or went (-1). What was unanswered is forgotten. */
  attach(doorbell: number): void {
    this.#doorbell = doorbell;
    this.#writer.reset();
    this.#answered.reset();
    this.#settled = 0;
    this.#written = 0;
    Atomics.store(this.#lane.header, H_UPCALL_READ, 0);
    Atomics.store(this.#lane.header, H_CONTROL_ASLEEP, 0);
  }

  get attached(): boolean {
    return this.#doorbell >= 0;
  }

  /** Words and bytes of the ring, and its absolute address: where answered packets lie. */
  get words(): Uint32Array {
    return this.#writer.words;
  }

  get bytes(): Uint8Array {
    return this.#writer.bytes;
  }

  get ringAddress(): number {
    return this.#ringAddress;
  }

  /**
   * Hands a parsed packet to the control plane; shown to it at the next `flush`. No copy rows may be waiting in the batch.
   * @returns 0, or the drop reason.
   */
  miss(batch: PacketBatch, slot: number): number {
    if (this.#doorbell < 0) return REASON_NO_CONTROL;
    const length = batch.length[slot]!;
    const at = this.#writer.reserve(RECORD_UPCALL, HEAD_BYTES + length);
    if (at < 0) return REASON_RING_FULL;
    const words = this.#writer.words;
    words[at + UPCALL_SEQ] = this.#sequence;
    words[at + UPCALL_IN_PORT] = batch.inPort;
    words[at + UPCALL_LENGTH] = length;
    words[at + UPCALL_VNET] = batch.vnetFlags[slot]! | (batch.gsoType[slot]! << 8) | (batch.gsoSize[slot]! << 16);
    words[at + UPCALL_VNET + 1] = batch.vnetHeaderLength[slot]! | (batch.csumStart[slot]! << 16);
    words[at + UPCALL_VNET + 2] = batch.csumOffset[slot]!;
    const keys = batch.keys;
    const key = slot * KEY_WORDS;
    for (let w = 0; w < KEY_WORDS; w++) words[at + UPCALL_KEY + w] = keys[key + w]!;
    this.#copyFrame(batch, slot, this.#ringAddress + (at + UPCALL_FRAME) * 4);
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#written = 1;
    return 0;
  }

  #copyFrame(batch: PacketBatch, slot: number, to: number): void {
    const rows = batch.rows;
    const segmentAddress = batch.segmentAddress;
    const segmentLength = batch.segmentLength;
    const head = batch.headLength[slot]!;
    rows[0] = to;
    rows[1] = batch.scratchAddress + batch.start[slot]!;
    rows[2] = head;
    let row = 3;
    let dst = to + head;
    const first = batch.segmentFirst[slot]!;
    const end = first + batch.segmentCount[slot]!;
    for (let s = first; s < end; s++) {
      rows[row] = dst;
      rows[row + 1] = segmentAddress[s]!;
      rows[row + 2] = segmentLength[s]!;
      row += 3;
      dst += segmentLength[s]!;
    }
    batch.rowCount = row / 3;
    batch.copy();
  }

  /** Shows the misses of a burst to the control plane, and rings if it asked for that. */
  flush(): void {
    if (this.#written === 0) return;
    this.#written = 0;
    this.#writer.publish();
    const header = this.#lane.header;
    if (Atomics.load(header, H_CONTROL_ASLEEP) === 1 && Atomics.exchange(header, H_CONTROL_ASLEEP, 0) === 1) {
      signal(this.#doorbell);
    }
  }

  /**
   * Takes the oldest unanswered upcall, for an answer with this sequence number.
   * @returns word index of its record in `words`, or -1 when the answer fits no upcall.
   */
  answer(sequence: number): number {
    const at = this.#answered.next();
    if (at < 0) return -1;
    return this.#writer.words[at + UPCALL_SEQ] === sequence ? at : -1;
  }

  /** The answer taken last is carried out, as far as the batch goes. */
  settle(): void {
    this.#settled = this.#answered.cursor;
  }

  get name(): number {
    return this.#lane.header[H_NAME]!;
  }

  get shownHead(): number {
    return this.#lane.header[H_UPCALL_HEAD]!;
  }

  get head(): number {
    return this.#writer.head | 0;
  }

  get shownFreed(): number {
    return this.#lane.header[H_UPCALL_FREED]!;
  }

  get freed(): number {
    return this.#settled | 0;
  }

  show(): void {
    this.#writer.publish();
    this.#answered.release(this.#settled);
  }

  /** Gives up what is unanswered, oldest first; `lost` is told the in_port of each. */
  forget(lost: (inPort: number) => void): void {
    const words = this.#writer.words;
    this.#writer.publish();
    for (let at = this.#answered.next(); at >= 0; at = this.#answered.next()) lost(words[at + UPCALL_IN_PORT]!);
  }

  /**
   * Goes on with what a worker that has stopped left unanswered in its lane; `lost` is told the in_port and drop reason of
   * those that find no room.
   */
  // set-up
  inherit(from: Lane, lost: (inPort: number, reason: number) => void): void {
    const left = new RingReader(
      from.buffer,
      from.header,
      LANE_UPCALL_AT,
      UPCALL_RING_BYTES,
      H_UPCALL_HEAD,
      H_UPCALL_FREED,
    );
    for (let record = left.next(); record >= 0; record = left.next()) {
      const bytes = left.words[record]!;
      const at = this.#doorbell < 0 ? -1 : this.#writer.reserve(RECORD_UPCALL, bytes);
      if (at < 0) {
        lost(left.words[record + UPCALL_IN_PORT]!, this.#doorbell < 0 ? REASON_NO_CONTROL : REASON_RING_FULL);
        continue;
      }
      this.#writer.words.set(left.words.subarray(record + 2, record + bytes / 4), at + 2);
      this.#writer.words[at + UPCALL_SEQ] = this.#sequence;
      this.#sequence = (this.#sequence + 1) >>> 0;
      this.#written = 1;
    }
    this.flush();
  }

  /** The bytes of the upcalls whose answers were carried out may be used again. */
  release(): void {
    this.#answered.release(this.#settled);
  }
}
