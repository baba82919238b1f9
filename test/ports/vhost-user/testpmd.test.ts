/** DPDK's virtio driver at the other end: two ports of one testpmd, joined here by a wire. */
import { join } from 'node:path';
import test from 'ava';
import { DROP_BASE, DROP_REASONS, PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortSession, WorkerPort } from '#ports/port.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';
import { PATIENCE_MS, scratchDir, until } from '../../support/process.ts';
import { Testpmd, unavailable, type VirtioUser } from '../../support/testpmd.ts';

const missing = unavailable();
const maybe = missing ? test.skip : test.serial;
const why = missing ? ` (skipped: ${missing})` : '';
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);

/** Two sessions and the shortest switch, which polls whenever the event loop is free. */
class Wire {
  readonly dir = scratchDir('rwpmd');
  readonly counters = new Float64Array(3 * PORT_ROW);
  readonly ports: (WorkerPort | undefined)[] = [undefined, undefined, undefined];
  readonly sessions: PortSession[] = [];
  readonly #batch = new PacketBatch();
  #running = true;

  path(portNo: number): string {
    return join(this.dir, `${portNo}.sock`);
  }

  async start(mode: 'server' | 'client'): Promise<void> {
    for (const portNo of [1, 2]) {
      const options = { path: this.path(portNo), mode };
      const session = vhostSessions(this.dir)(
        { portNo, name: `p${portNo}`, type: 'vhost-user', options, mtu: 9000 },
        {
          attach: async (_, attachment) => {
            const previous = this.ports[portNo];
            const context = {
              worker: 0,
              workers: 1,
              counters: { slots: this.counters, base: portNo * PORT_ROW },
              batch: this.#batch,
            };
            this.ports[portNo] = attachment && vhostPort(attachment, context, previous);
            if (!attachment) previous?.close();
          },
          status: () => {},
        },
      );
      await session.start();
      this.sessions.push(session);
    }
    this.#turn();
  }

  count(portNo: number): number {
    return this.counters[portNo * PORT_ROW + portCounter('rx_packets')]!;
  }

  /** Drops by name, full rings left out: a closed loop may fill them. */
  drops(): string[] {
    return DROP_REASONS.filter(
      ({ name }, i) => name !== 'tx_ring_full' && [1, 2].some((p) => this.counters[p * PORT_ROW + DROP_BASE + i]! > 0),
    ).map(({ name }) => name);
  }

  async stop(): Promise<void> {
    this.#running = false;
    for (const session of this.sessions) await session.stop();
  }

  #turn(): void {
    for (let i = 0; i < 200; i++) {
      this.#forward(this.ports[1], this.ports[2]);
      this.#forward(this.ports[2], this.ports[1]);
    }
    if (this.#running) setImmediate(() => this.#turn());
  }

  #forward(from: WorkerPort | undefined, to: WorkerPort | undefined): void {
    if (!to?.tx) return;
    for (const rx of from?.rx ?? []) {
      const n = rx.poll(this.#batch);
      if (n === 0) continue;
      to.tx.push(this.#batch, list, n);
      this.#batch.copy();
      to.tx.publish();
      rx.complete();
      this.#batch.clear();
    }
  }
}

const VARIANTS: [title: string, device: Partial<VirtioUser>, packetLength: number][] = [
  ['default features', {}, 64],
  ['frames of several buffers', {}, 5000],
  ['no mergeable buffers', { mrgRxbuf: false }, 300],
  ['any order', { inOrder: false }, 64],
  ['vectorized', { vectorized: true, mrgRxbuf: false, inOrder: true }, 64],
  ['two queues', { queues: 2 }, 64],
  ['testpmd listens', { role: 'server' }, 1500],
  ['packed, any order', { packedVq: true, inOrder: false }, 64],
  ['packed, frames of several buffers', { packedVq: true }, 5000],
  ['packed, frames of several buffers, any order', { packedVq: true, inOrder: false }, 5000],
  ['packed, no mergeable buffers', { packedVq: true, mrgRxbuf: false }, 300],
  ['packed, in order', { packedVq: true, inOrder: true }, 64],
  ['packed, in order, no mergeable buffers', { packedVq: true, inOrder: true, mrgRxbuf: false }, 64],
  ['packed, vectorized', { packedVq: true, vectorized: true, mrgRxbuf: false, inOrder: true }, 64],
  ['packed, two queues', { packedVq: true, queues: 2 }, 64],
  ['packed, two queues, vectorized', { packedVq: true, queues: 2, vectorized: true, inOrder: true }, 64],
  ['packed, testpmd listens', { packedVq: true, role: 'server' }, 1500],
  ['packed, testpmd listens, in order, two queues', { packedVq: true, role: 'server', inOrder: true, queues: 2 }, 64],
];

for (const [title, device, packetLength] of VARIANTS) {
  maybe(`testpmd exchanges frames: ${title}${why}`, async (t) => {
    const wire = new Wire();
    let testpmd: Testpmd | undefined;
    try {
      await wire.start(device.role === 'server' ? 'client' : 'server');
      testpmd = await Testpmd.start({
        devices: [1, 2].map((portNo) => ({ path: wire.path(portNo), queueSize: 256, ...device })),
        queues: device.queues ?? 1,
        packetLength: Math.min(packetLength, 2000),
        mbufs: 8192,
      });
      await until('both ports to be up', () => wire.sessions.every((s) => s.status().state === 'up'));
      if (packetLength > 2000) await testpmd.command('set txpkts 1500,1500,1500,500');
      await testpmd.startForwarding(4);
      await until(
        'frames to go round',
        () => wire.count(1) > 20_000 && wire.count(2) > 20_000,
        PATIENCE_MS,
        () => JSON.stringify([wire.drops(), wire.sessions.map((s) => s.status())]),
      );
      await testpmd.stopForwarding();
      t.deepEqual(wire.drops(), []);
      await testpmd.kill();
      await until('both ports to be free', () => wire.ports.every((port) => port === undefined));
      t.true(wire.sessions.every((s) => s.status().facts['status'] === 'disconnected'));
    } finally {
      await testpmd?.kill();
      await wire.stop();
    }
  });
}
