import test from 'ava';
import { MacTable, macKey, macText } from '#ofproto/mac-learning.ts';
import { OfPort } from '#ofproto/port.ts';
import { portSpec } from '../support/random-tables.ts';

const p1 = new OfPort(portSpec('p1'), 1, '');
const p2 = new OfPort(portSpec('p2'), 2, '');

function table(size = 4) {
  const changed: string[] = [];
  const clock = { now: 1_000_000 };
  const macs = new MacTable({ size, agingSeconds: 300, now: () => clock.now, changed: (key) => changed.push(key) });
  const learn = (mac: number, port = p1): boolean => macs.learn(macKey(10, mac), 10, mac, port, clock.now);
  const at = (mac: number): string | undefined => macs.lookup(macKey(10, mac))?.port.name;
  return { macs, changed, clock, learn, at };
}

test('learns, refreshes in silence, and tells of moves', (t) => {
  const { macs, changed, learn, at } = table();
  t.true(learn(1));
  t.false(learn(1));
  t.is(at(1), 'p1');
  t.true(learn(1, p2));
  t.is(at(1), 'p2');
  t.deepEqual(changed, ['10/1', '10/1']);
  t.is(macs.moves, 1);
});

test('entries age from their last frame, and their end is told', (t) => {
  const { macs, changed, clock, learn, at } = table();
  learn(1);
  learn(2);
  clock.now += 200_000;
  learn(2);
  clock.now += 100_001;
  macs.expire();
  t.is(at(1), undefined);
  t.is(at(2), 'p1');
  t.deepEqual(changed, ['10/1', '10/2', '10/1']);
  t.is(macs.expired, 1);
});

test('a full table drops the entry that was used longest ago', (t) => {
  const { macs, learn, at } = table(3);
  for (const mac of [1, 2, 3, 4]) learn(mac);
  t.is(macs.size, 3);
  t.is(macs.evicted, 1);
  t.deepEqual([1, 2, 3, 4].map(at), [undefined, 'p1', 'p1', 'p1']);
});

test('static entries neither move nor age, and go with their port', (t) => {
  const { macs, clock, learn, at } = table();
  macs.addStatic(10, 1, p2);
  t.false(learn(1));
  clock.now += 1_000_000;
  macs.expire();
  macs.flush();
  t.is(at(1), 'p2');
  macs.forget(p2);
  t.is(at(1), undefined);
});

test('a smaller table keeps the youngest entries', (t) => {
  const { macs, clock, learn, at } = table();
  for (const mac of [1, 2, 3, 4]) {
    clock.now += 1000;
    learn(mac);
  }
  macs.configure(2, 300);
  t.deepEqual([1, 2, 3, 4].map(at), [undefined, undefined, 'p1', 'p1']);
});

test('addresses print as six bytes', (t) => {
  t.is(macText(0x0200000000ff), '02:00:00:00:00:ff');
});
