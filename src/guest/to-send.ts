// hot
/** What a transmit queue of either ring kind shows its caller: room for frames, and the headers that they get. */

/** Frames of one burst, at most. */
export const TX_BURST = 32;

export class FramesToSend {
  /** The memory that frames are written to. */
  readonly u8: Uint8Array;
  /** Where frame i of the reservation begins in `u8`; room for `frameBytes` bytes. */
  readonly at = new Float64Array(TX_BURST);
  /** Bytes of frame i, to be set before `send`. */
  readonly length = new Int32Array(TX_BURST);
  /** virtio-net header of frame i (virtio 1.2 section 5.1.6); all 0 after `reserve`. */
  readonly flags = new Uint8Array(TX_BURST);
  readonly gsoType = new Uint8Array(TX_BURST);
  readonly gsoSize = new Uint16Array(TX_BURST);
  readonly headerLength = new Uint16Array(TX_BURST);
  readonly csumStart = new Uint16Array(TX_BURST);
  readonly csumOffset = new Uint16Array(TX_BURST);
  /** Longest frame, in bytes. */
  readonly frameBytes: number;

  /** Frames published so far, frames left out for an impossible length, kicks sent, wrong ids returned by the switch. */
  sent = 0;
  rejected = 0;
  kicks = 0;
  broken = 0;

  /** @param u8 the memory that frames are written to. */
  constructor(u8: Uint8Array, frameBytes: number) {
    this.u8 = u8;
    this.frameBytes = frameBytes;
  }

  /** Takes the room of frames 0 .. n-1 from the `free` stack below `top`, and clears their fields. */
  protected prepare(n: number, free: Int32Array, top: number, bufferAt: Float64Array): void {
    const at = this.at;
    const length = this.length;
    const flags = this.flags;
    const gsoType = this.gsoType;
    const gsoSize = this.gsoSize;
    const headerLength = this.headerLength;
    const csumStart = this.csumStart;
    const csumOffset = this.csumOffset;
    for (let i = 0; i < n; i++) {
      at[i] = bufferAt[free[top - 1 - i]!]!;
      length[i] = 0;
      flags[i] = 0;
      gsoType[i] = 0;
      gsoSize[i] = 0;
      headerLength[i] = 0;
      csumStart[i] = 0;
      csumOffset[i] = 0;
    }
  }
}
