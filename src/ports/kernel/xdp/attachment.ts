/** A worker's view of an interface that is opened for AF_XDP. */
import type { WorkerContext, WorkerPort } from '#ports/port.ts';
import type { XdpPiece } from './layout.ts';
import { XskRings } from './ring.ts';
import { XdpRxQueue } from './rx.ts';
import { XdpTxQueue } from './tx.ts';

/**
 * rx: one queue per socket. tx: the worker's own socket, shared when fewer of them can send than there are workers.
 * @throws OsError when the session closed the sockets meanwhile.
 */
export function attachXdpPort(piece: XdpPiece, portNo: number, context: WorkerContext): WorkerPort {
  const sockets = piece.sockets.map((place) => new XskRings(place));
  const rings = sockets[context.worker % piece.txQueues];
  const tx = rings && new XdpTxQueue(portNo, piece.txQueues < context.workers, rings, context.counters, piece);
  return {
    portNo,
    rx: sockets.map((each) => new XdpRxQueue(portNo, each, context.counters, piece)),
    tx,
    close: () => tx?.close(),
  };
}
