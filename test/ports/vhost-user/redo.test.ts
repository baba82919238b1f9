/** What a killed data plane had decided is done once, where it fits, and a migration's log hears of it. */
import test from 'ava';
import { close, dup, map, memfd, release } from '#contract/os.ts';
import { redoPacked, redoSplit, repairs } from '#ports/vhost-user/redo.ts';
import { Services } from '#ports/vhost-user/services.ts';
import type { RingPlace } from '#ports/vhost-user/vring.ts';
import * as wire from '#ports/vhost-user/wire.ts';

const CHAIN = { id: 7, span: 1, length: 60 };
const LAP = 1 << 15;

test('a step that does not fit its ring is void', (t) => {
  const desc = new Uint32Array(4 * 8);
  const step = { before: LAP, next: LAP | 1, chains: [CHAIN] };
  for (const wrong of [
    { ...step, chains: undefined },
    { ...step, chains: [] },
    { ...step, before: LAP | 8 },
    { ...step, next: LAP | 2 },
    { ...step, chains: [{ ...CHAIN, span: 0 }] },
    { ...step, chains: [{ ...CHAIN, span: 9 }], next: 1 },
  ]) {
    t.is(redoPacked(desc, 8, wrong), undefined);
  }
  t.true(desc.every((word) => word === 0));
  const used = new Uint16Array(2);
  t.deepEqual(redoSplit(used, { ...step, chains: undefined, before: 3, next: 4 }), { place: 0, from: -1 });
  t.deepEqual(redoSplit(used, step), { place: 0, from: -1 });
  t.is(used[1], 0);
});

test('a step is done once, and again it changes nothing', (t) => {
  const desc = new Uint32Array(4 * 8);
  const chains = [{ ...CHAIN, span: 3 }, CHAIN];
  const step = { before: LAP | 6, next: 2, chains };
  t.deepEqual(redoPacked(desc, 8, step), { place: 2, from: LAP | 6 });
  const flags = Array.from({ length: 8 }, (_, i) => desc[4 * i + 3]! >>> 16);
  t.deepEqual(flags, [0, 0, 0, 0, 0, 0, 0x8080, 0x8080], 'entries of the next lap carry its bits');
  t.is(desc[4 * 6 + 2], 60);
  desc[4 * 6 + 2] = 1234;
  t.deepEqual(redoPacked(desc, 8, step), { place: 2, from: LAP | 6 });
  t.is(desc[4 * 6 + 2], 1234, 'the driver may be using the entry again');
});

const place: RingPlace = {
  index: 0,
  size: 8,
  descriptorRegion: 0,
  descriptorOffset: 0,
  availableRegion: 0,
  availableOffset: 0,
  usedRegion: 0,
  usedOffset: 0,
  kickFd: -1,
  callFd: -1,
  log: { usedAt: 0x5000, descriptorsAt: 0x9000 },
};

test('what was written of a ring is told page by page', (t) => {
  t.deepEqual(repairs(place, true, { place: LAP | 4, from: -1 }), []);
  t.deepEqual(repairs({ ...place, log: undefined! }, true, { place: LAP | 4, from: LAP | 1 }), []);
  t.deepEqual(repairs(place, true, { place: LAP | 4, from: LAP | 1 }), [{ at: 0x9010, bytes: 48 }]);
  t.deepEqual(repairs(place, true, { place: 1, from: LAP | 7 }), [
    { at: 0x9070, bytes: 16 },
    { at: 0x9000, bytes: 16 },
  ]);
  t.deepEqual(repairs(place, false, { place: 10, from: 9 }), [
    { at: 0x500c, bytes: 8 },
    { at: 0x5002, bytes: 2 },
  ]);
});

test('a log hears of what was written before it came, and while it is there', (t) => {
  const fd = memfd('log', 4096);
  const services = new Services(1, '/nowhere', 1, 1500, new Int32Array(new SharedArrayBuffer(4096)));
  services.wrote([{ at: 5 * 4096 + 4094, bytes: 4 }]);
  services.setLog(wire.LOG.encode({ size: 4096n, offset: 0n }), [dup(fd)])();
  services.wrote([{ at: 8 * 4096, bytes: 1 }]);
  const log = map(fd, 0, 4096, { write: true, owner: 0 });
  t.deepEqual([...new Uint8Array(log, 0, 3)], [0b0110_0000, 1, 0]);
  services.close();
  release(log);
  close(fd);
});
