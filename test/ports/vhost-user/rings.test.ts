import test from 'ava';
import fc from 'fast-check';
import { truncate } from '#contract/os.ts';
import { BROKEN_HEAD, BROKEN_INDEX, BROKEN_LOOP, STATE_BROKEN, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import type { DriverOptions } from './driver.ts';
import { GUEST_BASE, MEMORY_BYTES } from './driver.ts';
import { forward, forwardUnread, TestPort } from './test-port.ts';

const frameOf = (length: number, seed: number): Buffer => {
  const frame = Buffer.alloc(length);
  for (let i = 0; i < length; i++) frame[i] = (seed * 31 + i * 7 + (i >> 8)) & 0xff;
  // A type that no offload or tag code looks at.
  frame.writeUInt16BE(0x88b5, 12);
  return frame;
};

const length = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 14, max: 400 }) },
  { weight: 3, arbitrary: fc.integer({ min: 400, max: 9000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 9000, max: 65_549 }) },
);
const cuts = fc.oneof(
  fc.constant<number[]>([]),
  fc.constantFrom([10], [12], [5, 12, 26]),
  fc.uniqueArray(fc.integer({ min: 1, max: 2000 }), { maxLength: 12 }).map((list) => list.sort((a, b) => a - b)),
);
const shape = fc.record({ cuts, indirect: fc.boolean() });
const side = fc.record({
  size: fc.constantFrom(64, 256, 1024),
  legacy: fc.boolean(),
  mergeable: fc.boolean(),
  eventIdx: fc.boolean(),
  // Page-aligned places in the buffers, where many chains will lie across.
  cut: fc.integer({ min: 256, max: 300 }).map((page) => page * 4096),
});

// A frame takes up to 33 buffers of one descriptor more than cuts; all must fit in the ring.
const CUTS_THAT_FIT: Record<number, number> = { 64: 0, 256: 3, 1024: 12 };

const optionsOf = (s: {
  size: number;
  legacy: boolean;
  mergeable: boolean;
  eventIdx: boolean;
  cut: number;
}): DriverOptions => ({
  size: s.size,
  cut: s.cut,
  rx: { headerBytes: s.legacy && !s.mergeable ? 10 : 12, eventIdx: s.eventIdx },
  tx: { mergeable: s.mergeable },
});

test('frames of every size cross byte-exact for random features, ring sizes, chain shapes and ring places', (t) => {
  fc.assert(
    fc.property(
      side,
      side,
      fc.array(fc.record({ length, shape }), { minLength: 1, maxLength: 60 }),
      shape,
      fc.constantFrom(0, 65_500),
      fc.boolean(),
      (a, b, frames, rxShape, startAt, unread) => {
        const options = optionsOf(a);
        const from = new TestPort(1, { ...options, rx: { ...options.rx, headersEmpty: unread } }, startAt);
        const to = new TestPort(2, optionsOf(b), startAt);
        const expected = frames.map((f, i) => frameOf(f.length, i));
        const got: Buffer[] = [];
        const room = b.mergeable ? 2048 : 65_600;
        const round = () => {
          while ((unread ? forwardUnread(from, to) : forward(from, to)) > 0);
          from.driver.txRing.takeUsed();
          for (const { frame, header } of to.driver.receive()) {
            t.is(header.readUInt16LE(0), 0);
            if (header.length === 12) t.true(header.readUInt16LE(10) >= 1);
            got.push(frame);
          }
          from.driver.restart();
        };
        for (const [i, { shape }] of frames.entries()) {
          // Enough receive buffers for the largest frame, posted anew for each turn.
          if (to.driver.rxRing.availIndex === to.driver.rxRing.usedIndex) to.driver.restart();
          const wanted = b.mergeable ? Math.ceil((expected[i]!.length + 12) / room) : 1;
          for (let k = 0; k < wanted; k++)
            t.true(to.driver.post(room, { ...rxShape, cuts: rxShape.cuts.slice(0, CUTS_THAT_FIT[b.size]) }));
          t.true(from.driver.send(expected[i]!, shape));
          round();
        }
        t.deepEqual(
          got.map((f) => f.length),
          expected.map((f) => f.length),
        );
        t.true(got.every((f, i) => f.equals(expected[i]!)));
        t.is(from.counts()['rx_packets'], frames.length);
        t.is(to.counts()['tx_packets'], frames.length);
        t.is(
          to.counts()['tx_bytes'],
          expected.reduce((sum, f) => sum + f.length, 0),
        );
        from.close();
        to.close();
      },
    ),
    { numRuns: 60 },
  );
});

test('rings and buffers more than 4 GiB into a region of more than 4 GiB are reached', (t) => {
  const high = 4.5 * 2 ** 30;
  const from = new TestPort(1, { high, rx: { headersEmpty: true } });
  const to = new TestPort(2, { high });
  const expected = Array.from({ length: 64 }, (_, i) => frameOf(60 + i * 23, i));
  for (const [i, frame] of expected.entries()) {
    from.driver.send(frame);
    to.driver.post(2048);
    if (i % 2) forward(from, to);
    else forwardUnread(from, to);
  }
  t.deepEqual(
    to.driver.receive().map(({ frame }) => frame),
    expected,
  );
  from.close();
  to.close();
});

test('a frame that nobody read is judged by the MTU all the same, its tags aside', (t) => {
  const from = new TestPort(1, { rx: { headersEmpty: true } });
  const to = new TestPort(2, { tx: { mtu: 1500 } });
  const plain = frameOf(1514, 1);
  const tagged = frameOf(1518, 2);
  tagged.writeUInt16BE(0x8100, 12);
  const long = frameOf(1518, 3);
  long.writeUInt16BE(0x0800, 12);
  for (const frame of [plain, tagged, long]) {
    from.driver.send(frame);
    to.driver.post(2048);
  }
  forwardUnread(from, to);
  t.deepEqual(
    to.driver.receive().map(({ frame }) => frame.length),
    [1514, 1518],
  );
  t.is(to.counts()['tx_mtu'], 1);
  from.close();
  to.close();
});

test('bursts cross in order, and one slot goes to ports of different headers', (t) => {
  const from = new TestPort(1);
  const modern = new TestPort(2, { tx: { mergeable: true } });
  const legacy = new TestPort(3, { rx: { headerBytes: 10 } });
  const again = new TestPort(4);
  const expected = Array.from({ length: 100 }, (_, i) => frameOf(60 + i * 17, i));
  for (const frame of expected) {
    from.driver.send(frame);
    for (const port of [modern, legacy, again]) port.driver.post(2048);
  }
  while (forward(from, modern, legacy, again) > 0);
  for (const port of [modern, legacy, again]) {
    const got = port.driver.receive();
    t.is(got.length, 100);
    t.true(got.every(({ frame }, i) => frame.equals(expected[i]!)));
  }
  t.is(from.driver.txRing.takeUsed().length, 100);
  t.like(from.counts(), { rx_packets: 100, rx_bursts: 4 });
  for (const port of [from, modern, legacy, again]) port.close();
});

test('a full ring, a small buffer and a long frame each count under their own name', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2, { tx: { mtu: 1500 } });
  for (let i = 0; i < 5; i++) from.driver.send(frameOf(64, i));
  to.driver.post(2048);
  to.driver.post(2048);
  forward(from, to);
  t.like(to.counts(), { tx_packets: 2, tx_ring_full: 3 });
  to.driver.post(100);
  from.driver.send(frameOf(200, 9));
  forward(from, to);
  t.is(to.counts()['tx_too_big_for_buffer'], 1);
  from.driver.send(frameOf(1515, 9));
  from.driver.send(frameOf(60, 9));
  forward(from, to);
  t.like(to.counts(), { tx_mtu: 1, tx_packets: 3 });
  const tagged = frameOf(1518, 3);
  tagged.writeUInt16BE(0x8100, 12);
  to.driver.post(2048);
  from.driver.send(tagged);
  forward(from, to);
  t.like(to.counts(), { tx_mtu: 1, tx_packets: 4 });
  from.close();
  to.close();
});

const broken = (port: TestPort, ring: number) => new Int32Array(port.driver.state)[ring * STATE_WORDS + STATE_BROKEN];

test('bad transmit descriptors are counted and given back, the frames around them pass', (t) => {
  const to = new TestPort(2);
  const from = new TestPort(1);
  const ring = from.driver.txRing;
  const bad: [name: string, offset: number, length: number, flags: number][] = [
    ['in front of memory', -4096, 64, 0],
    ['behind memory', MEMORY_BYTES, 64, 0],
    ['over the end', MEMORY_BYTES - 32, 64, 0],
    ['of enormous length', 4096, 0xffffffff, 0],
    ['at the end of the address space', 2 ** 53 - GUEST_BASE, 64, 0],
    ['of length 0', 4096, 0, 0],
    ['writable', 1 << 20, 128, 2],
    ['indirect, not whole', 1 << 20, 40, 4],
    ['indirect, empty', 1 << 20, 0, 4],
    ['indirect and next', 1 << 20, 32, 5],
    ['indirect outside', MEMORY_BYTES, 32, 4],
  ];
  for (const [i, [, offset, length, flags]] of bad.entries()) {
    from.driver.send(frameOf(64, i));
    const head = ring.nextDesc++;
    ring.putDesc(ring.base + 16 * head, offset, length, flags, 0);
    ring.putHead(head);
    to.driver.post(2048);
  }
  while (forward(from, to) > 0);
  t.is(to.driver.receive().length, bad.length);
  t.is(ring.takeUsed().length, 2 * bad.length);
  t.is(from.counts()['rx_bad_descriptor'], bad.length);
  t.is(broken(from, 1), 0);
  from.close();
  to.close();
});

test('short and oversize frames and false offload fields are dropped under their names', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2);
  to.driver.post(2048);
  from.driver.send(frameOf(14, 0).subarray(0, 13));
  from.driver.send(frameOf(14, 0).subarray(0, 0));
  from.driver.send(frameOf(65_600, 0));
  from.driver.send(frameOf(2000, 0), { cuts: Array.from({ length: 190 }, (_, i) => 300 + i * 2), indirect: true });
  const header = Buffer.alloc(12);
  header[0] = 1;
  header.writeUInt16LE(60, 6);
  header.writeUInt16LE(16, 8);
  from.driver.send(frameOf(64, 0), undefined, header);
  header[1] = 1;
  from.driver.send(frameOf(640, 0), undefined, header);
  from.driver.send(frameOf(64, 0));
  // A burst ends at a few bad chains.
  for (let burst = 0; burst < 4; burst++) forward(from, to);
  t.like(from.counts(), { rx_short_frame: 2, rx_oversize: 2, rx_bad_offload: 2, rx_packets: 1 });
  t.true(to.driver.receive()[0]!.frame.equals(frameOf(64, 0)));
  from.close();
  to.close();
});

test('senseless rings stop with a reason: index jump, head outside, loop', (t) => {
  const cases: [reason: number, set: (port: TestPort, ring: 'rxRing' | 'txRing') => void][] = [
    [BROKEN_INDEX, (port, ring) => port.driver[ring].setAvailIndex(300)],
    [BROKEN_HEAD, (port, ring) => port.driver[ring].putHead(256)],
    [
      BROKEN_LOOP,
      (port, name) => {
        const ring = port.driver[name];
        const write = name === 'rxRing' ? 2 : 0;
        ring.putDesc(ring.base, 1 << 20, 1, 1 | write, 1);
        ring.putDesc(ring.base + 16, 1 << 20, 1, 1 | write, 0);
        ring.putHead(0);
      },
    ],
  ];
  for (const [reason, set] of cases) {
    const from = new TestPort(1);
    const to = new TestPort(2);
    set(from, 'txRing');
    t.is(forward(from, to), 0);
    t.is(broken(from, 1), reason);
    t.is(from.counts()['rx_bad_descriptor'], 1);
    t.is(forward(from, to), 0);

    const good = new TestPort(3);
    set(to, 'rxRing');
    good.driver.send(frameOf(64, 1));
    good.driver.send(frameOf(64, 2));
    t.is(forward(good, to), 2);
    t.is(broken(to, 0), reason);
    t.false('tx_packets' in to.counts());
    good.driver.send(frameOf(64, 3));
    forward(good, to);
    t.true(to.counts()['tx_port_down']! > 0);
    for (const port of [from, to, good]) port.close();
  }
});

test('bad receive buffers go back empty and do not block the ring', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2, { tx: { mergeable: true } });
  const ring = to.driver.rxRing;
  for (const [offset, length, flags] of [
    [MEMORY_BYTES - 8, 2048, 2],
    [1 << 20, 2048, 0],
    [1 << 20, 4, 2],
    [1 << 20, 0, 2],
  ] as const) {
    const head = ring.nextDesc++;
    ring.putDesc(ring.base + 16 * head, offset, length, flags, 0);
    ring.chains.set(head, []);
    ring.putHead(head);
    from.driver.send(frameOf(64, 0));
  }
  to.driver.post(2048);
  from.driver.send(frameOf(64, 7));
  while (forward(from, to) > 0);
  t.deepEqual(
    ring.takeUsed().map(([, bytes]) => bytes),
    [0, 0, 0, 0, 76],
  );
  t.like(to.counts(), { tx_bad_descriptor: 4, tx_packets: 1 });
  from.close();
  to.close();
});

test('random garbage in rings and tables never does harm', (t) => {
  fc.assert(
    fc.property(fc.infiniteStream(fc.integer({ min: 0, max: 0xffffffff })), fc.nat(256), (words, index) => {
      const from = new TestPort(1);
      const to = new TestPort(2);
      for (const ring of [from.driver.txRing, to.driver.rxRing]) {
        for (let i = 0; i < 256; i++) {
          // Half of the addresses are near the truth, so that walks go deep.
          const word = words.next().value;
          ring.putDesc(
            ring.base + 16 * i,
            word & 1 ? word : word % MEMORY_BYTES,
            word & 2 ? word >>> 20 : word,
            word >>> 29,
            word & 0xff,
          );
          ring.view.setUint16(ring.availAt + 4 + 2 * i, word & 4 ? i : word & 0x1ff, true);
        }
        ring.setAvailIndex(index);
      }
      for (let i = 0; i < 20; i++) t.true(forward(from, to) <= 32);
      from.close();
      to.close();
    }),
    { numRuns: 60 },
  );
});

test('memory that the guest takes away reads as zeros', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2);
  from.driver.send(frameOf(1000, 1));
  to.driver.post(2048);
  truncate(from.driver.fd, 1 << 18);
  t.is(forward(from, to), 1);
  t.is(to.driver.receive()[0]!.frame.length, 1000);
  truncate(from.driver.fd, 0);
  t.is(forward(from, to), 0);
  from.close();
  to.close();
});

test('kicks are wanted only while armed, with and without event indices', (t) => {
  for (const eventIdx of [false, true]) {
    const port = new TestPort(1, { rx: { eventIdx } });
    const ring = port.driver.txRing;
    const rx = port.port.rx[0]!;
    const flags = () => ring.view.getUint16(ring.usedAt, true);
    const event = () => ring.view.getUint16(ring.usedAt + 4 + 8 * ring.size, true);
    t.false(rx.arm());
    if (eventIdx) t.is(event(), 0);
    else t.is(flags(), 0);
    rx.disarm();
    if (eventIdx) t.is(event(), 0xffff);
    else t.is(flags(), 1);
    port.driver.send(frameOf(64, 0));
    t.true(rx.arm());
    if (eventIdx) t.is(event(), 0xffff);
    else t.is(flags(), 1);
    port.close();
  }
});
