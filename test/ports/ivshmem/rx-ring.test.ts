import test from 'ava';
import { address, mapAnonymous, release } from '#contract/os.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import type { PoolShape } from '#ports/ivshmem/layout.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';
import { eth, faultOf, ipv4, packet, tcp } from '../../support/packets.ts';
import { balanced, batch, endPool, frameOf, makePool, Side } from './rig.ts';

/** Sends frames that lie in private memory, as those of another port do, to a client. */
const deliver = (side: Side, frames: readonly Uint8Array[], prepare = (_slot: number): void => {}): number => {
  const memory = mapAnonymous(1 << 20);
  const bytes = new Uint8Array(memory);
  let at = 0;
  const slots = frames.map((frame) => {
    bytes.set(frame, at);
    const slot = placeFrame(batch, bytes, at, address(memory), frame.length);
    prepare(slot);
    at += frame.length;
    return slot;
  });
  const tx = side.port.tx!;
  const sent = tx.push(batch, Int32Array.from(slots), slots.length);
  batch.copy();
  tx.publish();
  batch.clear();
  release(memory);
  return sent;
};

const withSide = (change: Partial<PoolShape>, mtu: number, work: (side: Side, pool: Pool) => void): void => {
  const pool = makePool(change);
  const side = new Side(pool, 1, { mtu });
  try {
    work(side, pool);
  } finally {
    side.kill();
    endPool(pool);
  }
};

const received = (side: Side): Uint8Array[] => side.peer.receive().map((pieces) => side.peer.bytes(pieces));

/** 5000 bytes of TCP payload in segments of 1460. */
const large = Uint8Array.from(packet(eth(), ipv4(), tcp(), frameOf(5000)));
const asGso = (slot: number): void => {
  batch.vnetFlags[slot] = 1;
  batch.gsoType[slot] = 1;
  batch.gsoSize[slot] = 1460;
  batch.vnetHeaderLength[slot] = 54;
  batch.csumStart[slot] = 34;
  batch.csumOffset[slot] = 16;
};
const asPlain = (slot: number): void => {
  for (const field of ['vnetFlags', 'gsoType', 'gsoSize', 'vnetHeaderLength', 'csumStart', 'csumOffset'] as const) {
    batch[field][slot] = 0;
  }
};

test('frames of other ports are copied once, behind the head-room, into as many buffers as they need', (t) => {
  withSide({}, 9000, (side, pool) => {
    const frames = [60, 1514, 1920, 1921, 9014].map((length) => frameOf(length, length));
    t.is(deliver(side, frames), 5);
    const got = side.peer.receive();
    t.deepEqual(
      got.map((pieces) => side.peer.bytes(pieces)),
      frames,
    );
    t.deepEqual(
      got.map((pieces) => pieces.length),
      [1, 1, 1, 2, 5],
    );
    t.is(side.counts()['copied_bytes'], 60 + 1514 + 1920 + 1921 + 9014);
    t.is(pool.holdings(1).receiving, 10);
    t.true(balanced(pool));
  });
});

test('a GSO frame arrives as segments with complete checksums', (t) => {
  withSide({}, 1500, (side) => {
    t.is(deliver(side, [large], asGso), 1);
    asPlain(0);
    const segments = received(side);
    t.deepEqual(
      segments.map(({ length }) => length),
      [1514, 1514, 1514, 674],
    );
    for (const segment of segments) t.is(faultOf(segment), undefined);
    t.deepEqual(Buffer.concat(segments.map((segment) => segment.subarray(54))), Buffer.from(frameOf(5000)));
    t.is(side.counts()['segmented'], 1);
    t.is(side.counts()['tx_packets'], 4);
  });
});

test('a GSO frame for which there is no room is sent not at all, and holds no buffer', (t) => {
  withSide({}, 1500, (side, pool) => {
    const fill = Array.from({ length: 32 }, (_, i) => frameOf(60, i));
    deliver(side, fill);
    deliver(side, fill.slice(0, 30));
    t.is(pool.holdings(1).receiving, 62);
    // Of the same burst, the two frames behind it still fit.
    t.is(
      deliver(side, [large, frameOf(60, 62), frameOf(60, 63)], (slot) => (slot === 0 ? asGso(slot) : asPlain(slot))),
      2,
    );
    asPlain(0);
    t.is(side.counts()['tx_ring_full'], 1);
    t.is(pool.holdings(1).receiving, 64);
    t.true(balanced(pool));
    const got = received(side);
    t.is(got.length, 64);
    t.deepEqual(got.slice(62), [frameOf(60, 62), frameOf(60, 63)]);
  });
});

test('a frame of more pieces than a chain may have is dropped and counted', (t) => {
  withSide({ bufferBytes: 256, headroom: 0, entries: 512, credit: 64 }, 65_535, (side, pool) => {
    t.is(deliver(side, [frameOf(64 * 256 + 1)]), 0);
    t.is(side.counts()['tx_too_big_for_buffer'], 1);
    t.is(deliver(side, [frameOf(64 * 256)]), 1);
    t.is(pool.holdings(1).receiving, 64);
    t.deepEqual(received(side), [frameOf(64 * 256)]);
  });
});
