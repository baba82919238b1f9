import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test from 'ava';
import { drop, output, pushVlan, set } from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { W_IN_PORT } from '#contract/flow-key.ts';
import { FLOW_ROW } from '#contract/lane.ts';
import { address, mapAnonymous } from '#contract/os.ts';
import { MAX_OUTPUTS } from '#datapath/outputs.ts';
import { BURST, MAX_FRAME, WINDOW } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import { SWEEP_MS } from '#datapath/pipeline.ts';
import { Rig } from '../support/datapath-rig.ts';
import { makeFrame, Random } from '../support/random-frames.ts';
import { referenceParse } from '../support/reference-parser.ts';

const frameOf = (seed: number): Uint8Array => makeFrame(new Random(seed), undefined, 'ipv4');
const ipv4Source = (last: number): Uint8Array => {
  const bytes = new Array<number>(12).fill(2);
  const ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, last, 10, 0, 0, 9, 0, 1, 0, 2, 0, 8, 0, 0];
  return Uint8Array.from([...bytes, 8, 0, ...ip]);
};
const exactSource = (last: number): Record<number, [number, number]> => ({ 8: [0x0a000000 | last, 0xffffffff] });

test('a packet without a megaflow goes to the control plane with its whole key', (t) => {
  const rig = new Rig([1, 2]);
  const frame = frameOf(2);
  t.deepEqual(rig.send(1, frame), []);
  const { key } = referenceParse(frame, WINDOW);
  key[W_IN_PORT] = 1;
  t.deepEqual([...rig.missed[0]!.key.slice(0, 26)], [...key.slice(0, 26)]);
  // Also where the port's flows asked for less.
  rig.put(0, 1, { 2: [0xffffffff, 0xffffffff] }, output(2));
  rig.send(1, frame);
  t.deepEqual([...rig.missed[0]!.key.slice(0, 26)], [...key.slice(0, 26)]);
  t.is(rig.counter('misses'), 2);
  t.is(rig.counter('upcalls'), 2);
  t.is(rig.counter('lost'), 0);
});

test('a miss that cannot be handed over is lost with its reason', (t) => {
  const rig = new Rig([1]);
  rig.missReason = dropReason('upcall_ring_full');
  rig.send(1, frameOf(1), frameOf(2));
  t.is(rig.drops(1, 'upcall_ring_full'), 2);
  t.is(rig.counter('lost'), 2);
  t.is(rig.counter('upcalls'), 0);
});

test('flows of in_port only forward without reading headers, and count packets, bytes and time', (t) => {
  const rig = new Rig([1, 2]);
  rig.put(7, 1, {}, output(2));
  const frames = Array.from({ length: 40 }, (_, i) => frameOf(i + 1));
  rig.clock[0] = 5000;
  const sent = rig.send(1, ...frames);
  t.deepEqual(
    sent.map((one) => Buffer.from(one.frame).toString('hex')),
    frames.map((one) => Buffer.from(one).toString('hex')),
  );
  t.is(rig.counter('simple_hits'), 40);
  rig.pipeline.publishStats();
  const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
  t.deepEqual([...rig.lane.flows.subarray(7 * FLOW_ROW, 8 * FLOW_ROW)], [40, bytes, 5000, 0]);
});

test('flows of one port say nothing about packets of another', (t) => {
  const rig = new Rig([1, 2, 3]);
  for (let last = 1; last < 4; last++) {
    rig.put(last, 1, exactSource(last), output(2));
    rig.put(10 + last, 2, { ...exactSource(last), 9: [0, 0xff] }, output(3));
  }
  t.is(rig.send(1, ipv4Source(1))[0]!.port, 2);
  t.is(rig.send(2, ipv4Source(1)).length, 0);
  t.is(rig.send(3, ipv4Source(1)).length, 0);
});

/** A port with so many subtables that the match cache is asked first. */
const cachedRig = (): Rig => {
  const rig = new Rig([1, 2, 3]);
  for (let i = 0; i < 8; i++)
    rig.put(100 + i, 1, { 8: [0x0a000010 + i, 0xffffffff], 9: [0x0a000009, 0xff000000 | (1 << i) | 9] }, output(2));
  for (let burst = 0; burst < 1100; burst++) rig.send(1, ...Array.from({ length: 8 }, (_, i) => ipv4Source(16 + i)));
  return rig;
};

test('the match cache answers for ports whose hits would search several subtables', (t) => {
  const rig = cachedRig();
  t.true(rig.pipeline.flows.ports[1]!.cached);
  const before = rig.counter('emc_hits');
  rig.send(1, ...Array.from({ length: 8 }, (_, i) => ipv4Source(16 + i)));
  t.is(rig.counter('emc_hits') - before, 8);
});

test('a cached flow that is replaced, deleted or narrowed is obeyed by the next packet', (t) => {
  const rig = cachedRig();
  const packet = ipv4Source(17);
  rig.send(1, packet);
  t.is(rig.send(1, packet)[0]!.port, 2);
  rig.put(101, 1, { 8: [0x0a000011, 0xffffffff], 9: [0x0a000009, 0xff00000b] }, output(3));
  t.is(rig.send(1, packet)[0]!.port, 3, 'program replaced');
  rig.put(101, 1, { 8: [0x0a000011, 0xffffffff], 10: [0xffffffff, 0xffffffff] }, output(3));
  t.is(rig.send(1, packet).length, 0, 'match replaced');
  rig.put(101, 1, { 8: [0x0a000011, 0xffffffff], 10: [0x00010002, 0xffffffff] }, output(2));
  t.is(rig.send(1, packet)[0]!.port, 2, 'union grown');
  rig.send(1, packet);
  rig.pipeline.flows.delete(101);
  t.is(rig.send(1, packet).length, 0, 'deleted');
  rig.put(101, 2, { 8: [0x0a000011, 0xffffffff] }, output(3));
  t.is(rig.send(1, packet).length, 0, 'id now belongs to another port');
});

test('statistics reach the lane while packets flow, without being asked for', (t) => {
  const rig = new Rig([1, 2]);
  rig.put(3, 1, exactSource(1), output(2));
  for (let turn = 0; turn < 3; turn++) rig.send(1, ipv4Source(1));
  rig.clock[0]! += SWEEP_MS;
  rig.send(1, ipv4Source(1));
  for (let turn = 0; turn < 10; turn++) rig.pipeline.run(rig.rx.get(1)!);
  t.is(rig.lane.flows[3 * FLOW_ROW], 4);
  t.is(rig.lane.flows[3 * FLOW_ROW + 2], rig.clock[0]);
});

test('a deleted flow leaves its last numbers, a new flow of its id starts from none', (t) => {
  const rig = new Rig([1, 2]);
  rig.put(3, 1, exactSource(1), output(2));
  rig.send(1, ipv4Source(1));
  rig.pipeline.flows.delete(3);
  t.is(rig.lane.flows[3 * FLOW_ROW], 1);
  rig.put(3, 1, exactSource(2), output(2));
  t.is(rig.lane.flows[3 * FLOW_ROW], 0);
});

test('outputs to a port that is not there, or has no queue, count as drops where they belong', (t) => {
  const rig = new Rig([1, 2]);
  rig.down.add(5);
  rig.put(0, 1, {}, [...output(9), ...output(5), ...output(2), ...output(70_000)]);
  t.is(rig.send(1, frameOf(1)).length, 1);
  t.deepEqual(rig.allDrops(), { no_such_port: 2, tx_port_down: 1 });
  t.is(rig.drops(5, 'tx_port_down'), 1);
  t.is(rig.drops(1, 'no_such_port'), 2);
});

test('drops count their reason at the port that the packet came in by', (t) => {
  const rig = new Rig([1]);
  rig.put(0, 1, {}, []);
  rig.send(1, frameOf(1));
  rig.put(0, 1, {}, drop(dropReason('vlan_policy')));
  rig.send(1, frameOf(1));
  rig.put(0, 1, {}, drop(9999));
  rig.send(1, frameOf(1));
  t.deepEqual(rig.allDrops(), { flow_drop: 1, vlan_policy: 1, translation_error: 1 });
});

test('queues of their own are pushed together and published after the copies; shared ones one by one under their lock', (t) => {
  const rig = new Rig([1, 2, 3, 4], [3]);
  rig.put(0, 1, {}, [...output(2), ...output(3), ...output(4)]);
  rig.send(1, frameOf(1), frameOf(2));
  t.deepEqual(rig.tx.get(2)!.log, ['push 2', 'publish']);
  t.deepEqual(rig.tx.get(3)!.log, ['lock', 'push 2', 'publish', 'unlock']);
  t.is(rig.counter('tx_packets'), 6);
  t.is(rig.counter('tx_batches'), 3);
  rig.tx.get(3)!.lockable = false;
  rig.send(1, frameOf(1));
  t.is(rig.drops(3, 'tx_ring_full'), 1);
});

test('a program may output to one port more often than its list is long', (t) => {
  const rig = new Rig([1, 2]);
  const times = MAX_OUTPUTS + 5;
  rig.put(0, 1, {}, Array.from({ length: times }, () => output(2)).flat());
  const sent = rig.send(1, frameOf(1), frameOf(2));
  t.is(sent.length, 2 * times);
  t.is(sent.filter((one) => Buffer.compare(one.frame, frameOf(2)) === 0).length, times);
});

test('packets leave a port in the order in which they came', (t) => {
  const rig = new Rig([1, 2, 3]);
  rig.put(0, 1, exactSource(1), output(2));
  rig.put(1, 1, exactSource(2), [...pushVlan(0x8100, 1), ...output(2)]);
  rig.put(2, 1, exactSource(3), output(3));
  const sources = Array.from({ length: BURST }, (_, i) => 1 + ((i * 7) % 3));
  const sent = rig.send(1, ...sources.map(ipv4Source));
  const last = (frame: Uint8Array): number => frame[frame.length - 13]!;
  t.deepEqual(
    sent.filter((one) => one.port === 2).map((one) => last(one.frame)),
    sources.filter((source) => source !== 3),
  );
});

test('an answered upcall is executed from the memory that holds it, payload included', (t) => {
  const rig = new Rig([1, 2, 3]);
  const buffer = mapAnonymous(1 << 17);
  const bytes = new Uint8Array(buffer);
  const long = new Uint8Array(9000).map((_, i) => i * 7);
  long.set(ipv4Source(5));
  bytes.set(long, 64);
  bytes.set(ipv4Source(6), 10_000);
  rig.batch.inPort = 1;
  const program = Uint32Array.from([0, ...output(2), ...set(2, 0x0a0b0c0d, 0xffffffff), ...output(3)]);
  for (const [at, length] of [
    [64, 9000],
    [10_000, 42],
  ] as const) {
    const slot = placeFrame(rig.batch, bytes, at, address(buffer), length);
    rig.pipeline.execute(slot, program, 1, program.length - 1);
  }
  rig.pipeline.flush();
  t.is(rig.sent.length, 4);
  t.deepEqual(rig.sent[0]!.frame, long);
  t.deepEqual([...rig.sent[2]!.frame.slice(0, 5)], [0x0a, 0x0b, 0x0c, 0x0d, 2]);
  t.deepEqual(rig.sent[2]!.frame.slice(4), long.slice(4));
  t.is(rig.batch.count, 0);
  rig.batch.inPort = 1;
  rig.pipeline.execute(placeFrame(rig.batch, bytes, 10_000, address(buffer), 42), program, 1, 0);
  rig.pipeline.flush();
  t.is(rig.drops(1, 'flow_drop'), 1);
});

test('a frame without an Ethernet header, or one too many, is not placed', (t) => {
  const rig = new Rig([1]);
  const bytes = new Uint8Array(MAX_FRAME);
  t.is(placeFrame(rig.batch, bytes, 0, 0, 13), -1);
  for (let i = 0; i < BURST; i++) t.is(placeFrame(rig.batch, bytes, 0, 0, 14), i);
  t.is(placeFrame(rig.batch, bytes, 0, 0, 14), -1);
});

test('millions of packets through every stage collect no garbage', async (t) => {
  const run = await promisify(execFile)(process.execPath, [
    new URL('../support/steady-state.ts', import.meta.url).pathname,
  ]);
  const { collections, packets, hits } = JSON.parse(run.stdout) as {
    collections: number;
    packets: number;
    hits: Record<string, number>;
  };
  t.true(packets >= 3_000_000);
  for (const [name, count] of Object.entries(hits)) t.true(count > 0, name);
  t.is(collections, 0);
});
