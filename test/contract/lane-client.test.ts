import test from 'ava';
import { output } from '#contract/actions.ts';
import {
  COMMAND_RING_BYTES,
  H_COMMAND_HEAD,
  H_COMMAND_TAIL,
  H_MAGIC,
  H_VERSION,
  H_WORKER_ASLEEP,
  LANE_COMMAND_AT,
} from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import { close, dup, eventfd, eventfdDrain, memfd, pollFds } from '#contract/os.ts';
import { RECORD_BARRIER, RECORD_FLOW_PUT, RECORD_REPLY } from '#contract/records.ts';
import { RingReader } from '#contract/ring.ts';
import { megaflow } from '../support/datapath.ts';
import { makeLane } from '../support/worker-rig.ts';

const pair = () => {
  const { lane, laneFd, wakeFd } = makeLane();
  const wake = dup(wakeFd);
  const client = new LaneClient(laneFd, wakeFd);
  const { buffer, header } = lane;
  const reader = new RingReader(buffer, header, LANE_COMMAND_AT, COMMAND_RING_BYTES, H_COMMAND_HEAD, H_COMMAND_TAIL);
  return { lane, client, reader, wake };
};

test('commands are the documented records, shown at flush and not before', (t) => {
  const { client, reader } = pair();
  const { key, mask, actions } = megaflow(3, output(7), { 9: [0x0a000000, 0xff000000] });
  client.putFlow(42, key, mask, actions);
  client.reply(5, Uint32Array.from(output(1)));
  client.reply(6, undefined);
  t.is(reader.next(), -1);
  t.true(client.flush());
  const take = (words: number): number[] => {
    const at = reader.next();
    return [...reader.words.subarray(at + 1, at + 1 + words)];
  };
  t.deepEqual(take(12), [
    RECORD_FLOW_PUT,
    ...[42, 2, 2],
    ...[0, 3, 0xffffffff],
    ...[9, 0x0a000000, 0xff000000],
    ...output(7),
  ]);
  t.deepEqual(take(5), [RECORD_REPLY, 5, 2, ...output(1)]);
  t.deepEqual(take(3), [RECORD_REPLY, 6, 0xffffffff]);
  t.is(reader.next(), -1);
});

test('what finds no room waits, and follows in order as the worker takes', (t) => {
  const { client, reader } = pair();
  const frame = new Uint8Array(60_000);
  const count = 300;
  for (let i = 0; i < count; i++) {
    client.execute(i, frame, new Uint32Array(0));
    client.barrier(i + 1);
  }
  t.false(client.flush());
  let executes = 0;
  let barriers = 0;
  for (let turn = 0; executes + barriers < 2 * count && turn < 100; turn++) {
    for (let at = reader.next(); at >= 0; at = reader.next()) {
      if (reader.words[at + 1] === RECORD_BARRIER) t.is(reader.words[at + 2], ++barriers);
      else t.is(reader.words[at + 2], executes++);
      t.true(executes - barriers >= 0 && executes - barriers <= 1);
    }
    reader.release();
    client.flush();
  }
  t.deepEqual([executes, barriers], [count, count]);
  t.true(client.flush());
});

test('a worker that sleeps is woken, one that does not is left alone', (t) => {
  const { lane, client, wake } = pair();
  const woken = (): boolean => {
    const ready = pollFds(Int32Array.of(wake), 1, 0) > 0;
    eventfdDrain(wake);
    return ready;
  };
  client.barrier(1);
  client.flush();
  t.false(woken());
  lane.header[H_WORKER_ASLEEP] = 1;
  client.flush();
  t.false(woken(), 'nothing new');
  client.barrier(2);
  client.flush();
  t.true(woken());
});

test('a frame that no record holds is refused before it can block the ring', (t) => {
  const { client } = pair();
  t.throws(() => client.execute(1, new Uint8Array(1 << 17), new Uint32Array(0)), { instanceOf: RangeError });
  client.barrier(1);
  t.true(client.flush());
});

test('frames that a stopped worker has not taken are told, those in the ring and those that waited for room', (t) => {
  const { client, reader } = pair();
  const frame = new Uint8Array(60_000);
  for (let i = 0; i < 40; i++) {
    frame[0] = i;
    client.execute(i, frame.slice(0, 50_000 + i), Uint32Array.of(7, i));
    client.barrier(i);
  }
  client.flush();
  const taken = 3;
  for (let i = 0; i < 2 * taken; i++) reader.next();
  reader.release();
  t.deepEqual(
    client.left().map((left) => [left.inPort, left.frame.length, left.frame[0], ...left.actions]),
    Array.from({ length: 40 - taken }, (_, i) => [i + taken, 50_000 + i + taken, i + taken, 7, i + taken]),
  );
});

test('barriers compare round the end of the numbers', (t) => {
  const { lane, client } = pair();
  lane.header[112] = 0x7fffffff;
  t.true(client.passed(0x7fffffff));
  t.false(client.passed(0x80000000 | 0));
  lane.header[112] = 0x80000001 | 0;
  t.true(client.passed(0x7fffffff));
});

test('memory that is no lane, too small or of another version is refused', (t) => {
  t.throws(() => new LaneClient(memfd('small', 4096), -1), { message: /lane has 4096 bytes/ });
  for (const [word, value] of [
    [H_MAGIC, 1],
    [H_VERSION, 99],
  ] as const) {
    const { lane, laneFd } = makeLane();
    lane.header[word] = value;
    const wake = eventfd();
    t.throws(() => new LaneClient(laneFd, wake), { message: /lane version/ });
    close(wake);
  }
});
