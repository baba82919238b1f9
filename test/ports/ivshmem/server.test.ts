import { readdirSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { close, eventfd, memfd, recvWithFds, sendWithFds, socketPair } from '#contract/os.ts';
import { ClientConnection, type Peer } from '#ports/ivshmem/server.ts';
import { MESSAGE_BYTES } from '#ports/ivshmem/wire.ts';
import { sleep, until } from '../../support/process.ts';

const descriptors = (): number => readdirSync('/proc/self/fd').length;

/** A client that reads when it is told to, and keeps no descriptor. */
class Reader {
  readonly fd: number;
  readonly connection: ClientConnection;
  readonly #memory = memfd('test', 4096);
  readonly #own: number[];
  readonly messages: string[] = [];
  ended: string | undefined;

  constructor(vectors: number, others: readonly Peer[], id = 5) {
    const [server, client] = socketPair();
    this.fd = client;
    this.#own = Array.from({ length: vectors }, eventfd);
    const welcome = { memoryFd: this.#memory, self: { id, vectors: this.#own }, others };
    this.connection = new ClientConnection(server, welcome, (reason) => {
      this.ended = reason;
    });
  }

  /** Reads one message as "number" or "number+fd"; undefined when there is none. */
  read(): string | undefined {
    const bytes = Buffer.alloc(MESSAGE_BYTES);
    const fds = new Int32Array(4);
    const got = recvWithFds(this.fd, bytes, 0, MESSAGE_BYTES, fds);
    if (got <= 0) return undefined;
    for (let i = 1; i <= fds[0]!; i++) close(fds[i]!);
    const text = `${bytes.readBigInt64LE()}${'+fd'.repeat(fds[0]!)}`;
    this.messages.push(text);
    return text;
  }

  async readAll(): Promise<string[]> {
    const from = this.messages.length;
    for (let quiet = 0; quiet < 3; ) {
      if (this.read() !== undefined) quiet = 0;
      else if (this.connection.told) {
        quiet++;
        await sleep(2);
      } else await sleep(2);
    }
    return this.messages.slice(from);
  }

  close(): void {
    this.connection.end('');
    close(this.fd);
    close(this.#memory);
    for (const fd of this.#own) close(fd);
  }
}

const peer = (id: number, vectors: number): Peer => ({ id, vectors: Array.from({ length: vectors }, eventfd) });
const closePeer = ({ vectors }: Peer): void => {
  for (const fd of vectors) close(fd);
};

test.serial('a client is told version, id, memory, the others and its own vectors, byte by byte', async (t) => {
  const others = [peer(0, 2), peer(3, 1)];
  const reader = new Reader(2, others);
  t.deepEqual(await reader.readAll(), ['0', '5', '-1+fd', '0+fd', '0+fd', '3+fd', '5+fd', '5+fd']);
  const late = peer(9, 2);
  reader.connection.joined(late);
  t.deepEqual(await reader.readAll(), ['9+fd', '9+fd']);
  reader.connection.gone(9);
  reader.connection.gone(8);
  t.deepEqual(await reader.readAll(), ['9']);
  reader.connection.gone(9);
  t.deepEqual(await reader.readAll(), []);
  reader.close();
  for (const each of [...others, late]) closePeer(each);
});

test.serial('a client that does not read costs a bounded queue, whatever comes and goes', async (t) => {
  const reader = new Reader(64, [peer(0, 64)]);
  const others = Array.from({ length: 20 }, (_, i) => peer(10 + i, 64));
  for (let turn = 0; turn < 30; turn++) {
    for (const each of others) reader.connection.joined(each);
    for (const each of others) reader.connection.gone(each.id);
  }
  t.true(reader.connection.waiting <= 64 * 2 + 20 * 66);
  for (const each of others) reader.connection.joined(each);
  // What it is told in the end is what there is: a peer's last news is its coming, whole.
  const messages = await reader.readAll();
  for (const { id } of others) {
    const news = messages.filter((m) => m === `${id}` || m === `${id}+fd`);
    t.deepEqual(news.slice(news.lastIndexOf(`${id}`) + 1).length, 64, `peer ${id}`);
  }
  reader.close();
});

test.serial('peers that come and go while the client reads by chance: the client ends with who is there', async (t) => {
  const others = Array.from({ length: 4 }, (_, i) => peer(10 + i, 3));
  const step = fc.oneof(
    fc.record({ peer: fc.nat(3), come: fc.boolean() }),
    fc.record({ read: fc.integer({ min: 1, max: 20 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 200 }), async (steps) => {
      const reader = new Reader(1, []);
      const there = new Set<number>();
      for (const each of steps) {
        if ('read' in each) for (let i = 0; i < each.read; i++) reader.read();
        else if (each.come && !there.has(each.peer)) {
          there.add(each.peer);
          reader.connection.joined(others[each.peer]!);
        } else if (!each.come && there.delete(each.peer)) reader.connection.gone(others[each.peer]!.id);
      }
      await reader.readAll();
      const vectors = new Map<string, number>();
      for (const message of reader.messages.slice(3)) {
        const id = message.replace('+fd', '');
        vectors.set(id, message.endsWith('+fd') ? (vectors.get(id) ?? 0) + 1 : 0);
      }
      for (const [i, { id }] of others.entries()) t.is(vectors.get(`${id}`) ?? 0, there.has(i) ? 3 : 0);
      reader.close();
    }),
    { numRuns: 30 },
  );
  others.forEach(closePeer);
});

test.serial('a client that says anything is cut off; descriptors that it sends are closed', async (t) => {
  const before = descriptors();
  for (let turn = 0; turn < 20; turn++) {
    const reader = new Reader(1, []);
    const gift = [eventfd(), eventfd()];
    sendWithFds(reader.fd, Buffer.alloc(1 + turn * 20), 0, 1 + turn * 20, Int32Array.from(gift), 2);
    gift.forEach(close);
    await until('the end', () => reader.ended !== undefined);
    t.regex(reader.ended!, /the client sent something; the ivshmem protocol has no message from client to server/);
    reader.close();
  }
  t.true(descriptors() <= before + 2);
});

test.serial('a client that hangs up, before or after reading, is noticed', async (t) => {
  for (const reads of [0, 1, 4]) {
    const reader = new Reader(2, []);
    for (let i = 0; i < reads; i++) await until('a message', () => reader.read());
    const [fd] = [reader.fd];
    close(fd);
    await until('the end', () => reader.ended !== undefined);
    t.is(reader.ended, '');
    reader.connection.joined({ id: 1, vectors: [] });
    reader.connection.gone(1);
  }
});
