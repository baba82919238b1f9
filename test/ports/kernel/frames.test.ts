/** Both directions of kernel queues over sockets that keep the borders of frames, as TAP queues and packet sockets do. */
import test from 'ava';
import { recvWithFds, sendWithFds } from '#contract/os.ts';
import { landingOf } from '#ports/kernel/landing.ts';
import { fillSlot, putTagBack, VNET_HEADER } from '#ports/kernel/rx-slot.ts';
import { TapRxQueue } from '#ports/kernel/tap-rx.ts';
import { KernelTxQueue } from '#ports/kernel/tx.ts';
import { eth, filler, ipv4, packet, tcp, udp, vlan } from '../../support/packets.ts';
import { joined, QueueRig, vnet } from './rig.ts';

const frameOf = (bytes: number) => packet(eth(), ipv4({}), udp({}), filler(bytes));

const received = (fd: number): Uint8Array[] => {
  const frames: Uint8Array[] = [];
  const buffer = new Uint8Array(70_000);
  for (;;) {
    const got = recvWithFds(fd, buffer, 0, buffer.length, new Int32Array(0));
    if (got <= 0) return frames;
    frames.push(buffer.slice(0, got));
  }
};

for (const socket of [true, false]) {
  const what = socket ? 'a socket' : 'a device';
  test(`a burst goes out over ${what}, each frame behind its header; what is too long is counted`, (t) => {
    const rig = new QueueRig();
    const [near, far] = rig.pair();
    const tx = new KernelTxQueue(1, 0, near, socket, rig.counters, 1500);
    const whole = packet(eth(), ipv4({}), tcp({}), filler(20_000));
    const frames = [frameOf(1), frameOf(400), frameOf(1472), frameOf(1473), whole];
    const list = rig.place(...frames);
    const { batch } = rig;
    batch.vnetFlags[1] = 1;
    batch.csumStart[1] = 34;
    batch.csumOffset[1] = 6;
    batch.vnetFlags[4] = 1;
    batch.gsoType[4] = 1;
    batch.gsoSize[4] = 1400;
    batch.vnetHeaderLength[4] = 54;
    batch.csumStart[4] = 34;
    batch.csumOffset[4] = 16;
    t.true(tx.lock());
    t.is(tx.push(batch, list, 5), 4);
    t.deepEqual(received(far), [], 'nothing before it is published');
    tx.publish();
    tx.unlock();
    const [first, second, third, fourth] = received(far);
    t.deepEqual(first, joined(vnet(), frames[0]!));
    t.deepEqual(second, joined(vnet({ flags: 1, csumStart: 34, csumOffset: 6 }), frames[1]!));
    t.deepEqual(third, joined(vnet(), frames[2]!));
    t.deepEqual(fourth!.subarray(VNET_HEADER), whole);
    t.deepEqual([...new Uint16Array(fourth!.slice(0, VNET_HEADER).buffer)], [0x101, 54, 1400, 34, 16]);
    t.is(rig.drops('tx_mtu'), 1);
    t.is(rig.count('tx_packets'), 4);
    t.is(rig.count('tx_bytes'), frames.reduce((sum, { length }) => sum + length, 0) - frames[3]!.length);
    tx.publish();
    t.is(rig.count('tx_bursts'), 1);
    tx.close();
    rig.close();
  });

  test(`frames that ${what} does not take are counted by reason, and nothing blocks`, (t) => {
    const rig = new QueueRig();
    const [near, far] = rig.pair();
    const tx = new KernelTxQueue(1, 0, near, socket, rig.counters, 9000);
    const list = rig.place(...Array.from({ length: 32 }, () => frameOf(8000)));
    for (let i = 0; i < 100; i++) {
      tx.push(rig.batch, list, 32);
      tx.publish();
    }
    const taken = received(far).length;
    t.true(taken > 0 && taken < 3200);
    t.is(rig.count('tx_packets'), taken);
    t.is(rig.drops('tx_kernel_full'), 3200 - taken);
    // A slot whose memory cannot be read (EFAULT) is refused by itself.
    rig.batch.segmentAddress[rig.batch.segmentFirst[3]!] = 4096;
    tx.push(rig.batch, list, 8);
    tx.publish();
    t.is(received(far).length, 7);
    t.is(rig.drops('tx_kernel_refused'), 1);
    tx.close();
    rig.close();
  });
}

test('more pieces than one call takes go in several', (t) => {
  const rig = new QueueRig();
  const [near, far] = rig.pair();
  const tx = new KernelTxQueue(1, 0, near, true, rig.counters, 9000);
  const [slot] = rig.place(frameOf(2000));
  const { batch } = rig;
  const from = batch.segmentAddress[batch.segmentFirst[slot!]!]!;
  batch.segmentCount[slot!] = 128;
  batch.length[slot!] = batch.headLength[slot!]! + 128;
  for (let i = 0; i < 128; i++) {
    batch.segmentAddress[batch.segmentFirst[slot!]! + i] = from;
    batch.segmentLength[batch.segmentFirst[slot!]! + i] = 1;
  }
  let taken = 0;
  tx.push(batch, new Int32Array(64).fill(slot!), 64);
  taken += received(far).length;
  tx.publish();
  taken += received(far).length;
  t.is(taken, 64);
  tx.close();
  rig.close();
});

test('frames that a device hands out become packets; bad ones are counted', (t) => {
  const rig = new QueueRig();
  const [near, far] = rig.pair();
  const rx = new TapRxQueue(4, 0, near, landingOf(rig.batch), rig.counters);
  t.false(rx.arm());
  t.is(rx.poll(rig.batch), 0);
  const long = packet(eth(), vlan({ vid: 3 }), ipv4({}), tcp({}), filler(30_000));
  const gso = vnet({ flags: 1, gsoType: 1, gsoSize: 1400, csumStart: 38, csumOffset: 16 });
  const short = frameOf(20);
  const wrong = vnet({ flags: 1, csumStart: 60_000, csumOffset: 6 });
  for (const bytes of [joined(vnet(), short), new Uint8Array(20), joined(wrong, short), joined(gso, long)])
    t.is(sendWithFds(far, bytes, 0, bytes.length, null, 0), bytes.length);
  rx.arm();
  t.is(rx.poll(rig.batch), 2);
  t.deepEqual(rig.frame(0), short);
  t.deepEqual(rig.frame(1), long);
  t.deepEqual([rig.batch.vnetFlags[0], rig.batch.gsoType[1], rig.batch.vnetHeaderLength[1]], [0, 1, 58]);
  t.is(rig.drops('rx_short_frame'), 1);
  t.is(rig.drops('rx_bad_offload'), 1);
  t.is(rig.count('rx_packets'), 2);
  rx.complete();
  rx.disarm();
  rig.batch.clear();
  for (let i = 0; i < 40; i++) t.is(rx.poll(rig.batch), 0);
  const bytes = joined(vnet(), short);
  sendWithFds(far, bytes, 0, bytes.length, null, 0);
  let polls = 0;
  while (rx.poll(rig.batch) === 0 && polls < 100) polls++;
  t.true(polls < 100, 'a quiet device is still looked at');
  rig.close();
});

test('a slot takes a frame as it lies in the scratch', (t) => {
  const rig = new QueueRig();
  const [slot] = rig.place(frameOf(40));
  const { batch } = rig;
  const start = batch.start[slot!]!;
  batch.u8.fill(0, start - VNET_HEADER, start);
  t.true(fillSlot(batch, 0, start, 82, 0));
  putTagBack(batch, 0, 0x8100, 0x2005);
  t.is(batch.length[0], 86);
  t.is(batch.start[0], start - 4);
  t.deepEqual([...rig.frame(0).subarray(12, 18)], [0x81, 0, 0x20, 5, 8, 0]);
  rig.close();
});
