/**
 * A port without a guest, as ovs-vswitchd's `dummy`: nothing comes in, what goes out is counted and let go. For tests,
 * packet-out experiments and as the shortest example of a port.
 */
import { portCounter } from '#contract/catalogue.ts';
import type { PacketBatch } from '#datapath/packet/batch.ts';
import type {
  Attachment,
  PortConfig,
  PortCounters,
  PortHost,
  PortSession,
  PortStatus,
  TxQueue,
  WorkerContext,
  WorkerPort,
} from '../port.ts';

const TX_PACKETS = portCounter('tx_packets');
const TX_BYTES = portCounter('tx_bytes');

class DummyTx implements TxQueue {
  readonly portNo: number;
  readonly queue = 0;
  readonly shared = false;
  readonly #counters: PortCounters;

  constructor(portNo: number, counters: PortCounters) {
    this.portNo = portNo;
    this.#counters = counters;
  }

  lock(): boolean {
    return true;
  }

  unlock(): void {}

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const { slots, base } = this.#counters;
    for (let i = 0; i < n; i++) slots[base + TX_BYTES]! += batch.length[list[i]!]!;
    slots[base + TX_PACKETS]! += n;
    return n;
  }

  publish(): void {}
}

/** Worker's view. */
export const dummyPort = ({ portNo }: Attachment, { counters }: WorkerContext): WorkerPort => ({
  portNo,
  rx: [],
  tx: new DummyTx(portNo, counters),
  close() {},
});

const UP: PortStatus = { state: 'up', lastError: '', linkUp: true, facts: {} };

/** Session: up from the start, for good. */
export const dummySession = ({ portNo }: PortConfig, host: PortHost): PortSession => ({
  portNo,
  start: () => host.attach(portNo, { kind: 'dummy', portNo, rxQueues: [] }),
  reconfigure: async () => true,
  fault() {},
  status: () => UP,
  stop: async () => undefined,
});
