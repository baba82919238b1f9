import test from 'ava';
import fc from 'fast-check';
import { eventfdDrain, eventfdSignal, takeFaults, truncate } from '#contract/os.ts';
import { PacketBatch, WINDOW } from '#datapath/packet/batch.ts';
import { BROKEN_BUFFER, BROKEN_INDEX, STATE_BROKEN, STATE_WORDS } from '#ports/memif/ring.ts';
import { eth, faultOf, filler, ipv4, onesSum, packet, tcp } from '../../support/packets.ts';
import { TestPort } from '../vhost-user/test-port.ts';
import { batch, DESC, forward, HEAD, Peer, type PeerOptions, scratchRange, TAIL } from './peer.ts';

const frameOf = (length: number, seed: number): Buffer => {
  const frame = Buffer.alloc(length);
  for (let i = 0; i < length; i++) frame[i] = (seed * 31 + i * 7 + (i >> 8)) & 0xff;
  frame.writeUInt16BE(0x88b5, 12);
  return frame;
};

const state = (peer: Peer, s2m: boolean): number =>
  new Int32Array(peer.attachment.state)[(s2m ? 1 : 0) * STATE_WORDS + STATE_BROKEN]!;

const length = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 14, max: 400 }) },
  { weight: 3, arbitrary: fc.integer({ min: 400, max: 9000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 9000, max: 20_000 }) },
);
const side: fc.Arbitrary<PeerOptions> = fc.record({
  role: fc.constantFrom('server' as const, 'client' as const),
  log2RingSize: fc.integer({ min: 6, max: 9 }),
  bufferSize: fc.constantFrom(512, 1001, 2048, 9216),
  regions: fc.integer({ min: 1, max: 3 }),
});

test('frames of every size cross byte-exact, whatever the roles, sizes, regions, chains and places in the ring', async (t) => {
  const roles = new Set<string>();
  await fc.assert(
    fc.asyncProperty(
      side,
      side,
      fc.array(fc.record({ length, cuts: fc.array(fc.integer({ min: 1, max: 600 }), { maxLength: 4 }) }), {
        minLength: 1,
        maxLength: 60,
      }),
      fc.constantFrom(0, 65_500),
      fc.boolean(),
      async (a, b, frames, start, whole) => {
        const from = await Peer.make(1, a);
        const to = await Peer.make(2, b);
        try {
          if (start > 0) for (const peer of [from, to]) peer.startAt(start);
          const sent: Buffer[] = [];
          const got: Buffer[] = [];
          const drain = () => {
            while (forward(from, [to], whole) > 0) got.push(...to.receive());
          };
          let taken = 0;
          for (const [i, shape] of frames.entries()) {
            const frame = frameOf(shape.length, i);
            const buffers = Math.ceil(frame.length / to.options.bufferSize);
            if (taken + buffers > to.size) {
              drain();
              taken = 0;
            }
            taken += buffers;
            if (!from.send(frame, shape.cuts)) {
              drain();
              if (!from.send(frame, shape.cuts)) continue;
            }
            // Longer than the whole receiving ring: a drop, told apart below.
            if (frame.length <= to.size * to.options.bufferSize) sent.push(frame);
          }
          drain();
          roles.add(`${a.role} ${b.role}`);
          t.deepEqual(
            got.map(({ length: n }) => n),
            sent.map(({ length: n }) => n),
          );
          t.true(got.every((frame, i) => frame.equals(sent[i]!)));
          const bytes = sent.reduce((sum, { length: n }) => sum + n, 0);
          t.is(to.counts()['copied_bytes'] ?? 0, bytes);
          t.is(from.counts()['rx_packets'], frames.length);
        } finally {
          await from.close();
          await to.close();
        }
      },
    ),
    { numRuns: 40 },
  );
  t.is(roles.size, 4);
});

test('a frame that nobody reads stays where it is until it is copied', async (t) => {
  const from = await Peer.make(1);
  const rx = from.port.rx[0]!;
  from.send(frameOf(1000, 1));
  from.send(frameOf(1000, 2), [300, 700]);
  t.is(rx.poll(batch, true), 2);
  t.is(batch.headLength[0], 0);
  t.is(batch.segmentLength[batch.segmentFirst[0]!], 1000);
  t.is(batch.headLength[1], WINDOW);
  rx.complete();
  batch.clear();
  await from.close();
});

for (const role of ['server', 'client'] as const) {
  test(`role ${role}: a full ring drops what does not fit, and nothing else`, async (t) => {
    const from = await Peer.make(1);
    const to = await Peer.make(2, { role, log2RingSize: 4 });
    for (let i = 0; i < 20; i++) from.send(frameOf(64, i));
    t.is(forward(from, [to]), 20);
    t.is(to.counts()['tx_ring_full'], 4);
    t.is(to.counts()['tx_packets'], 16);
    t.deepEqual(
      to.receive(),
      Array.from({ length: 16 }, (_, i) => frameOf(64, i)),
    );
    from.send(frameOf(64, 30));
    forward(from, [to]);
    t.deepEqual(to.receive(), [frameOf(64, 30)]);
    await from.close();
    await to.close();
  });

  test(`role ${role}: longer than the MTU, or than all buffers together, is dropped by name`, async (t) => {
    const from = await Peer.make(1, { bufferSize: 9216 });
    const to = await Peer.make(2, { role, log2RingSize: 2, bufferSize: 512, mtu: 3000 });
    for (const bytes of [3014, 3015, 2049, 2048]) {
      from.send(frameOf(bytes, 1));
      forward(from, [to]);
      const got = to.receive();
      t.deepEqual(
        got.map((frame) => frame.length),
        bytes === 2048 ? [2048] : [],
      );
    }
    t.is(to.counts()['tx_mtu'], 1);
    t.is(to.counts()['tx_too_big_for_buffer'], 2);
    await from.close();
    await to.close();
  });

  test(`role ${role}: a TCP frame is segmented, all or none, and what was taken for it is offered again`, async (t) => {
    const from = new TestPort(1);
    const to = await Peer.make(2, { role, log2RingSize: 3, bufferSize: 1000, mtu: 1500 });
    const payload = filler(5000, 1);
    const made = packet(eth(), ipv4(), tcp(), payload);
    const partial = Buffer.from(made);
    const tail = Buffer.from([0, 0, (made.length - 34) >> 8, (made.length - 34) & 0xff, 0, 6]);
    partial.writeUInt16BE(onesSum(Buffer.concat([partial.subarray(26, 34), tail])), 50);
    const header = Buffer.alloc(12);
    header.set([1, 1, 54, 0]);
    header.writeUInt16LE(1400, 4);
    header.writeUInt16LE(34, 6);
    header.writeUInt16LE(16, 8);
    const send = () => {
      from.driver.send(partial, undefined, header);
      forward(from as unknown as Peer, [to]);
    };
    // Four segments in seven of the eight buffers.
    send();
    const first = to.receive();
    t.is(first.length, 4);
    t.true(first.every((frame) => faultOf(frame) === undefined));
    t.true(Buffer.concat(first.map((frame) => frame.subarray(54))).equals(payload));
    for (const seed of [1, 2]) from.driver.send(frameOf(64, seed));
    forward(from as unknown as Peer, [to]);
    send();
    t.deepEqual(to.receive(), [frameOf(64, 1), frameOf(64, 2)]);
    t.is(to.counts()['tx_ring_full'], 1);
    t.is(to.counts()['segmented'], 1);
    // One buffer each and whole, as before.
    for (let i = 0; i < 8; i++) from.driver.send(frameOf(1000, i));
    forward(from as unknown as Peer, [to]);
    t.deepEqual(
      to.receive(),
      Array.from({ length: 8 }, (_, i) => frameOf(1000, i)),
    );
    from.close();
    await to.close();
  });

  test(`role ${role}: interrupts are masked while polled, asked for before sleep, and sent where wanted`, async (t) => {
    const peer = await Peer.make(1, { role });
    const view = peer.memory[0]!;
    const [rxRing, txRing] = role === 'server' ? [peer.s2m[0]!, peer.m2s[0]!] : [peer.m2s[0]!, peer.s2m[0]!];
    const rx = peer.port.rx[0]!;
    const { eventFd } = peer.attachment.rings.find(({ s2m }) => s2m !== (role === 'server'))!;
    const flags = () => view.getUint16(rxRing.at + 4, true);
    t.is(flags(), 1);
    t.false(rx.arm());
    t.is(flags(), 0);
    peer.send(frameOf(64, 1));
    eventfdSignal(rx.kickFd);
    rx.disarm();
    t.is(flags(), 1);
    t.is(peer.counts()['kicks'], 1);
    t.true(rx.arm());
    t.is(flags(), 1);

    t.is(eventfdDrain(eventFd) > 0, false);
    view.setUint16(txRing.at + 4, 1, true);
    forward(peer, [peer]);
    t.is(peer.counts()['calls'] ?? 0, 0);
    view.setUint16(txRing.at + 4, 0, true);
    peer.send(frameOf(64, 1));
    forward(peer, [peer]);
    t.is(peer.counts()['calls'], 1);
    t.is(eventfdDrain(eventFd), 1);
    await peer.close();
  });

  test(`role ${role}: a sender's index that jumps costs what is in the ring, a receiver's breaks it`, async (t) => {
    const peer = await Peer.make(1, { role });
    const which = role === 'server' ? HEAD : TAIL;
    const rxRing = role === 'server' ? peer.s2m[0]! : peer.m2s[0]!;
    const txRing = role === 'server' ? peer.m2s[0]! : peer.s2m[0]!;
    peer.memory[0]!.setUint16(rxRing.at + which, 257, true);
    t.is(peer.port.rx[0]!.poll(batch), 0);
    t.deepEqual(peer.counts(), { rx_bad_descriptor: 1 });
    t.is(peer.index(rxRing, HEAD), role === 'server' ? 257 : 257 + 256);
    t.is(peer.index(rxRing, TAIL), 257);
    rxRing.cursor = 257;
    for (let i = 0; i < 300; i++) {
      t.true(peer.send(frameOf(64, i)));
      t.is(forward(peer, [peer]), 1);
      t.deepEqual(peer.receive(), [frameOf(64, i)]);
    }
    const other = await Peer.make(2);
    other.send(frameOf(64, 1));
    const ahead = role === 'server' ? peer.index(txRing, TAIL) + 257 : peer.index(txRing, HEAD) + 1;
    peer.memory[0]!.setUint16(txRing.at + which, ahead, true);
    peer.port.close();
    peer.port = peer.attach(0, 1);
    forward(other, [peer]);
    t.is(peer.counts()['tx_port_down'], 1);
    t.is(state(peer, role !== 'server'), BROKEN_INDEX);
    t.regex(
      peer.device.broken()!,
      /ring 0: the index of taken packets or offered buffers is ahead by more than the ring/,
    );
    await peer.close();
    await other.close();
  });
}

test('a bad descriptor costs its own frame: region, offset, length, and a chain that does not end', async (t) => {
  const from = await Peer.make(1);
  const to = await Peer.make(2);
  const bytes = from.memory[0]!.byteLength;
  const edits: [(d: number) => void, string][] = [
    [(d) => from.memory[0]!.setUint16(d + 2, 1, true), 'rx_bad_descriptor'],
    [(d) => from.memory[0]!.setUint32(d + 8, bytes - 63, true), 'rx_bad_descriptor'],
    [(d) => from.memory[0]!.setUint32(d + 8, 0xffffffff, true), 'rx_bad_descriptor'],
    [(d) => from.memory[0]!.setUint32(d + 4, 0xffffffff, true), 'rx_bad_descriptor'],
    [(d) => from.memory[0]!.setUint32(d + 4, 65_558, true), 'rx_oversize'],
    [(d) => from.memory[0]!.setUint32(d + 4, 13, true), 'rx_short_frame'],
    [(d) => from.memory[0]!.setUint32(d + 4, 0, true), 'rx_short_frame'],
  ];
  const ring = from.s2m[0]!;
  for (const [edit, reason] of edits) {
    const before = from.counts()[reason] ?? 0;
    from.send(frameOf(64, 1));
    from.send(frameOf(64, 2));
    edit(ring.at + DESC + 16 * ((ring.cursor - 2) & (from.size - 1)));
    t.is(forward(from, [to]), 1, reason);
    t.deepEqual(to.receive(), [frameOf(64, 2)]);
    t.is(from.counts()[reason], before + 1);
  }
  const bad = from.counts()['rx_bad_descriptor']!;
  from.send(frameOf(64, 1));
  from.memory[0]!.setUint16(ring.at + DESC + 16 * ((ring.cursor - 1) & (from.size - 1)), 1, true);
  t.is(forward(from, [to]), 0);
  t.is(from.counts()['rx_bad_descriptor'], bad + 1);
  t.is(from.index(ring, TAIL), from.index(ring, HEAD));
  // The flag that the sender left is gone with the buffer.
  t.is(from.memory[0]!.getUint16(ring.at + DESC + 16 * ((ring.cursor - 1) & (from.size - 1)), true), 0);
  await from.close();
  await to.close();
});

test('a chain of more pieces than a packet has is dropped whole', async (t) => {
  const from = await Peer.make(1, { log2RingSize: 9 });
  from.send(frameOf(600, 1), new Array(400).fill(1));
  from.send(frameOf(400, 2));
  const to = await Peer.make(2);
  while (forward(from, [to]) > 0);
  t.is(from.counts()['rx_oversize'], 1);
  t.deepEqual(to.receive(), [frameOf(400, 2)]);
  from.send(frameOf(64, 3));
  forward(from, [to]);
  t.deepEqual(to.receive(), [frameOf(64, 3)]);
  await from.close();
  await to.close();
});

test('a bad buffer that a client offers breaks the ring: it would be in the way for ever', async (t) => {
  const from = await Peer.make(1);
  for (const [at, value] of [
    [4, 0],
    [8, 0xffff_fff0],
  ] as const) {
    const to = await Peer.make(2);
    to.memory[0]!.setUint32(to.m2s[0]!.at + DESC + at, value, true);
    from.send(frameOf(64, 1));
    forward(from, [to]);
    t.is(state(to, false), BROKEN_BUFFER);
    t.is(to.counts()['tx_bad_descriptor'], 1);
    t.regex(to.device.broken()!, /M2S ring 0: a buffer offered for packets is empty or outside/);
    await to.close();
  }
  await from.close();
});

test('whatever lies in descriptors and indices, no copy leaves the memory of the peer and the scratch', async (t) => {
  const word = fc.oneof(fc.nat(3), fc.nat(0xffff), fc.nat(0xffffffff), fc.constantFrom(0x10000, 1, 64, 2048));
  const edits = fc.array(fc.record({ ring: fc.nat(1), entry: fc.nat(15), field: fc.nat(3), word }), { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(side, edits, fc.nat(20), fc.nat(20), fc.boolean(), async (shape, list, head, tail, whole) => {
      const peer = await Peer.make(3, { ...shape, log2RingSize: 4 });
      const other = await Peer.make(4);
      try {
        const view = peer.memory[0]!;
        const rings = [peer.s2m[0]!, peer.m2s[0]!];
        for (const { at } of rings) {
          view.setUint16(at + HEAD, head, true);
          view.setUint16(at + TAIL, tail, true);
        }
        for (const edit of list) {
          view.setUint32(rings[edit.ring]!.at + DESC + 16 * edit.entry + 4 * edit.field, edit.word, true);
        }
        batch.allowed = [...peer.ranges(), ...other.ranges(), scratchRange()];
        batch.outside = 0;
        for (let round = 0; round < 5; round++) {
          const n = peer.port.rx[0]!.poll(batch, whole);
          for (let slot = 0; slot < n; slot++) {
            const first = batch.segmentFirst[slot]!;
            for (let s = first; s < first + batch.segmentCount[slot]!; s++) {
              t.true(batch.within(batch.segmentAddress[s]!, batch.segmentLength[s]!));
            }
          }
          if (n > 0) peer.port.rx[0]!.complete();
          batch.clear();
          for (let i = 0; i < 4; i++) other.send(frameOf(50 + 700 * i, i));
          forward(other, [peer]);
          t.is(batch.outside, 0);
        }
      } finally {
        batch.allowed = undefined;
        await peer.close();
        await other.close();
      }
    }),
    { numRuns: 150 },
  );
});

test('a region that is truncated under the worker reads as zeros, and its port is named', async (t) => {
  const peer = await Peer.make(7, { sealed: false });
  const other = await Peer.make(8);
  peer.send(frameOf(1000, 1));
  takeFaults();
  truncate(peer.fds[0]!, 0);
  peer.port.rx[0]!.poll(batch);
  batch.clear();
  other.send(frameOf(64, 1));
  forward(other, [peer]);
  t.deepEqual(
    takeFaults().map(({ owner }) => owner),
    [7],
  );
  await peer.close();
  await other.close();
});

test('a batch of another worker sees the same frames', async (t) => {
  const peer = await Peer.make(1);
  const other = new PacketBatch();
  peer.send(frameOf(150, 5));
  t.is(peer.port.rx[0]!.poll(other), 1);
  t.true(frameOf(150, 5).equals(other.u8.subarray(other.start[0]!, other.start[0]! + 150)));
  t.is(other.inPort, 1);
  await peer.close();
});
