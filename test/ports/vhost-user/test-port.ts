/** Workers' views of test drivers on one batch, and the shortest switch: what one sends, the other gets. */
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, PORT_ROW } from '#contract/catalogue.ts';
import { PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { WorkerPort } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { Driver, type DriverOptions } from './driver.ts';

export const batch = new PacketBatch();
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);

export class TestPort {
  readonly driver: Driver;
  readonly attachment: VhostUserAttachment;
  readonly port: WorkerPort;
  readonly counters: Float64Array;

  constructor(
    portNo: number,
    options: DriverOptions = {},
    startAt = 0,
    change: (attachment: VhostUserAttachment) => VhostUserAttachment = (attachment) => attachment,
  ) {
    this.driver = new Driver(portNo, options);
    if (startAt > 0 || options.packed) this.driver.startAt(startAt);
    this.counters = new Float64Array(PORT_ROW);
    const context = { worker: 0, workers: 1, counters: { slots: this.counters, base: 0 }, batch };
    this.attachment = change(this.driver.attachment);
    this.port = vhostPort(this.attachment, context, undefined);
  }

  /** Counters that are not 0, by name. */
  counts(): Record<string, number> {
    const names = [
      ...PORT_COUNTERS.map((c, i) => [c.name, i] as const),
      ...DROP_REASONS.map((c, i) => [c.name, DROP_BASE + i] as const),
    ];
    return Object.fromEntries(
      names.filter(([, i]) => this.counters[i] !== 0).map(([name, i]) => [name, this.counters[i]!]),
    );
  }

  close(): void {
    this.port.close();
    this.driver.close();
  }
}

const forwardBurst = (from: TestPort, to: readonly TestPort[], whole: boolean): number => {
  const rx = from.port.rx[0]!;
  const n = rx.poll(batch, whole);
  if (n > 0) {
    for (const port of to) port.port.tx!.push(batch, list, n);
    batch.copy();
    for (const port of to) port.port.tx!.publish();
    rx.complete();
  }
  batch.clear();
  return n;
};

/** One burst from one port to others. @returns packets received. */
export const forward = (from: TestPort, ...to: TestPort[]): number => forwardBurst(from, to, false);

/** The same for a pipeline that reads no header: frames may stay with their sender until they are copied. */
export const forwardUnread = (from: TestPort, ...to: TestPort[]): number => forwardBurst(from, to, true);
