// hot
/** What a poll of a receive queue of either ring kind leaves behind: frames, where they lie, and their headers. */

/** Frames of one burst, at most. */
export const RX_BURST = 32;
/** Buffers of all frames of one burst, at most. */
export const MAX_RX_PIECES = 4096;

export class ReceivedFrames {
  /** The memory that frames lie in. */
  readonly u8: Uint8Array;
  /** First byte of frame i in `u8`, and its bytes in all. Frames with `pieceCount[i]` above 1 go on in other buffers. */
  readonly at = new Float64Array(RX_BURST);
  readonly length = new Int32Array(RX_BURST);
  readonly firstPiece = new Int32Array(RX_BURST);
  readonly pieceCount = new Int32Array(RX_BURST);
  readonly pieceAt = new Float64Array(MAX_RX_PIECES);
  readonly pieceLength = new Int32Array(MAX_RX_PIECES);
  /** virtio-net header of frame i (virtio 1.2 section 5.1.6). */
  readonly flags = new Uint8Array(RX_BURST);
  readonly gsoType = new Uint8Array(RX_BURST);
  readonly gsoSize = new Uint16Array(RX_BURST);
  readonly headerLength = new Uint16Array(RX_BURST);
  readonly csumStart = new Uint16Array(RX_BURST);
  readonly csumOffset = new Uint16Array(RX_BURST);
  /** Frames that wait for `release`. */
  count = 0;

  /** Frames received so far; used entries of the switch that made no sense, whose frames are lost. */
  received = 0;
  broken = 0;

  /** @param u8 the memory that frames lie in. */
  constructor(u8: Uint8Array) {
    this.u8 = u8;
  }

  /** Copies frame i into `target` at `offset`. @returns its bytes. */
  copy(i: number, target: Uint8Array, offset = 0): number {
    const u8 = this.u8;
    const first = this.firstPiece[i]!;
    const end = first + this.pieceCount[i]!;
    for (let piece = first; piece < end; piece++) {
      const at = this.pieceAt[piece]!;
      const bytes = this.pieceLength[piece]!;
      target.set(u8.subarray(at, at + bytes), offset);
      offset += bytes;
    }
    return this.length[i]!;
  }
}
