// hot
/**
 * For ports that take plain frames only: what a slot of the batch becomes on its way out. MTU checked, a partial checksum
 * completed, a GSO frame segmented; the result goes to a sink as pieces (absolute address, length), one frame at a time.
 */
import { DROP_BASE, dropReason } from '#contract/catalogue.ts';
import { GSO_NONE, GSO_TUNNEL, MAX_PACKET_SEGMENTS, type PacketBatch, VNET_BYTES } from '#datapath/packet/batch.ts';
import { fitsMtu } from './mtu.ts';
import { SoftwareOffload } from './offload.ts';

const fits = fitsMtu;
const NONE = GSO_NONE;
const TUNNEL = GSO_TUNNEL;
const VNET = VNET_BYTES;
const MTU = DROP_BASE + dropReason('tx_mtu');
const OFFLOAD = DROP_BASE + dropReason('tx_offload');
const MAX_PIECES = MAX_PACKET_SEGMENTS + 2;

/** Where finished frames go: the ring or socket of a port. */
export interface FrameSink {
  /**
   * Takes one frame, `frames.pieces*[0..pieceCount - 1]`, `frames.frameBytes` in all, and adds its copies to batch.rows.
   * @returns 0, or the slot of a drop counter (DROP_BASE + reason): then nothing was taken.
   */
  put(batch: PacketBatch, frames: FinishedFrames): number;
  /** The sink's place now, for `rewind`: the segments of a GSO frame are sent all or none. */
  mark(): number;
  rewind(mark: number): void;
}

export class FinishedFrames {
  /** The frame that `put` is called for. */
  readonly pieceAddress = new Float64Array(MAX_PIECES);
  readonly pieceLength = new Int32Array(MAX_PIECES);
  pieceCount = 0;
  frameBytes = 0;
  /** What the last `push` sent: frames and their bytes; what it did for that: 1 or 0. */
  frames = 0;
  bytes = 0;
  summed = 0;
  segmented = 0;
  /** Where the frame's partial checksum starts and lies, for ports that take such; start 0: it has none. */
  csumStart = 0;
  csumOffset = 0;
  readonly #longest: number;
  readonly #partial: boolean;
  readonly #offload = new SoftwareOffload();

  /**
   * @param longest bytes of a frame with an untagged Ethernet header: MTU + 14.
   * @param partial the sink takes partial checksums (`csumStart`, `csumOffset`).
   */
  constructor(longest: number, partial = false) {
    this.#longest = longest;
    this.#partial = partial;
  }

  /** Lets go of private memory. */
  close(): void {
    this.#offload.close();
  }

  /** @returns 0 when everything was taken, else the slot of the drop counter: nothing was taken then. */
  push(batch: PacketBatch, slot: number, sink: FrameSink): number {
    this.frames = 1;
    this.bytes = batch.length[slot]!;
    this.summed = 0;
    this.segmented = 0;
    this.csumStart = 0;
    if (batch.length[slot]! > this.#longest && !fits(batch, slot, this.#longest)) return MTU;
    if (batch.gsoType[slot] !== NONE) return this.#segment(batch, slot, sink);
    if (batch.vnetFlags[slot] !== 0) {
      if (!this.#partial) return this.#sum(batch, slot, sink);
      this.csumStart = batch.csumStart[slot]!;
      this.csumOffset = batch.csumOffset[slot]!;
    }
    this.frameBytes = batch.length[slot]!;
    const first = batch.segmentFirst[slot]!;
    const count = batch.segmentCount[slot]!;
    const head = batch.headLength[slot]!;
    let pieces = 0;
    if (head > 0) {
      this.pieceAddress[0] = batch.scratchAddress + batch.start[slot]!;
      this.pieceLength[0] = head;
      pieces = 1;
    }
    for (let i = 0; i < count; i++) {
      this.pieceAddress[pieces] = batch.segmentAddress[first + i]!;
      this.pieceLength[pieces] = batch.segmentLength[first + i]!;
      pieces++;
    }
    this.pieceCount = pieces;
    return sink.put(batch, this);
  }

  #sum(batch: PacketBatch, slot: number, sink: FrameSink): number {
    const offload = this.#offload;
    offload.linearise(batch, slot);
    if (!offload.fillChecksum(batch.csumStart[slot]!, batch.csumOffset[slot]!)) return OFFLOAD;
    this.summed = 1;
    this.frameBytes = offload.length;
    this.pieceAddress[0] = offload.address + offload.frame;
    this.pieceLength[0] = offload.length;
    this.pieceCount = 1;
    return sink.put(batch, this);
  }

  #segment(batch: PacketBatch, slot: number, sink: FrameSink): number {
    const offload = this.#offload;
    offload.linearise(batch, slot);
    if (!offload.prepare(batch.gsoType[slot]!, batch.gsoSize[slot]!, batch.csumStart[slot]!)) return OFFLOAD;
    const partial = this.#partial && !offload.fragments && (batch.gsoType[slot]! & TUNNEL) === 0;
    if (partial) {
      this.csumStart = batch.csumStart[slot]!;
      this.csumOffset = batch.csumOffset[slot]!;
    }
    const mark = sink.mark();
    const segments = offload.segments;
    let bytes = 0;
    for (let k = 0; k < segments; k++) {
      this.pieceAddress[0] = offload.address + offload.segmentHeaders(batch, k, partial) + VNET;
      this.pieceLength[0] = offload.headers;
      const payload = offload.payload(k);
      this.pieceAddress[1] = offload.address + offload.payloadFrom(k);
      this.pieceLength[1] = payload;
      this.pieceCount = 2;
      this.frameBytes = offload.headers + payload;
      const reason = sink.put(batch, this);
      if (reason !== 0) {
        // `linearise` left no row of others behind.
        batch.rowCount = 0;
        sink.rewind(mark);
        return reason;
      }
      bytes += this.frameBytes;
    }
    this.frames = segments;
    this.bytes = bytes;
    this.segmented = 1;
    return 0;
  }
}
