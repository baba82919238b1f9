import test from 'ava';
import { close, eventfd, sendWithFds, socketPair } from '#contract/os.ts';
import { Connection } from '#ports/vhost-user/connection.ts';
import { encodeRequest } from '#ports/vhost-user/wire.ts';
import { sleep, until } from '../../support/process.ts';

const send = (fd: number, bytes: Uint8Array, fds: number[] = []) =>
  sendWithFds(fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);

test('messages are obeyed one after the other, with the descriptors that came with each', async (t) => {
  const [here, there] = socketPair();
  const seen: [number, number][] = [];
  let busy = 0;
  let ends = 0;
  const connection = new Connection(
    there,
    async ({ code }, fds) => {
      t.is(++busy, 1);
      await sleep(2);
      busy--;
      seen.push([code, fds.length]);
      return undefined;
    },
    () => ends++,
  );
  const fd = eventfd();
  send(here, encodeRequest(1), [fd]);
  send(here, encodeRequest(2, new Uint8Array(8)), [fd, fd]);
  send(here, encodeRequest(3));
  await until('three messages', () => seen.length === 3);
  t.deepEqual(seen, [
    [1, 1],
    [2, 2],
    [3, 0],
  ]);
  connection.end('enough');
  connection.end('twice');
  t.is(ends, 1);
  close(fd);
  close(here);
});

test('a stream without sense, and a handler that refuses, end the connection with their reason', async (t) => {
  for (const [bytes, pattern] of [
    [new Uint8Array(12), /message 0 is of protocol version 0/],
    [encodeRequest(1), /no thanks/],
  ] as const) {
    const [here, there] = socketPair();
    const reasons: string[] = [];
    const refuse = async () => {
      throw new Error('no thanks');
    };
    new Connection(there, refuse, (reason) => reasons.push(reason));
    send(here, bytes);
    await until('the end', () => reasons.length === 1);
    t.regex(reasons[0]!, pattern);
    close(here);
  }
});
