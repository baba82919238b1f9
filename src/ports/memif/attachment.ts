/**
 * What a worker gets of a memif port: plain data, and the view made from it.
 *
 * Descriptors in an attachment belong to the session, which keeps them open for as long as the attachment stands. Every
 * worker maps the regions for itself; a new attachment of the same connection takes the mappings over.
 */
import type { Attachment, PortFactory, RxQueue, TxQueue, WorkerContext, WorkerPort } from '#ports/port.ts';
import type { FilePart } from '../memory.ts';
import { Regions, Ring, type RingPlace } from './ring.ts';
import { MemifRxQueue } from './rx.ts';
import { MemifTxQueue } from './tx.ts';

export const KIND = 'memif';

export interface MemifAttachment extends Attachment {
  readonly kind: typeof KIND;
  /** Number of the connection, never used twice in a process. */
  readonly generation: number;
  readonly server: boolean;
  readonly regions: readonly FilePart[];
  readonly rings: readonly RingPlace[];
  /** STATE_WORDS words per ring (ring.ts). */
  readonly state: SharedArrayBuffer;
  /** Bytes of an Ethernet payload. */
  readonly mtu: number;
}

class MemifWorkerPort implements WorkerPort {
  readonly portNo: number;
  readonly rx: readonly RxQueue[];
  readonly tx: TxQueue | undefined;
  readonly generation: number;
  readonly regions: Regions;
  readonly #tx: MemifTxQueue | undefined;

  constructor(attachment: MemifAttachment, context: WorkerContext, regions: Regions) {
    const { portNo, server, rings, state, mtu } = attachment;
    const { counters } = context;
    this.portNo = portNo;
    this.generation = attachment.generation;
    this.regions = regions;
    const ring = (place: RingPlace) => new Ring(place, server, regions, state);
    this.rx = rings
      .filter(({ s2m }) => s2m === server)
      .map((place) => new MemifRxQueue(portNo, place.index, ring(place), regions, counters));
    const places = rings.filter(({ s2m }) => s2m !== server);
    const place = places[context.worker % places.length];
    const shared = places.length < context.workers;
    this.#tx = place && new MemifTxQueue(portNo, place.index, shared, ring(place), regions, counters, mtu);
    this.tx = this.#tx;
  }

  /** Takes the view apart but leaves the mappings to another one. */
  handOver(): Regions {
    this.#tx?.close();
    return this.regions;
  }

  close(): void {
    this.#tx?.close();
    this.regions.close();
  }
}

/** Makes a worker's view of a memif port. @throws OsError when a region cannot be mapped. */
export const attachMemif: PortFactory = (attachment, context, previous) => {
  const wanted = attachment as MemifAttachment;
  if (previous instanceof MemifWorkerPort && previous.generation === wanted.generation) {
    return new MemifWorkerPort(wanted, context, previous.handOver());
  }
  previous?.close();
  return new MemifWorkerPort(wanted, context, new Regions(wanted.regions, wanted.portNo));
};
