import test from 'ava';
import fc from 'fast-check';
import {
  DROP_BASE,
  type DropReason,
  dropReason,
  PORT_ROW,
  type PortCounter,
  portCounter,
} from '#contract/catalogue.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { STATE_DOWN, STATE_FREE_COUNT } from '#ports/kernel/xdp/layout.ts';
import { XskRings } from '#ports/kernel/xdp/ring.ts';
import { XdpRxQueue } from '#ports/kernel/xdp/rx.ts';
import { XdpTxQueue } from '#ports/kernel/xdp/tx.ts';
import { eth, faultOf, filler, ipv4, packet, tcp, udp } from '../../../support/packets.ts';
import { FakeKernel } from './fake-kernel.ts';

const ENTRIES = 64;
const LIST = Int32Array.from({ length: 32 }, (_, i) => i);
const batch = new PacketBatch();

const frameOf = (length: number, seed: number): Uint8Array => {
  const frame = filler(length, seed);
  // A type that no offload or tag code looks at.
  frame.set([0x88, 0xb5], 12);
  return frame;
};

interface Shape {
  readonly frameBytes: number;
  readonly start: number;
  readonly multiBuffer: boolean;
  readonly txChecksum: boolean;
  readonly partialChecksums: boolean;
  readonly mtu: number;
}

const PLAIN: Shape = {
  frameBytes: 2048,
  start: 0,
  multiBuffer: true,
  txChecksum: false,
  partialChecksums: false,
  mtu: 9000,
};

/** One socket, whose frames go back out of it. */
class Loop {
  readonly kernel: FakeKernel;
  readonly rx: XdpRxQueue;
  readonly tx: XdpTxQueue;
  readonly #slots = new Float64Array(PORT_ROW);

  constructor(shape: Partial<Shape> = {}) {
    const { frameBytes, start, mtu, ...rest } = { ...PLAIN, ...shape };
    this.kernel = new FakeKernel(ENTRIES, frameBytes, start);
    const options = { longest: mtu + 14, needWakeup: true, busyPoll: false, ...rest };
    const counters = { slots: this.#slots, base: 0 };
    const rings = new XskRings(this.kernel.place);
    this.rx = new XdpRxQueue(1, rings, counters, options);
    this.tx = new XdpTxQueue(1, false, rings, counters, options);
  }

  /** Forwards what waits. @returns packets. */
  turn(whole = false): number {
    const n = this.rx.poll(batch, whole);
    if (n > 0) {
      this.tx.push(batch, LIST, n);
      batch.copy();
      this.tx.publish();
    }
    this.rx.complete();
    batch.clear();
    return n;
  }

  counter(name: PortCounter): number {
    return this.#slots[portCounter(name)]!;
  }

  drops(name: DropReason): number {
    return this.#slots[DROP_BASE + dropReason(name)]!;
  }

  /** Frames of the tx half that are free. */
  get free(): number {
    return new Int32Array(this.kernel.place.state)[STATE_FREE_COUNT]!;
  }
}

const steps = fc.array(
  fc.record({
    lengths: fc.array(fc.oneof(fc.integer({ min: 14, max: 400 }), fc.integer({ min: 14, max: 9014 })), {
      maxLength: 8,
    }),
    whole: fc.boolean(),
    order: fc.nat(1000),
  }),
  { maxLength: 60 },
);

test('frames pass byte-exact and no umem frame is lost, whatever the place of the counters', (t) => {
  fc.assert(
    fc.property(
      steps,
      fc.constantFrom(0, 0x7fff_ffe0, -40, -1),
      fc.constantFrom(2048, 4096),
      fc.boolean(),
      (list, start, frameBytes, txChecksum) => {
        const loop = new Loop({ start, frameBytes, txChecksum });
        const { kernel } = loop;
        const expected: Uint8Array[] = [];
        let seed = 0;
        for (const { lengths, whole, order } of list) {
          for (const length of lengths) {
            const frame = frameOf(length, seed++);
            const lost = kernel.lost;
            kernel.receive(frame);
            if (kernel.lost === lost) expected.push(frame);
          }
          while (loop.turn(whole) > 0) kernel.transmit(ENTRIES, (left) => order % left);
        }
        loop.tx.push(batch, LIST, 0);
        t.deepEqual(
          kernel.sent.map(({ frame }) => Buffer.from(frame).toString('hex')),
          expected.map((frame) => Buffer.from(frame).toString('hex')),
        );
        t.is(kernel.sent.filter(({ partial }) => partial !== undefined).length, 0);
        t.is(loop.free, ENTRIES);
        const half = Array.from({ length: ENTRIES }, (_, i) => i * frameBytes);
        t.deepEqual(
          kernel.owned.toSorted((a, b) => a - b),
          half,
        );
        loop.tx.close();
      },
    ),
    { numRuns: 60 },
  );
});

test('a kernel that sends nothing costs frames, each counted, and none of the buffers', (t) => {
  const loop = new Loop();
  for (let i = 0; i < ENTRIES + 10; i++) {
    loop.kernel.receive(frameOf(100, i));
    loop.turn();
  }
  t.is(loop.drops('tx_ring_full'), 10);
  t.is(loop.free, 0);
  loop.kernel.transmit(ENTRIES);
  loop.kernel.receive(frameOf(100, 1));
  loop.turn();
  t.is(loop.free, ENTRIES - 1);
  t.is(loop.counter('tx_packets'), ENTRIES + 1);
});

test('a descriptor outside the umem, or of a runt, is counted and dropped', (t) => {
  const loop = new Loop();
  const { kernel } = loop;
  kernel.describe(kernel.umem.length - 10, 100, 0);
  kernel.describe(-2048, 100, 0);
  kernel.describe(4096, -1, 0);
  kernel.describe(8192, 13, 0);
  kernel.receive(frameOf(60, 1));
  t.is(loop.turn(), 1);
  t.is(loop.drops('rx_bad_descriptor'), 3);
  t.is(loop.drops('rx_short_frame'), 1);
  t.is(loop.counter('rx_packets'), 1);
});

test('a frame whose end is not there yet waits for it', (t) => {
  const loop = new Loop();
  loop.kernel.receive(frameOf(4000, 1));
  const { rx } = loop.kernel;
  rx.words[0]!--;
  t.is(loop.turn(), 0);
  rx.words[0]!++;
  t.is(loop.turn(), 1);
  t.is(loop.counter('rx_bytes'), 4000);
});

test('a frame longer than the MTU, or than one buffer where there is only one, is counted by name', (t) => {
  const small = new Loop({ mtu: 1500 });
  small.kernel.receive(frameOf(1514, 1));
  small.kernel.receive(frameOf(1515, 1));
  small.turn();
  t.is(small.drops('tx_mtu'), 1);
  const single = new Loop({ multiBuffer: false });
  single.kernel.receive(frameOf(3000, 1));
  single.turn();
  t.is(single.drops('tx_too_big_for_buffer'), 1);
  t.is(single.free, ENTRIES);
});

test('a frame of more bytes than the switch takes is counted as oversize', (t) => {
  const loop = new Loop({ frameBytes: 4096 });
  loop.kernel.receive(frameOf(65_558, 1));
  t.is(loop.turn(), 0);
  t.is(loop.drops('rx_oversize'), 1);
  t.is(loop.kernel.owned.length, ENTRIES);
});

test('while the interface is down, frames are counted as sent to a port that is down', (t) => {
  const loop = new Loop();
  new Int32Array(loop.kernel.place.state)[STATE_DOWN] = 1;
  loop.kernel.receive(frameOf(60, 1));
  loop.turn();
  t.is(loop.drops('tx_port_down'), 1);
});

test('a shared queue is locked by one at a time, and taken over with its free frames', (t) => {
  const kernel = new FakeKernel(ENTRIES, 2048, 0);
  const options = { longest: 1514, needWakeup: true, multiBuffer: true, txChecksum: false };
  const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
  const [first, second] = [0, 1].map(() => new XdpTxQueue(1, true, new XskRings(kernel.place), counters, options)) as [
    XdpTxQueue,
    XdpTxQueue,
  ];
  t.true(first.lock());
  t.false(second.lock());
  first.unlock();
  t.true(second.lock());
  second.unlock();
  const rx = new XdpRxQueue(1, new XskRings(kernel.place), counters, {
    needWakeup: true,
    busyPoll: false,
    partialChecksums: false,
  });
  for (let i = 0; i < 3 * ENTRIES; i++) {
    kernel.receive(frameOf(100, i));
    const tx = i % 3 === 0 ? first : second;
    const n = rx.poll(batch);
    tx.push(batch, LIST, n);
    batch.copy();
    tx.publish();
    rx.complete();
    batch.clear();
    kernel.transmit(1);
  }
  t.is(kernel.sent.length, 3 * ENTRIES);
  first.close();
  second.close();
});

/** A frame with the checksum that the kernel leaves when its device does the rest. */
const partialFrame = (layer: ReturnType<typeof tcp>, payload: number): Uint8Array => {
  const whole = packet(eth(), ipv4(), layer, filler(payload));
  const at = 34 + (whole[23] === 6 ? 16 : 6);
  const segment = whole.subarray(34);
  const pseudo = [...whole.subarray(26, 34), 0, whole[23]!, segment.length >> 8, segment.length & 255];
  let sum = 0;
  for (let i = 0; i < pseudo.length; i += 2) sum += (pseudo[i]! << 8) | pseudo[i + 1]!;
  sum = (sum & 0xffff) + (sum >>> 16);
  whole[at] = sum >>> 8;
  whole[at + 1] = sum & 255;
  return whole;
};

for (const [name, layer, offset] of [
  ['TCP', tcp(), 16],
  ['UDP', udp(), 6],
] as const) {
  test(`a partial ${name} checksum is completed, or left to the kernel with its places`, (t) => {
    const frame = partialFrame(layer, 700);
    t.truthy(faultOf(frame));
    const completing = new Loop({ partialChecksums: true });
    completing.kernel.receive(frame);
    completing.turn(true);
    completing.kernel.transmit(1);
    t.is(faultOf(completing.kernel.sent[0]!.frame), undefined);
    t.is(completing.counter('checksums'), 1);
    const leaving = new Loop({ partialChecksums: true, txChecksum: true });
    leaving.kernel.receive(frame);
    leaving.turn();
    leaving.kernel.transmit(1);
    t.deepEqual(leaving.kernel.sent[0]!.partial, [34, offset]);
    t.deepEqual(Buffer.from(leaving.kernel.sent[0]!.frame), Buffer.from(frame));
  });
}
