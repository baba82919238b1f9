/**
 * Two vhost-user ports joined by a wire: what rx and tx cost without anything in between.
 *
 * dpdk-testpmd's virtio driver on CPU 1 forwards between its two ports, this process on CPU 0 between the other ends of
 * them. Prints Mpps (frames received here, and so sent, per second), ns per frame over all
 * time and in full bursts only (rx, tx and all their copies), and garbage collections.
 *
 * Usage: node bench/stage/vhost-loop.ts [seconds] [frame bytes ...]
 */

import { join } from 'node:path';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { sampleTsc, setAffinity, tscHz, tscSample } from '#contract/os.ts';
import { BURST, PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortHost, PortSession, WorkerContext, WorkerPort } from '#ports/port.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';
import { removeScratchDir, scratchDir } from '../../test/support/process.ts';
import { Testpmd, unavailable } from '../../test/support/testpmd.ts';

const POLLS_PER_TURN = 20_000;
const RX_PACKETS = portCounter('rx_packets');

const slots = new Float64Array(8 * PORT_ROW);
const batch = new PacketBatch();
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);
const ports: (WorkerPort | undefined)[] = [undefined, undefined, undefined];

const host: PortHost = {
  async attach(portNo, attachment) {
    const previous = ports[portNo];
    const context: WorkerContext = { worker: 0, workers: 1, counters: { slots, base: portNo * PORT_ROW }, batch };
    if (attachment) ports[portNo] = vhostPort(attachment, context, previous);
    else {
      previous?.close();
      ports[portNo] = undefined;
    }
  },
  status(portNo, status) {
    if (status.lastError) console.error(`port ${portNo}: ${status.state} ${status.lastError}`);
  },
};

/** Cycles of the newest full bursts, which a busy neighbour on the machine cannot stretch in the median. */
const burstCycles = new Float64Array(1 << 14);
let bursts = 0;

const forward = (from: WorkerPort, to: WorkerPort): void => {
  const rx = from.rx[0];
  const tx = to.tx;
  if (rx === undefined || tx === undefined) return;
  sampleTsc();
  const begin = tscSample[0]!;
  const n = rx.poll(batch);
  if (n === 0) return;
  tx.push(batch, list, n);
  batch.copy();
  tx.publish();
  rx.complete();
  batch.clear();
  if (n < BURST) return;
  sampleTsc();
  burstCycles[bursts & (burstCycles.length - 1)] = tscSample[0]! - begin;
  bursts++;
};

const medianNs = (): number => {
  const sorted = burstCycles.slice(0, Math.min(bursts, burstCycles.length)).sort();
  return ((sorted[sorted.length >> 1] ?? Number.NaN) / BURST / tscHz()) * 1e9;
};

const turn = (): void => {
  const a = ports[1];
  const b = ports[2];
  if (!a || !b) return;
  for (let i = 0; i < POLLS_PER_TURN; i++) {
    forward(a, b);
    forward(b, a);
  }
};

let running = true;
const loop = (): void => {
  turn();
  if (running) setImmediate(loop);
};

const received = (): number => slots[PORT_ROW + RX_PACKETS]! + slots[2 * PORT_ROW + RX_PACKETS]!;
const rest = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

let collections = 0;
new PerformanceObserver((entries) => {
  for (const entry of entries.getEntries()) {
    const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
    if (kind !== constants.NODE_PERFORMANCE_GC_WEAKCB) collections++;
  }
}).observe({ entryTypes: ['gc'] });

async function measure(bytes: number, seconds: number): Promise<void> {
  const dir = scratchDir('rwloop');
  const sessions: PortSession[] = [];
  for (const portNo of [1, 2]) {
    const options = { path: join(dir, `${portNo}.sock`), mode: 'server' };
    const session = vhostSessions(dir)({ portNo, name: `p${portNo}`, type: 'vhost-user', options, mtu: 9000 }, host);
    await session.start();
    sessions.push(session);
  }
  const testpmd = await Testpmd.start({
    devices: [1, 2].map((portNo) => ({ path: join(dir, `${portNo}.sock`), queueSize: 1024 })),
    core: 1,
    packetLength: bytes,
    memory: 512,
  });
  running = true;
  loop();
  try {
    await testpmd.startForwarding(8);
    await rest(1.5);
    for (let round = 0; round < seconds; round++) {
      const before = { packets: received(), time: performance.now(), collections };
      await rest(1);
      const packets = received() - before.packets;
      const elapsed = performance.now() - before.time;
      const mpps = packets / elapsed / 1000;
      const found = collections - before.collections;
      console.log(
        `${bytes} B: ${mpps.toFixed(2)} Mpps, ${(1000 / mpps).toFixed(1)} ns per frame, ` +
          `${medianNs().toFixed(1)} ns per frame in full bursts (median), ${found} collections`,
      );
      bursts = 0;
    }
  } finally {
    await testpmd.quit();
    running = false;
    for (const session of sessions) await session.stop();
    removeScratchDir(dir);
  }
}

const missing = unavailable();
if (missing) {
  console.log(`skipped: ${missing}`);
} else {
  setAffinity([0]);
  const seconds = Number(process.argv[2] ?? 5);
  const sizes = process.argv.slice(3).map(Number);
  for (const bytes of sizes.length > 0 ? sizes : [64, 1500]) await measure(bytes, seconds);
}
