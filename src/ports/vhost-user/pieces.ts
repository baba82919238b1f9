// hot
/** One frame as pieces, and the copies that lay it over the pieces of a guest's buffers. */
import { MAX_PACKET_SEGMENTS, MAX_ROWS, type PacketBatch } from '#datapath/packet/batch.ts';
import { type ChainWalker, MAX_PIECES } from './chain.ts';

const PIECES = MAX_PIECES;
const MAX_SOURCES = MAX_PACKET_SEGMENTS + 4;
const ROWS = MAX_ROWS;

export class FramePieces {
  /** Absolute address and length of each piece, the virtio-net header first. */
  readonly sourceAddress = new Float64Array(MAX_SOURCES);
  readonly sourceLength = new Int32Array(MAX_SOURCES);
  sourceCount = 0;

  /** Bytes of all pieces. */
  bytes(): number {
    const sourceLength = this.sourceLength;
    const sources = this.sourceCount;
    let sum = 0;
    for (let i = 0; i < sources; i++) sum += sourceLength[i]!;
    return sum;
  }

  /** Lays the first `need` bytes of the source pieces over the buffer pieces that `walker` holds. */
  addRows(batch: PacketBatch, need: number, walker: ChainWalker): void {
    if (batch.rowCount + PIECES + MAX_SOURCES > ROWS) batch.copy();
    const rows = batch.rows;
    const sourceAddress = this.sourceAddress;
    const sourceLength = this.sourceLength;
    const pieceAddress = walker.pieceAddress;
    const pieceLength = walker.pieceLength;
    let row = batch.rowCount * 3;
    let s = 0;
    let p = 0;
    let sourceAt = 0;
    let pieceAt = 0;
    let left = need;
    while (left > 0) {
      const from = sourceLength[s]! - sourceAt;
      const room = pieceLength[p]! - pieceAt;
      const take = from < room ? from : room;
      rows[row] = pieceAddress[p]! + pieceAt;
      rows[row + 1] = sourceAddress[s]! + sourceAt;
      rows[row + 2] = take;
      row += 3;
      left -= take;
      sourceAt += take;
      pieceAt += take;
      if (sourceAt === sourceLength[s]!) {
        s++;
        sourceAt = 0;
      }
      if (pieceAt === pieceLength[p]!) {
        p++;
        pieceAt = 0;
      }
    }
    batch.rowCount = (row / 3) | 0;
  }
}
