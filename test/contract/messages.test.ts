import test from 'ava';
import fc from 'fast-check';
import {
  decodeReply,
  decodeRequest,
  encodeReply,
  encodeRequest,
  type FromDatapath,
  type ToDatapath,
} from '#contract/messages.ts';

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const strings = fc.dictionary(fc.string({ minLength: 1 }), fc.string(), { noNullPrototype: true });
const config = fc.record({ portNo: u32, name: fc.string(), type: fc.string(), options: strings, mtu: u32 });
const port = fc.record({
  config,
  state: fc.string(),
  lastError: fc.string(),
  linkUp: fc.boolean(),
  facts: strings,
});
const flow = fc.record({ id: u32, words: fc.array(u32), actions: fc.array(u32) });
const rxq = fc.record({
  portNo: u32,
  queue: u32,
  enabled: fc.boolean(),
  usage: fc.double({ noNaN: true }),
  why: fc.string(),
});
const pmd = fc.record({
  worker: u32,
  core: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
  numa: u32,
  isolated: fc.boolean(),
  rxqs: fc.array(rxq),
});
const none = fc.constant({});

const requests = fc
  .tuple(
    u32,
    fc.oneof(
      fc.record({ hello: fc.record({ version: u32 }) }),
      fc.record({ addPort: config }),
      fc.record({ setPort: config }),
      fc.record({ deletePort: fc.record({ portNo: u32 }) }),
      fc.record({ dumpFlows: none }),
      fc.record({ getPmds: none }),
      fc.record({ clearPmdCounters: none }),
      fc.record({ setOptions: fc.record({ options: strings }) }),
      fc.record({ exit: none }),
    ),
  )
  .map(([id, body]) => ({ id, ...body }) as ToDatapath);

const replies = fc
  .tuple(
    u32,
    fc.oneof(
      fc.record({
        hello: fc.record({
          version: u32,
          pid: u32,
          ports: fc.array(port),
          lanes: fc.record({ count: u32 }),
          options: strings,
        }),
      }),
      fc.record({ portNumber: fc.record({ portNo: u32 }) }),
      fc.record({ flows: fc.record({ flows: fc.array(flow), more: fc.boolean() }) }),
      fc.record({ pmds: fc.record({ pmds: fc.array(pmd) }) }),
      fc.record({ done: none }),
      fc.record({ portStatus: port }),
      fc.record({ lanesChanged: fc.record({ count: u32 }) }),
      fc.record({ error: fc.record({ code: fc.string(), message: fc.string() }) }),
    ),
  )
  .map(([id, body]) => ({ id, ...body }) as FromDatapath);

/** Own properties that say something. */
const plain = (message: object): unknown => JSON.parse(JSON.stringify(message, (_, value) => value ?? undefined));

test('every request arrives as it was sent', (t) => {
  fc.assert(
    fc.property(requests, (message) => void t.deepEqual(plain(decodeRequest(encodeRequest(message))), plain(message))),
  );
});

test('every reply and event arrives as it was sent', (t) => {
  fc.assert(
    fc.property(replies, (message) => void t.deepEqual(plain(decodeReply(encodeReply(message))), plain(message))),
  );
});

test('what a peer leaves out has its zero value, and only the member that was sent is there', (t) => {
  const got = decodeRequest(encodeRequest({ id: 0, addPort: { name: 'x' } as never }));
  t.deepEqual(got.addPort, { portNo: 0, name: 'x', type: '', options: {}, mtu: 0 });
  t.deepEqual(Object.keys(got).sort(), ['addPort', 'id']);
});

test('garbage is an Error or a message, never anything else', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      for (const decode of [decodeRequest, decodeReply]) {
        try {
          if (typeof decode(bytes).id !== 'number') t.fail('a message without a number');
        } catch (error) {
          if (!(error instanceof Error)) t.fail(String(error));
        }
      }
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('a message that is damaged somewhere is an Error or a message', (t) => {
  fc.assert(
    fc.property(replies, fc.nat(), fc.integer({ min: 0, max: 255 }), (message, at, byte) => {
      const bytes = encodeReply(message).slice();
      if (bytes.length === 0) return;
      bytes[at % bytes.length] = byte;
      try {
        decodeReply(bytes);
      } catch (error) {
        if (!(error instanceof Error)) t.fail(String(error));
      }
    }),
    { numRuns: 1000 },
  );
  t.pass();
});
