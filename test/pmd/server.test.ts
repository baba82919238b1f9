import { existsSync, readSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Channel } from '#contract/channel.ts';
import {
  CONTRACT_VERSION,
  decodeReply,
  encodeRequest,
  type FromDatapath,
  type ReplyBodies,
  type ToDatapath,
} from '#contract/messages.ts';
import { close, eventfd, pipe, sendWithFds, unixConnect } from '#contract/os.ts';
import { type ContractHandler, ContractServer } from '#pmd/server.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';

class Handler implements ContractHandler {
  readonly log: string[] = [];
  readonly fds = [eventfd(), eventfd()];
  readonly taken: number[] = [];
  flows: ReplyBodies['flows']['flows'] = [];
  async control(doorbell: number): Promise<void> {
    this.log.push(doorbell >= 0 ? 'attached' : 'gone');
  }
  laneFds(): number[] {
    return this.fds;
  }
  hello() {
    return { ports: [], options: { a: 'b' } };
  }
  async request(message: ToDatapath, fds: number[]): Promise<Partial<ReplyBodies>> {
    if (message.resume) {
      this.taken.push(...fds.splice(0, message.resume.lanes));
      return { done: {} };
    }
    if (message.dumpFlows) return { flows: { flows: this.flows, more: false } };
    if (message.deletePort) {
      // The longer the number, the longer it takes: order must hold all the same.
      await new Promise((resolve) => setTimeout(resolve, message.deletePort!.portNo));
      this.log.push(`deleted ${message.deletePort.portNo}`);
      return { done: {} };
    }
    throw Object.assign(new Error('cannot do that'), { code: 'no_way' });
  }
}

class Peer {
  readonly replies: FromDatapath[] = [];
  readonly fds: number[] = [];
  readonly fd: number;
  readonly channel: Channel;
  closed = '';
  constructor(path: string) {
    this.fd = unixConnect(path);
    this.channel = new Channel(this.fd, {
      frame: (bytes, fds) => {
        this.replies.push(decodeReply(bytes));
        this.fds.push(...fds);
      },
      closed: (reason) => {
        this.closed = reason;
      },
    });
  }
  send(message: ToDatapath, fds: readonly number[] = []): void {
    this.channel.send(encodeRequest(message), fds);
  }
  async reply(id: number): Promise<FromDatapath> {
    return until(
      `reply ${id}`,
      () => this.replies.find((reply) => reply.id === id),
      PATIENCE_MS,
      () => this.closed,
    );
  }
}

const withServer = async (
  body: (made: { path: string; server: ContractServer; handler: Handler; peer: () => Peer }) => Promise<void>,
): Promise<void> => {
  const dir = scratchDir('rwc');
  const path = join(dir, 's');
  const handler = new Handler();
  const server = new ContractServer(path, handler);
  const peers: Peer[] = [];
  try {
    await body({
      path,
      server,
      handler,
      peer: () => {
        peers.push(new Peer(path));
        return peers.at(-1)!;
      },
    });
  } finally {
    for (const peer of peers) {
      peer.channel.close();
      for (const fd of peer.fds) close(fd);
    }
    server.close();
    removeScratchDir(dir);
  }
};

test('hello attaches, and brings the doorbell and the lanes', async (t) => {
  await withServer(async ({ peer, handler, server }) => {
    const control = peer();
    control.send({ id: 1, hello: { version: CONTRACT_VERSION } });
    const { hello } = await control.reply(1);
    t.deepEqual(hello, {
      version: CONTRACT_VERSION,
      pid: process.pid,
      ports: [],
      lanes: { count: 1 },
      options: { a: 'b' },
    });
    t.is(control.fds.length, 3);
    t.deepEqual(handler.log, ['attached']);
    t.true(server.doorbell >= 0);
    server.lanesChanged();
    await until('the event', () => control.replies.some(({ lanesChanged }) => lanesChanged?.count === 1), PATIENCE_MS);
    t.is(control.fds.length, 6);
    control.channel.close();
    await until('the server to notice', () => handler.log.at(-1) === 'gone', PATIENCE_MS);
    t.is(server.doorbell, -1);
  });
});

test('requests are carried out in order, errors go back with code and words', async (t) => {
  await withServer(async ({ peer, handler }) => {
    const control = peer();
    for (const [i, ms] of [30, 1, 15, 0].entries()) control.send({ id: i + 1, deletePort: { portNo: ms } });
    control.send({ id: 9, getPmds: {} });
    t.deepEqual((await control.reply(9)).error, { code: 'no_way', message: 'cannot do that' });
    t.deepEqual(handler.log, ['deleted 30', 'deleted 1', 'deleted 15', 'deleted 0']);
    t.deepEqual(
      control.replies.map(({ id }) => id),
      [1, 2, 3, 4, 9],
    );
  });
});

test('a long dump comes in several frames, all but the last marked', async (t) => {
  await withServer(async ({ peer, handler }) => {
    handler.flows = Array.from({ length: 2500 }, (_, id) => ({ id, words: [0, id, 1], actions: [id] }));
    const control = peer();
    control.send({ id: 4, dumpFlows: {} });
    await until('the last frame', () => control.replies.some(({ flows }) => flows?.more === false), PATIENCE_MS);
    t.deepEqual(
      control.replies.map(({ flows }) => flows!.more),
      [true, true, false],
    );
    t.deepEqual(
      control.replies.flatMap(({ flows }) => flows!.flows),
      handler.flows,
    );
    handler.flows = [];
    control.send({ id: 5, dumpFlows: {} });
    t.deepEqual((await control.reply(5)).flows, { flows: [], more: false });
  });
});

test('one control plane at a time; the place is free again when it leaves', async (t) => {
  await withServer(async ({ peer, handler }) => {
    const first = peer();
    first.send({ id: 1, hello: { version: CONTRACT_VERSION } });
    await first.reply(1);
    const second = peer();
    const { error } = await second.reply(0);
    t.is(error?.code, 'busy');
    second.send({ id: 1, hello: { version: CONTRACT_VERSION } });
    await until('the second to be closed', () => second.closed !== '', PATIENCE_MS);
    first.send({ id: 2, deletePort: { portNo: 1 } });
    await first.reply(2);
    first.channel.close();
    await until('the place to be free', () => handler.log.at(-1) === 'gone', PATIENCE_MS);
    const third = peer();
    third.send({ id: 1, hello: { version: CONTRACT_VERSION } });
    t.truthy((await third.reply(1)).hello);
  });
});

test('descriptors that come with a request and are not taken are closed', async (t) => {
  await withServer(async ({ peer, handler }) => {
    const control = peer();
    const [[taken, one], [left, two]] = [pipe(), pipe()];
    control.send({ id: 1, resume: { ports: ['a'], lanes: 1 } }, [one, two]);
    for (const fd of [one, two]) close(fd);
    t.truthy((await control.reply(1)).done);
    t.is(handler.taken.length, 1);
    t.throws(() => readSync(taken, new Uint8Array(1)), { code: 'EAGAIN' });
    t.is(readSync(left, new Uint8Array(1)), 0, 'nobody has its other end');
    for (const fd of [taken, left, ...handler.taken]) close(fd);
  });
});

test('another version is refused, and the connection stands', async (t) => {
  await withServer(async ({ peer }) => {
    const control = peer();
    control.send({ id: 1, hello: { version: CONTRACT_VERSION + 1 } });
    const { error } = await control.reply(1);
    t.is(error?.code, 'version');
    t.regex(error!.message, /4 is not 3/);
    control.send({ id: 2, hello: { version: CONTRACT_VERSION } });
    t.truthy((await control.reply(2)).hello);
  });
});

test('bytes that are no message end that connection only', async (t) => {
  await withServer(async ({ peer, handler }) => {
    for (const bytes of [
      Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255),
      Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0),
      Uint8Array.of(0, 0, 0, 0, 9, 0, 0, 0),
    ]) {
      const bad = peer();
      sendWithFds(bad.fd, bytes, 0, bytes.length, null, 0);
      await until('the connection to end', () => bad.closed !== '', PATIENCE_MS);
      const seen = handler.log.length;
      await until(
        'the place to be free',
        () => handler.log.length > seen || handler.log.at(-1) === 'gone',
        PATIENCE_MS,
      );
      const good = peer();
      await until(
        'a sound one to be served',
        () => {
          if (good.closed === '' && good.replies.length === 0) good.send({ id: 1, deletePort: { portNo: 0 } });
          return good.replies.some(({ id }) => id === 1);
        },
        PATIENCE_MS,
      );
      good.channel.close();
      await until('the place to be free', () => handler.log.filter((line) => line === 'gone').length >= 2, PATIENCE_MS);
      handler.log.length = 0;
    }
    t.pass();
  });
});

test('drop ends the connection; close takes the socket away, also one that a dead process left', async (t) => {
  await withServer(async ({ peer, server, path, handler }) => {
    const control = peer();
    control.send({ id: 1, hello: { version: CONTRACT_VERSION } });
    await control.reply(1);
    server.drop('nonsense');
    await until('the end', () => control.closed !== '', PATIENCE_MS);
    await until('the workers to know', () => handler.log.at(-1) === 'gone', PATIENCE_MS);
    t.true(existsSync(path));
    const next = new ContractServer(path, handler);
    next.close();
    t.false(existsSync(path));
  });
});
