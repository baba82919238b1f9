import test from 'ava';
import { eventfdDrain } from '#contract/os.ts';
import { clonePacket } from '#datapath/actions/clone.ts';
import { pushVlan } from '#datapath/actions/vlan.ts';
import { RING_RX } from '#ports/ivshmem/layout.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';
import { balanced, batch, endPool, forward, frameOf, makePool, Side } from './rig.ts';

const withSides = (count: number, work: (sides: Side[], pool: Pool) => void, mtu = 1500, shape = {}) => {
  const pool = makePool(shape);
  const sides = Array.from({ length: count }, (_, i) => new Side(pool, i + 1, { mtu }));
  try {
    work(sides, pool);
  } finally {
    for (const side of sides) side.kill();
    endPool(pool);
  }
};

for (const whole of [false, true]) {
  const kind = whole ? 'unread' : 'read';
  test(`a frame whose headers are ${kind} reaches a client of the pool in the buffer it was built in, not a byte copied`, (t) => {
    withSides(2, ([a, b], pool) => {
      const sizes = [14, 60, 189, 190, 191, 1514];
      const sent = sizes.map((length) => a!.peer.send(frameOf(length, length))!);
      t.is(forward(a!, [b!], whole), sizes.length);
      const got = b!.peer.receive();
      t.deepEqual(got, sent);
      // The same memory: what the sender's mapping writes now, the receiver sees.
      a!.peer.u8[a!.peer.at(sent[0]![0]!)] = 0xee;
      t.is(b!.peer.u8[b!.peer.at(got[0]![0]!)], 0xee);
      t.deepEqual(b!.peer.bytes(got[5]!), frameOf(1514, 1514));
      const bytes = sizes.reduce((sum, n) => sum + n, 0);
      t.deepEqual(b!.counts(), { tx_packets: 6, tx_bytes: bytes, tx_bursts: 1, zero_copy_packets: 6 });
      t.deepEqual(a!.counts(), { rx_packets: 6, rx_bytes: bytes, rx_bursts: 1 });
      t.true(balanced(pool));
      t.deepEqual(pool.holdings(2), { sending: 48, receiving: 6 });
      // The sender got others in their place.
      t.deepEqual(pool.holdings(1), { sending: 48, receiving: 0 });
      b!.peer.giveBack(got);
      forward(b!, [a!]);
      a!.peer.send(frameOf(60));
      forward(a!, [b!], whole);
      t.deepEqual(pool.holdings(2), { sending: 48, receiving: 1 });
    });
  });
}

test('a dropped frame goes straight back to its sender', (t) => {
  withSides(1, ([a], pool) => {
    const before = pool.audit();
    const [piece] = a!.peer.send(frameOf(100))!;
    t.is(forward(a!, []), 1);
    t.deepEqual(pool.audit(), before);
    const ring = a!.peer.entries(1);
    t.is(ring[48 & 63], piece!.buffer);
  });
});

test('a jumbo frame passes by reference, all its buffers', (t) => {
  withSides(
    2,
    ([a, b], pool) => {
      const frame = frameOf(9014);
      const sent = a!.peer.send(frame)!;
      t.is(sent.length, 5);
      const tiny = a!.peer.send(frameOf(100, 3), 20)!;
      t.is(tiny.length, 5);
      t.is(forward(a!, [b!]), 2);
      const got = b!.peer.receive();
      t.deepEqual(got, [sent, tiny]);
      t.deepEqual(b!.peer.bytes(got[0]!), frame);
      t.is(b!.counts()['copied_bytes'], undefined);
      t.is(b!.counts()['zero_copy_packets'], 2);
      b!.peer.giveBack(got);
      forward(b!, [a!]);
      a!.peer.send(frameOf(60));
      forward(a!, [b!], true);
      t.true(balanced(pool));
      t.is(pool.holdings(2).receiving, 1);
    },
    9000,
  );
});

test('a flooded frame is one buffer in several rings, free when the last has returned it', (t) => {
  withSides(4, ([a, b, c, d], pool) => {
    const idle = pool.audit().free;
    const sent = a!.peer.send(frameOf(1000))!;
    forward(a!, [b!, c!, d!]);
    const got = [b!, c!, d!].map((side) => side.peer.receive());
    for (const frames of got) t.deepEqual(frames, [sent]);
    t.is(pool.audit().shared, 1);
    t.is(pool.audit().free, idle - 1);
    // A second frame makes the switch look at the returns.
    const round = (side: Side, frames: (typeof got)[number]) => {
      side.peer.giveBack(frames);
      a!.peer.send(frameOf(60));
      forward(a!, [side]);
      side.peer.giveBack(side.peer.receive());
    };
    round(b!, got[0]!);
    t.is(pool.audit().shared, 1);
    round(c!, got[1]!);
    t.is(pool.audit().shared, 0);
    d!.kill();
    t.true(balanced(pool));
    t.is(pool.audit().receiving, 2);
    for (const side of [b!, c!]) side.port.tx!.push(batch, new Int32Array(0), 0);
    t.is(pool.audit().receiving, 0);
  });
});

/** Polls, lets `act` edit and list slots, sends the lists. */
const run = (from: Side, act: () => [Side, number[]][]) => {
  const rx = from.port.rx[0]!;
  rx.poll(batch);
  const out = act();
  for (const [side, slots] of out) side.port.tx!.push(batch, Int32Array.from(slots), slots.length);
  batch.copy();
  for (const [side] of out) side.port.tx!.publish();
  rx.complete();
  batch.clear();
};

const tagged = (frame: Uint8Array, tci: number) =>
  Uint8Array.from([...frame.subarray(0, 12), 0x81, 0, tci >> 8, tci & 0xff, ...frame.subarray(12)]);

const tag = (slot: number, tci: number) => {
  batch.edited[slot] = 1;
  pushVlan(batch, slot, (0x8100 << 16) | 0x1000 | tci);
};

test('an edited frame that goes to one client is changed in place, in its head-room', (t) => {
  withSides(3, ([a, b, c]) => {
    const frame = frameOf(1000);
    const [sent] = a!.peer.send(frame)!;
    run(a!, () => {
      tag(0, 5);
      return [
        [b!, [0]],
        [c!, [0]],
      ];
    });
    const got = b!.peer.receive();
    t.deepEqual(got, [[{ buffer: sent!.buffer, offset: sent!.offset - 4, length: 1004 }]]);
    t.deepEqual(b!.peer.bytes(got[0]!), tagged(frame, 5));
    // The header window and no more; for the second client nothing.
    t.is(b!.counts()['copied_bytes'], 194);
    t.deepEqual(c!.peer.receive(), got);
    t.is(c!.counts()['copied_bytes'], undefined);
    t.is(c!.counts()['zero_copy_packets'], 1);
  });
});

for (const editedFirst of [false, true]) {
  test(`who gets the frame as it was is not disturbed by its edited copy, pushed ${editedFirst ? 'before' : 'after'} it`, (t) => {
    withSides(4, ([a, b, c, d]) => {
      const frame = frameOf(1000);
      a!.peer.send(frame);
      run(a!, () => {
        const copies = [1, 2].map((n) => {
          const copy = clonePacket(batch, 0);
          tag(copy, n);
          return copy;
        });
        const out: [Side, number[]][] = [
          [b!, [0]],
          [c!, [copies[0]!]],
          [d!, [copies[1]!]],
        ];
        return editedFirst ? out.reverse() : out;
      });
      const read = (side: Side) => side.peer.bytes(side.peer.receive()[0]!);
      t.deepEqual(read(b!), frame);
      t.deepEqual(read(c!), tagged(frame, 1));
      t.deepEqual(read(d!), tagged(frame, 2));
    });
  });
}

test('an edit that leaves the length as it is does not reach who gets the frame unedited', (t) => {
  withSides(3, ([a, b, c]) => {
    const frame = frameOf(1000);
    a!.peer.send(frame);
    run(a!, () => {
      const copy = clonePacket(batch, 0);
      batch.edited[copy] = 1;
      batch.u8[batch.start[copy]!] = 0x5a;
      return [
        [b!, [copy]],
        [c!, [0]],
      ];
    });
    const edited = Uint8Array.from(frame);
    edited[0] = 0x5a;
    t.deepEqual(b!.peer.bytes(b!.peer.receive()[0]!), edited);
    t.deepEqual(c!.peer.bytes(c!.peer.receive()[0]!), frame);
    t.is(b!.counts()['copied_bytes'], 190);
    t.is(c!.counts()['copied_bytes'], 1000);
  });
});

test('an edited frame without head-room, or with a window in two buffers, is copied', (t) => {
  withSides(2, ([a, b], pool) => {
    const frame = frameOf(300);
    a!.peer.send(frame, 2048, 0);
    a!.peer.send(frame, 100);
    run(a!, () => {
      tag(0, 1);
      tag(1, 2);
      return [[b!, [0, 1]]];
    });
    const got = b!.peer.receive();
    t.deepEqual(
      got.map((pieces) => b!.peer.bytes(pieces)),
      [tagged(frame, 1), tagged(frame, 2)],
    );
    t.is(b!.counts()['copied_bytes'], 608);
    t.is(b!.counts()['zero_copy_packets'], undefined);
    t.true(balanced(pool));
  });
});

test('a frame that was made from another (encapsulated) lies in no buffer, and is copied', (t) => {
  withSides(3, ([a, b, c]) => {
    const frame = frameOf(1000);
    for (let turn = 0; turn < 2; turn++) {
      a!.peer.send(frame);
      run(a!, () => {
        const made = clonePacket(batch, 0);
        batch.edited[made] = 1;
        batch.u8[batch.start[made]!] = turn;
        // The second time the slot has what the first turn left in it.
        batch.buffer[made] = turn === 0 ? batch.buffer[0]! : -1;
        return [[turn === 0 ? b! : c!, [made]]];
      });
    }
    t.is(c!.peer.bytes(c!.peer.receive()[0]!)[0], 1);
    t.is(b!.peer.bytes(b!.peer.receive()[0]!)[0], 0);
    t.is(c!.counts()['copied_bytes'], 1000);
  });
});

test('the same frame twice to one port: once by reference, once as a copy', (t) => {
  withSides(2, ([a, b], pool) => {
    const frame = frameOf(500);
    a!.peer.send(frame);
    run(a!, () => [[b!, [0, 0]]]);
    const got = b!.peer.receive();
    t.is(got.length, 2);
    t.not(got[0]![0]!.buffer, got[1]![0]!.buffer);
    for (const pieces of got) t.deepEqual(b!.peer.bytes(pieces), frame);
    t.is(b!.counts()['copied_bytes'], 500);
    t.true(balanced(pool));
  });
});

for (const whole of [false, true]) {
  test(`between two pools every byte is copied once, ${whole ? 'unread' : 'read'} frames and jumbo ones too`, (t) => {
    const pools = [makePool(), makePool()];
    const [a, b] = pools.map((pool) => new Side(pool, 1, { mtu: 9000 }));
    const frames = [60, 190, 1000, 1920, 1921, 9014].map((length) => frameOf(length, length));
    for (const frame of frames) a!.peer.send(frame);
    t.is(forward(a!, [b!], whole), frames.length);
    const got = b!.peer.receive();
    t.deepEqual(
      got.map((pieces) => b!.peer.bytes(pieces)),
      frames,
    );
    const bytes = frames.reduce((sum, { length }) => sum + length, 0);
    t.is(b!.counts()['copied_bytes'], bytes);
    t.is(b!.counts()['tx_bytes'], bytes);
    t.is(b!.counts()['zero_copy_packets'], undefined);
    for (const pieces of got) t.is(pieces[0]!.offset, 128);
    // The sender's buffers are its own again.
    t.is(pools[0]!.holdings(1).sending, 48);
    for (const pool of pools) t.true(balanced(pool));
    a!.kill();
    b!.kill();
    for (const pool of pools) endPool(pool);
  });
}

test('more frames than the ring holds wait for returns; the rest is dropped and counted', (t) => {
  withSides(2, ([a, b], pool) => {
    let sent = 0;
    for (let turn = 0; turn < 4; turn++) {
      for (let i = 0; i < 32 && a!.peer.send(frameOf(60)); i++) sent++;
      forward(a!, [b!]);
    }
    t.is(sent, 128);
    t.is(b!.counts()['tx_packets'], 64);
    t.is(b!.counts()['tx_ring_full'], 64);
    t.true(balanced(pool));
    b!.peer.giveBack(b!.peer.receive());
    a!.peer.send(frameOf(60));
    forward(a!, [b!]);
    t.is(b!.counts()['tx_packets'], 65);
    t.is(pool.holdings(2).receiving, 1);
  });
});

test('a pool without free buffers: senders run short, copies are dropped and counted, returns set it going again', (t) => {
  const pool = makePool({ size: 1 << 18, slots: 3, queues: 1, entries: 64, credit: 32 });
  const other = makePool();
  const [a, b] = [1, 2].map((slot) => new Side(pool, slot));
  const c = new Side(other, 1);
  const free = pool.audit().free;
  for (let sent = 0; sent < free; sent++) {
    a!.peer.send(frameOf(60));
    forward(a!, [b!]);
  }
  t.is(pool.audit().free, 0);
  c.peer.send(frameOf(60));
  forward(c, [b!]);
  t.is(b!.counts()['tx_pool_empty'], 1);
  a!.peer.send(frameOf(60));
  forward(a!, [b!]);
  t.is(pool.holdings(1).sending, 31);
  b!.peer.giveBack(b!.peer.receive());
  // Nothing more is sent: polling alone makes up for what the sender lacks.
  for (let i = 0; i < 64; i++) a!.port.rx[0]!.poll(batch);
  t.is(pool.holdings(1).sending, 32);
  t.true(balanced(pool));
  for (const side of [a!, b!, c]) side.kill();
  endPool(pool);
  endPool(other);
});

test('frames longer than the MTU are dropped, tagged ones get four bytes more', (t) => {
  withSides(2, ([a, b]) => {
    for (const whole of [false, true]) {
      a!.peer.send(frameOf(1515));
      const vlan = tagged(frameOf(1514), 7);
      a!.peer.send(vlan);
      forward(a!, [b!], whole);
      const got = b!.peer.receive();
      t.is(got.length, 1);
      t.is(got[0]![0]!.length, 1518);
    }
    t.is(b!.counts()['tx_mtu'], 2);
  });
});

test('a client is called only while it asks for it, for frames and for buffers', (t) => {
  withSides(2, ([a, b]) => {
    a!.peer.send(frameOf(60));
    forward(a!, [b!]);
    t.true(eventfdDrain(b!.callFds[0]!) < 0);
    b!.peer.header(RING_RX)[16] = 1;
    a!.peer.header(1)[16] = 1;
    a!.peer.send(frameOf(60));
    forward(a!, [b!]);
    t.is(eventfdDrain(b!.callFds[0]!), 1);
    t.is(eventfdDrain(a!.callFds[0]!), 1);
    t.is(b!.counts()['calls'], 1);
    t.is(a!.counts()['calls'], 1);
  });
});
