import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { accept, close, eventfd, memfd, sendWithFds, unixListen } from '#contract/os.ts';
import { ServerConnection } from '#guest/ivshmem/connection.ts';
import { encodeMessage } from '#ports/ivshmem/wire.ts';
import { removeScratchDir, scratchDir, until } from '../../support/process.ts';

class Server {
  readonly dir = scratchDir('rwv');
  readonly path = join(this.dir, 's');
  readonly #listener = unixListen(this.path);
  #fd = -1;
  readonly memory = memfd('x', 4096);
  readonly event = eventfd();

  connect(): ServerConnection {
    const connection = new ServerConnection(this.path);
    this.#fd = accept(this.#listener);
    return connection;
  }

  say(value: number, fd = -1): void {
    this.bytes(encodeMessage(value), fd);
  }

  bytes(bytes: Uint8Array, fd = -1): void {
    sendWithFds(this.#fd, bytes, 0, bytes.length, Int32Array.of(fd), fd < 0 ? 0 : 1);
  }

  hangUp(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
  }

  close(): void {
    this.hangUp();
    for (const fd of [this.#listener, this.memory, this.event]) close(fd);
    removeScratchDir(this.dir);
  }
}

const openFds = (): number => readdirSync('/proc/self/fd').length;

async function withServer(body: (server: Server) => Promise<void>): Promise<void> {
  const server = new Server();
  try {
    await body(server);
  } finally {
    server.close();
  }
}

test.serial(
  'what the server tells is kept by its meaning, in whatever pieces it comes; other guests are let go of',
  (t) =>
    withServer(async (server) => {
      const connection = server.connect();
      server.say(0);
      server.say(3);
      const minusOne = encodeMessage(-1);
      server.bytes(minusOne.subarray(0, 3), server.memory);
      await until('the id', () => connection.id === 3);
      t.is(connection.memoryFd, -1);
      server.bytes(minusOne.subarray(3));
      server.say(0, server.event);
      server.say(0, server.event);
      server.say(9, server.event);
      server.say(9);
      server.say(3, server.event);
      await until('the own vector', () => connection.own.length === 1);
      t.true(connection.memoryFd >= 0);
      t.is(connection.ofSwitch.length, 2);
      t.false(connection.closed);
      connection.close();
    }),
);

test.serial('a connection that ends leaves no descriptor behind', (t) =>
  withServer(async (server) => {
    // The first watcher of a process opens descriptors of its own.
    server.connect().close();
    server.hangUp();
    const before = openFds();
    const connection = server.connect();
    const reasons: string[] = [];
    connection.onClose = (reason) => reasons.push(reason);
    server.say(0);
    server.say(1);
    server.say(-1, server.memory);
    server.say(1, server.event);
    server.say(0, server.event);
    await until('a vector', () => connection.ofSwitch.length === 1);
    server.bytes(encodeMessage(1).subarray(0, 4), server.event);
    server.hangUp();
    await until('the end', () => connection.closed);
    connection.close();
    t.deepEqual(reasons, ['the switch hung up']);
    t.is(openFds(), before);
  }),
);

for (const [what, values, message] of [
  ['another version', [1], /protocol version 1/],
  ['no shared memory', [0, 1, 5], /in place of the shared memory/],
] as const) {
  test.serial(`a server that tells ${what} is left with a reason`, (t) =>
    withServer(async (server) => {
      const connection = server.connect();
      let reason = '';
      connection.onClose = (why) => {
        reason = why;
      };
      for (const value of values) server.say(value);
      await until('the end', () => connection.closed);
      t.regex(reason, message);
    }),
  );
}

test('nobody at the path is an error that names it', (t) => {
  t.false(existsSync('/nowhere/iv.sock'));
  t.throws(() => new ServerConnection('/nowhere/iv.sock'), { message: /\/nowhere\/iv\.sock.*ENOENT/ });
});
