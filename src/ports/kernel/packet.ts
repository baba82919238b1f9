/**
 * The AF_PACKET backend of a `system` port (packet(7)): the socket with its ring, and what workers make of it.
 *
 * The socket takes all frames of the interface, whatever their address, and leaves out what this host sends by it. Checksums
 * and GSO travel in a virtio-net header both ways.
 */
import {
  address,
  close,
  map,
  OsError,
  packetBind,
  packetOpen,
  packetOption,
  packetRing,
  release,
  socketBuffers,
} from '#contract/os.ts';
import type { Attachment, PortFactory, RxQueue, TxQueue, WorkerContext, WorkerPort } from '../port.ts';
import type { Backend, OpenBackend } from './backend.ts';
import { landingOf } from './landing.ts';
import {
  FRAME_BYTES,
  PACKET_COPY_THRESH,
  PACKET_IGNORE_OUTGOING,
  PACKET_VERSION,
  PACKET_VNET_HDR,
  RING_BLOCK_BYTES,
  RING_BLOCKS,
  RING_BYTES,
  STATE_WORDS,
  TPACKET_V2,
} from './packet-ring.ts';
import { PacketRxQueue } from './packet-rx.ts';
import { KernelTxQueue } from './tx.ts';

export const PACKET_KIND = 'af_packet';

/** Frames under way to the interface, and those too long for the ring that wait to be fetched. */
const BUFFER_BYTES = 8 << 20;

export interface PacketAttachment extends Attachment {
  readonly kind: typeof PACKET_KIND;
  readonly fd: number;
  /** Number of the socket, never used twice in a process. */
  readonly generation: number;
  /** STATE_WORDS words (packet-ring.ts). */
  readonly state: SharedArrayBuffer;
  readonly mtu: number;
}

let generations = 0;

/** @throws Error when the socket cannot be had, for one without the privilege. */
function openSocket(): number {
  try {
    return packetOpen();
  } catch (error) {
    const fix = error instanceof OsError && error.code === 'EPERM' ? '; the data plane needs CAP_NET_RAW' : '';
    throw new Error(`AF_PACKET: ${(error as Error).message}${fix}`, { cause: error });
  }
}

/** @throws Error with the reason. */
export const openPacket: OpenBackend = ({ portNo, link }): Backend => {
  const fd = openSocket();
  try {
    packetOption(fd, PACKET_VERSION, TPACKET_V2);
    packetOption(fd, PACKET_VNET_HDR, 1);
    packetOption(fd, PACKET_IGNORE_OUTGOING, 1);
    packetOption(fd, PACKET_COPY_THRESH, 1);
    socketBuffers(fd, BUFFER_BYTES, BUFFER_BYTES);
    packetRing(fd, RING_BLOCK_BYTES, RING_BLOCKS, FRAME_BYTES);
    packetBind(fd, link.ifindex, true);
  } catch (error) {
    close(fd);
    throw error;
  }
  const generation = ++generations;
  const state = new SharedArrayBuffer(STATE_WORDS * 4);
  return {
    name: PACKET_KIND,
    attachment: (mtu): PacketAttachment => ({ kind: PACKET_KIND, portNo, rxQueues: [0], fd, generation, state, mtu }),
    facts: () => ({}),
    close: () => void close(fd),
  };
};

class PacketWorkerPort implements WorkerPort {
  readonly portNo: number;
  readonly generation: number;
  readonly ring: ArrayBuffer;
  readonly rx: readonly RxQueue[];
  readonly tx: TxQueue;
  readonly #tx: KernelTxQueue;

  constructor(attachment: PacketAttachment, { counters, batch }: WorkerContext, ring: ArrayBuffer) {
    const { portNo, fd, state, mtu } = attachment;
    this.portNo = portNo;
    this.generation = attachment.generation;
    this.ring = ring;
    const words = new Int32Array(state);
    this.rx = [new PacketRxQueue(portNo, 0, fd, ring, address(ring), words, landingOf(batch), counters)];
    this.#tx = new KernelTxQueue(portNo, 0, fd, true, counters, mtu);
    this.tx = this.#tx;
  }

  /** Takes the view apart but leaves the mapping to another one. */
  handOver(): ArrayBuffer {
    this.#tx.close();
    return this.ring;
  }

  close(): void {
    this.#tx.close();
    release(this.ring);
  }
}

/** Makes a worker's view of a packet socket. @throws OsError when the ring cannot be mapped. */
export const packetPort: PortFactory = (attachment, context, previous) => {
  const wanted = attachment as PacketAttachment;
  if (previous instanceof PacketWorkerPort && previous.generation === wanted.generation) {
    return new PacketWorkerPort(wanted, context, previous.handOver());
  }
  previous?.close();
  return new PacketWorkerPort(wanted, context, map(wanted.fd, 0, RING_BYTES, { write: true, owner: wanted.portNo }));
};
