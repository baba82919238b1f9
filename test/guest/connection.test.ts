import test from 'ava';
import { close, EAGAIN, recvWithFds, sendWithFds, socketPair } from '#contract/os.ts';
import { Connection } from '#guest/connection.ts';
import {
  encodeReply,
  encodeU64,
  GET_FEATURES,
  GET_QUEUE_NUM,
  SET_MEM_TABLE,
  SET_OWNER,
} from '#ports/vhost-user/wire.ts';
import { until } from '../support/process.ts';

function open(replyMs = 2000): { connection: Connection; peer: number; reasons: string[] } {
  const [fd, peer] = socketPair();
  const reasons: string[] = [];
  const connection = new Connection(fd, replyMs);
  connection.onClose = (reason) => reasons.push(reason);
  return { connection, peer, reasons };
}

const say = (fd: number, bytes: Uint8Array): number => sendWithFds(fd, bytes, 0, bytes.length, null, 0);

test('a reply in many small pieces is put together', async (t) => {
  const { connection, peer } = open();
  const answer = connection.requestU64(GET_FEATURES);
  for (const byte of encodeReply(GET_FEATURES, encodeU64(0x1_0000_0001n))) say(peer, Uint8Array.of(byte));
  t.is(await answer, 0x1_0000_0001n);
  connection.close();
  close(peer);
});

test('a hung up, silent or confused switch ends the request with the reason', async (t) => {
  const gone = open();
  const lost = gone.connection.request(GET_FEATURES);
  close(gone.peer);
  await t.throwsAsync(lost, { message: /connection lost: the switch hung up/ });
  t.deepEqual(gone.reasons, ['the switch hung up']);
  t.throws(() => gone.connection.send(SET_OWNER), { message: /cannot send SET_OWNER: the connection is closed/ });

  const silent = open(30);
  await t.throwsAsync(silent.connection.request(GET_FEATURES), { message: /did not answer GET_FEATURES within 30 ms/ });
  silent.connection.close();
  close(silent.peer);

  const confused = open();
  const wrong = confused.connection.request(GET_FEATURES);
  say(confused.peer, encodeReply(GET_QUEUE_NUM, encodeU64(1n)));
  await t.throwsAsync(wrong, { message: /the switch sent GET_QUEUE_NUM, flags 0x5, which was not asked for/ });
  close(confused.peer);

  const babbling = open();
  say(babbling.peer, new Uint8Array(64).fill(0xff));
  await until('the connection to be closed', () => babbling.connection.closed);
  t.regex(babbling.reasons[0]!, /protocol version/);
  close(babbling.peer);
});

test('a refusal is an error', async (t) => {
  const { connection, peer } = open();
  const asked = connection.acknowledged(SET_MEM_TABLE, new Uint8Array(8));
  say(peer, encodeReply(SET_MEM_TABLE, encodeU64(1n)));
  await t.throwsAsync(asked, { message: 'the switch refused SET_MEM_TABLE (reply 1)' });
  connection.close();
  close(peer);
});

test('messages wait while the socket is full, and arrive whole and in order', async (t) => {
  const { connection, peer } = open();
  const count = 4000;
  for (let i = 0; i < count; i++) connection.send(i + 100, new Uint8Array(300).fill(i));
  const input = new Uint8Array(1 << 20);
  const fds = new Int32Array(2);
  let length = 0;
  const bytes = new Uint8Array(count * 312);
  await until('all bytes', () => {
    for (;;) {
      const got = recvWithFds(peer, input, 0, input.length, fds);
      if (got === -EAGAIN) return length === bytes.length;
      bytes.set(input.subarray(0, got), length);
      length += got;
    }
  });
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i += 97) {
    t.is(view.getUint32(i * 312, true), i + 100);
    t.is(bytes[i * 312 + 311], i & 255);
  }
  connection.close();
  close(peer);
});
