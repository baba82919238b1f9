import test from 'ava';
import fc from 'fast-check';
import { drop, output, set } from '#contract/actions.ts';
import { W_DL_DST, W_IN_PORT } from '#contract/flow-key.ts';
import { COMMAND_RING_BYTES, H_COMMAND_HEAD, H_COMMAND_TAIL, LANE_COMMAND_AT } from '#contract/lane.ts';
import * as record from '#contract/records.ts';
import { megaflow } from '../support/datapath.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { WorkerRig } from '../support/worker-rig.ts';

const frame = (length = 60, seed = 0): Uint8Array => packet(eth({ type: 0x88b5 }), filler(length - 14, seed));
const program = (...words: number[]): Uint32Array => Uint32Array.from(words);

/** Writes one record as it is, and says that it is there. */
const raw = (rig: WorkerRig, words: readonly number[], length = Math.ceil(words.length / 2) * 8): void => {
  const ring = new Uint32Array(rig.lane.buffer, LANE_COMMAND_AT, COMMAND_RING_BYTES / 4);
  const head = rig.lane.header[H_COMMAND_HEAD]! >>> 0;
  ring.set([length, ...words.slice(1)], (head % COMMAND_RING_BYTES) / 4);
  Atomics.store(rig.lane.header, H_COMMAND_HEAD, (head + Math.max(8, Math.ceil(words.length / 2) * 8)) | 0);
};

test('flows are put, replaced, deleted and flushed; a barrier says when', (t) => {
  const rig = new WorkerRig([1, 2, 3]);
  const { client } = rig;
  const put = (id: number, port: number): void => {
    const { key, mask, actions } = megaflow(1, output(port), { [W_DL_DST]: [0x02000000, 0xffffffff] });
    client.putFlow(id, key, mask, actions);
  };
  put(5, 2);
  client.barrier(1);
  t.false(client.passed(1));
  rig.obey();
  t.true(client.passed(1));
  t.false(client.passed(2));
  rig.receive(frame());
  put(5, 3);
  rig.obey();
  rig.receive(frame());
  t.deepEqual(
    rig.sent.map(({ port }) => port),
    [2, 3],
  );
  client.deleteFlow(5);
  client.deleteFlow(99);
  rig.obey();
  t.is(rig.pipeline.flows.count, 0);
  put(1, 2);
  put(2, 3);
  client.flushFlows();
  rig.obey();
  t.is(rig.pipeline.flows.count, 0);
});

test('an answer runs on the upcall it is for; one without program is counted', (t) => {
  const rig = new WorkerRig();
  const frames = [frame(60, 1), frame(2000, 2), frame(60, 3), frame(60, 4)];
  rig.receive(...frames);
  const answers = [program(...output(2)), program(...output(2), ...output(1)), undefined, program(...drop(17))];
  for (const answer of answers) rig.client.reply(rig.client.next()!.seq, answer);
  rig.obey();
  t.deepEqual(
    rig.sent.map(({ port, frame: bytes }) => [port, Buffer.compare(bytes, frames[bytes.length === 60 ? 0 : 1]!)]),
    [
      [2, 0],
      [2, 0],
      [1, 0],
    ],
  );
  t.is(rig.drops(1, 'upcall_unanswered'), 1);
  t.is(rig.drops(1, 'controller'), 1);
});

test('answers to a burst leave as a burst, edits and all', (t) => {
  const rig = new WorkerRig();
  const frames = Array.from({ length: 100 }, (_, i) => frame(60 + i * 7, i));
  rig.receive(...frames);
  for (let upcall = rig.client.next(); upcall; upcall = rig.client.next())
    rig.client.reply(upcall.seq, program(...set(W_DL_DST, 0xaabbccdd, 0xffffffff), ...output(2)));
  for (let i = 0; i < 3; i++) rig.obey();
  t.is(rig.sent.length, 100);
  for (const [i, { frame: bytes }] of rig.sent.entries()) {
    t.deepEqual([...bytes.subarray(0, 4)], [0xaa, 0xbb, 0xcc, 0xdd]);
    t.is(Buffer.compare(bytes.subarray(4), frames[i]!.subarray(4)), 0);
  }
});

test('a packet-out goes out, with bytes beyond the header window', (t) => {
  const rig = new WorkerRig();
  rig.client.execute(2, frame(65_549), program(...output(1)));
  rig.client.execute(2, frame(13 + 14), program(...output(1)));
  rig.obey();
  t.deepEqual(
    rig.sent.map(({ frame: bytes }) => Buffer.compare(bytes, frame(bytes.length))),
    [0, 0],
  );
});

test('what makes no sense is thrown by name', (t) => {
  const bad: [words: number[], what: RegExp, length?: number][] = [
    [[0, 77, 0, 0], /kind 77/],
    [[0, record.RECORD_FLOW_PUT, 1, 1000, 0, 0], /FLOW_PUT is longer/],
    [[0, record.RECORD_FLOW_PUT, 1, 0, 9000, 0], /FLOW_PUT is longer/],
    [[0, record.RECORD_FLOW_PUT, 1, 0, 0, 0], /must match one in_port/],
    [[0, record.RECORD_FLOW_PUT, 0xffffffff, 1, 0, W_IN_PORT, 1, 0xffffffff], /flow id/],
    [[0, record.RECORD_FLOW_PUT, 1, 1, 1, W_IN_PORT, 1, 0xffffffff, 0xdead0001, 0], /unknown action/],
    [[0, record.RECORD_REPLY, 0, 0], /fits no upcall/],
    [[0, record.RECORD_EXECUTE, 1, 0xffffffff, 0, 0], /EXECUTE is longer/],
    [[0, record.RECORD_EXECUTE, 1, 0, 0xffffffff, 0], /EXECUTE is longer/],
    [[0, record.RECORD_EXECUTE, 1, 0, 2, 0, 0x00010000, 0], /has 0 words/],
    [[0, record.RECORD_BARRIER, 1, 0], /impossible length/, 12],
    [[0, record.RECORD_BARRIER, 1, 0], /impossible length/, 1 << 30],
  ];
  for (const [words, what, length] of bad) {
    const rig = new WorkerRig();
    raw(rig, words, length);
    t.throws(() => rig.commands.run(), { message: what });
    rig.commands.reset();
    rig.upcalls.attach(rig.doorbell);
    rig.receive(frame());
    t.truthy(rig.client.next(), 'the worker goes on');
  }
});

test('an answer out of turn is thrown, and what was answered before it has left', (t) => {
  const rig = new WorkerRig();
  rig.receive(frame(60, 1), frame(60, 2));
  rig.client.reply(0, program(...output(2)));
  rig.client.reply(7, program(...output(2)));
  t.throws(() => rig.obey(), { message: /answer 7 fits no upcall/ });
  t.is(rig.sent.length, 1);
  t.is(rig.batch.count, 0);
});

test('random words in the ring are obeyed or thrown; frames go on afterwards', (t) => {
  const word = fc.oneof(fc.integer({ min: 0, max: 0xffffffff }), fc.nat(40), fc.constantFrom(0x00010002, 0x00030004));
  const any = fc.tuple(fc.nat(8), fc.array(word, { minLength: 2, maxLength: 30 }));
  const rig = new WorkerRig();
  fc.assert(
    fc.property(fc.array(any, { minLength: 1, maxLength: 5 }), (records) => {
      for (const [kind, words] of records) raw(rig, [0, kind, ...words]);
      try {
        rig.commands.run();
      } catch (error) {
        if (!(error instanceof Error)) t.fail(String(error));
      }
      rig.commands.reset();
      rig.pipeline.flows.flush();
      rig.upcalls.attach(rig.doorbell);
      rig.sent.length = 0;
      const { key, mask } = megaflow(1, []);
      rig.pipeline.flows.put(3, [W_IN_PORT, key[0]!, mask[0]!, ...output(2)], 0, 1, 2);
      rig.receive(frame(60, 9));
      t.is(rig.sent.length, 1);
    }),
    { numRuns: 500 },
  );
  t.is(rig.lane.header[H_COMMAND_TAIL], 0);
});
