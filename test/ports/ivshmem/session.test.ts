import { existsSync, fstatSync, openSync, readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { close, recvWithFds, sendWithFds, unixConnect, Watcher } from '#contract/os.ts';
import type { IvshmemPort } from '#guest/ivshmem/index.ts';
import { GuestPool } from '#guest/ivshmem/pool.ts';
import { queueAt, R_PRODUCER, RING_TX, ringHeaderAt, STATE_BROKEN, STATE_READY } from '#ports/ivshmem/layout.ts';
import type { PoolAudit } from '#ports/ivshmem/pool.ts';
import { MESSAGE_BYTES } from '#ports/ivshmem/wire.ts';
import { sleep, until } from '../../support/process.ts';
import { frameOf } from './rig.ts';
import { dir, Port, withRig } from './session-rig.ts';

const descriptors = (): number => readdirSync('/proc/self/fd').length;

test.serial('a client is up after its hello; frames pass between two by reference, and back', async (t) => {
  await withRig(async (rig) => {
    const [a, b] = [await rig.port(1), await rig.port(2)];
    t.is(a.session.status().state, 'waiting-socket');
    const [ga, gb] = [await rig.guest(a, { name: 'alpha' }), await rig.guest(b)];
    await a.reach('up');
    await b.reach('up');
    t.deepEqual(a.states, ['waiting-socket', 'negotiating', 'up']);
    const facts = a.fact;
    t.is(facts['peer_id'], '1');
    t.is(facts['client'], 'alpha');
    t.is(facts['peers'], '2');
    t.is(facts['pool'], 'default');
    t.is(facts['pool_size'], String(64 * 2 ** 20));
    t.is(facts['backing'], 'memfd');
    t.is(facts['peer_pid'], String(process.pid));
    for (let i = 0; i < 3; i++) {
      const frames = [frameOf(60 + i), frameOf(1500, i), frameOf(5000, i)];
      t.is(ga.queue(0).send(frames), 3);
      t.is(a.forward(b), 3);
      t.deepEqual(gb.queue(0).receive(), i === 0 ? frames.slice(0, 2) : frames.slice(0, 2));
      t.is(gb.queue(0).send(frames.slice(0, 2)), 2);
      t.is(b.forward(a), 2);
      t.deepEqual(ga.queue(0).receive(), frames.slice(0, 2));
    }
    t.is(a.counts['copied_bytes'] ?? 0, 0);
    ga.close();
    gb.close();
    await a.reach('waiting-socket');
    await b.reach('waiting-socket');
  });
});

/** All buffers are somewhere, and none in two places. */
const sound = (port: Port, t: ExecutionContext): PoolAudit => {
  const audit = port.pool.audit();
  t.is(audit.free + audit.sending + audit.receiving + audit.held, audit.total);
  t.is(audit.stacked, audit.free);
  t.is(audit.held, 0);
  return audit;
};

/** Everything is back: only those hold buffers that are up. */
const allBack = (port: Port, t: ExecutionContext): void => {
  const audit = sound(port, t);
  t.is(audit.free, audit.total);
};

test.serial('a client killed at any step loses no buffer, and comes back under its id', async (t) => {
  await withRig(async (rig) => {
    const [a, b] = [await rig.port(1), await rig.port(2)];
    const gb = await rig.guest(b);
    await b.reach('up');
    const held = sound(b, t).sending;
    const steps: [string, (guest: IvshmemPort) => void][] = [
      ['joined', () => undefined],
      ['took buffers', (guest) => void guest.queue(0).tx.reserve(32)],
      ['sent, unread', (guest) => void guest.queue(0).send([frameOf(100), frameOf(5000)])],
      [
        'sent, and the peer has the frames',
        (guest) => {
          guest.queue(0).send([frameOf(100), frameOf(200)]);
          a.forward(b);
        },
      ],
      [
        'frames wait for it',
        () => {
          gb.queue(0).send([frameOf(100), frameOf(200)]);
          b.forward(a);
        },
      ],
      [
        'frames taken, not returned',
        (guest) => {
          gb.queue(0).send([frameOf(100), frameOf(200)]);
          b.forward(a);
          guest.queue(0).rx.poll();
        },
      ],
    ];
    for (const [step, act] of steps) {
      const guest = await rig.guest(a, { reconnect: 'never' });
      t.is(guest.id, 1, step);
      await a.reach('up');
      act(guest);
      guest.disconnect();
      guest.close({ abrupt: true });
      await a.reach('waiting-socket');
      gb.queue(0).receive();
      b.forward(a);
      const { sending, receiving, total, free } = sound(b, t);
      t.is(free, total - sending - receiving, step);
      t.true(sending <= held && receiving <= 2, step);
    }
    gb.close();
    await b.reach('waiting-socket');
    allBack(a, t);
  });
});

const connected = (path: string): number | undefined => {
  try {
    return unixConnect(path);
  } catch {
    return undefined;
  }
};

test.serial('a connection that ends before or in the middle of the greeting leaves nothing behind', async (t) => {
  await withRig(async (rig) => {
    const a = await rig.port(1, { vectors: '4' });
    const before = descriptors();
    for (let turn = 0; turn < 1000; turn++) {
      const fd = await until('room in the backlog', () => connected(a.path), 5000);
      if (turn % 3 === 0) sendWithFds(fd, new Uint8Array(64).fill(turn), 0, 64, null, 0);
      close(fd);
    }
    const guest = await rig.guest(a);
    await a.reach('up');
    t.is(guest.id, 1);
    guest.close();
    await until('the connection to end', () => a.fact['status'] === 'disconnected');
    t.true(descriptors() <= before + 3);
    allBack(a, t);
  });
});

test.serial('a client that talks is cut off with the reason, and the port serves the next one', async (t) => {
  await withRig(async (rig) => {
    const a = await rig.port(1);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.boolean(), async (bytes, whole) => {
        const fd = unixConnect(a.path);
        sendWithFds(fd, bytes, 0, bytes.length, whole ? Int32Array.of(fd) : null, whole ? 1 : 0);
        await until('the error', () => a.session.status().state === 'error' && a.fact['status'] === 'disconnected');
        t.regex(a.session.status().lastError, /the client sent something; the ivshmem protocol has no message/);
        close(fd);
        const guest = await rig.guest(a);
        await a.reach('up');
        t.is(a.session.status().lastError, '');
        guest.close();
        await a.reach('waiting-socket');
      }),
      { numRuns: 5 },
    );
  });
});

test.serial('a second client waits until the first has gone', async (t) => {
  await withRig(async (rig) => {
    const a = await rig.port(1);
    const first = await rig.guest(a, { name: 'first' });
    await a.reach('up');
    const second = rig.guest(a, { name: 'second' });
    await sleep(50);
    t.is(a.fact['client'], 'first');
    first.close();
    await second;
    await until('the second', () => a.fact['client'] === 'second');
    t.is(a.fact['peer_id'], '1');
  });
});

/** What a client is told, message by message; + where a descriptor came along. */
class Raw {
  readonly messages: string[] = [];
  /** Descriptors in the order in which they came. */
  readonly fds: number[] = [];
  readonly #fd: number;
  readonly #watcher: Watcher;

  constructor(path: string) {
    this.#fd = unixConnect(path);
    const bytes = Buffer.alloc(MESSAGE_BYTES);
    const fds = new Int32Array(2);
    this.#watcher = new Watcher(() => {
      if (recvWithFds(this.#fd, bytes, 0, MESSAGE_BYTES, fds) !== MESSAGE_BYTES) return this.#watcher.close();
      this.messages.push(`${bytes.readBigInt64LE()}${fds[0]! > 0 ? '+' : ''}`);
      if (fds[0]! > 0) this.fds.push(fds[1]!);
    });
    this.#watcher.add(this.#fd);
  }

  close(): void {
    this.#watcher.close();
    for (const fd of [this.#fd, ...this.fds]) close(fd);
  }
}

test.serial(
  'clients of one pool hear of each other; those of other pools and in isolation of the switch only',
  async (t) => {
    await withRig(async (rig) => {
      const [a, b] = [await rig.port(1, { pool: 'x', vectors: '3' }), await rig.port(2, { pool: 'x' })];
      const [c, d] = [await rig.port(3, { pool: 'y' }), await rig.port(4, { isolation: 'copy' })];
      const la = new Raw(a.path);
      await until('the greeting of a', () => la.messages.length === 3 + 3 + 3);
      t.deepEqual(la.messages, ['0', '1', '-1+', '0+', '0+', '0+', '1+', '1+', '1+']);
      const lb = new Raw(b.path);
      await until('the greeting of b', () => lb.messages.length === 3 + 1 + 3 + 1);
      t.deepEqual(lb.messages, ['0', '2', '-1+', '0+', '1+', '1+', '1+', '2+']);
      const [lc, ld] = [new Raw(c.path), new Raw(d.path)];
      await until('the greeting of c', () => lc.messages.length === 5);
      await until('the greeting of d', () => ld.messages.length === 5);
      t.deepEqual(lc.messages, ['0', '1', '-1+', '0+', '1+']);
      t.deepEqual(ld.messages, lc.messages);
      t.is(a.fact['peers'], '2');
      t.is(d.fact['peers'], '');
      t.deepEqual(la.messages.slice(9), ['2+']);
      lb.close();
      await until('the news of the end', () => la.messages.length === 11);
      t.deepEqual(la.messages.slice(9), ['2+', '2']);
      // It comes back, and goes: QEMU could not take a second coming of the same id.
      const again = new Raw(b.path);
      await until('the greeting of b', () => again.messages.length === 8);
      again.close();
      const late = new Raw(b.path);
      await until('the greeting of b', () => late.messages.length === 8);
      t.deepEqual(la.messages.slice(9), ['2+', '2']);
      for (const each of [la, late, lc, ld]) each.close();
      // Four ports, three objects.
      t.is(new Set([a, b, c, d].map((port) => port.pool.place.fd)).size, 3);
    });
  },
);

test.serial('isolation: a pool for each, one copy', async (t) => {
  await withRig(async (rig) => {
    const isolated = { isolation: 'copy', size: '4M' };
    const [a, b] = [await rig.port(1, isolated), await rig.port(2, isolated)];
    t.is(rig.pools.size, 2);
    const inode = (port: Port): number => fstatSync(port.pool.place.fd).ino;
    t.not(inode(a), inode(b));
    const [ga, gb] = [await rig.guest(a), await rig.guest(b)];
    await a.reach('up');
    await b.reach('up');
    t.is(ga.id, 1);
    t.is(gb.id, 1);
    const frames = [frameOf(60), frameOf(1500), frameOf(700)];
    ga.queue(0).send(frames);
    t.is(a.forward(b), 3);
    t.deepEqual(gb.queue(0).receive(), frames);
    t.is(b.counts['copied_bytes'], 60 + 1500 + 700);
    t.is(b.counts['tx_bytes'], 60 + 1500 + 700);
    sound(a, t);
    sound(b, t);
  });
});

test.serial('a client that leaves, or asks for a reset, starts over on the same connection', async (t) => {
  await withRig(async (rig) => {
    const a = await rig.port(1);
    const guest = await rig.guest(a);
    await a.reach('up');
    const before = Number(a.fact['generation']);
    const slot = guest.pool!.slot(1);
    slot.askReset(slot.generation);
    await until('another generation', () => guest.joins === 2 && guest.state === 'up', 5000);
    await a.reach('up');
    t.is(Number(a.fact['generation']), before + 1);
    slot.bye();
    await until('a third', () => guest.joins === 3 && guest.state === 'up', 5000);
    await a.reach('up');
    t.is(guest.id, 1);
    guest.queue(0).send([frameOf(100)]);
    t.is(a.forward(a), 1);
    sound(a, t);
  });
});

test.serial('a client that breaks its rings is told so, and recovers by a reset', async (t) => {
  await withRig(async (rig) => {
    const a = await rig.port(1);
    const raw = new Raw(a.path);
    await until('the greeting', () => raw.messages.length === 5);
    const pool = new GuestPool(raw.fds[0]!);
    const slot = pool.slot(1);
    await until('the slot', () => slot.state === STATE_READY);
    slot.hello(slot.generation, 'vandal');
    await a.reach('up');
    const tx = queueAt(pool.geometry, 1, 0) + ringHeaderAt(RING_TX) + R_PRODUCER;
    pool.u32[tx >> 2] = 1_000_000;
    a.forward();
    await a.reach('error');
    t.regex(a.session.status().lastError, /^the client broke a ring: producer of a tx ring/);
    await until('the slot to say so', () => slot.state === STATE_BROKEN);
    t.is(a.fact['status'], 'connected');
    allBack(a, t);
    const generation = slot.generation;
    slot.askReset(generation);
    await until('another generation', () => slot.state === STATE_READY && slot.generation !== generation);
    slot.hello(slot.generation, 'reformed');
    await a.reach('up');
    t.is(a.fact['client'], 'reformed');
    raw.close();
    pool.close();
    await a.reach('waiting-socket');
    allBack(a, t);
  });
});

test.serial('a guest without a server joins by the file, and is lost when it stops counting', async (t) => {
  await withRig(async (rig) => {
    const file = join(dir, 'plain');
    const options = { 'backing-path': file, 'backing-mode': '0640', size: '4M' };
    const a = await rig.port(1, options, 300);
    const b = await rig.port(2, { pool: 'other' });
    t.is(statSync(file).mode & 0o777, 0o640);
    const guest = await rig.guest(a, { path: undefined, file });
    await a.reach('up');
    t.is(a.fact['attached_by'], 'file');
    t.is(a.fact['backing'], file);
    t.is(a.view!.rx[0]!.kickFd, -1);
    guest.queue(0).send([frameOf(100)]);
    t.is(a.forward(b), 1);
    const generation = Number(a.fact['generation']);
    // Its heart-beat, once a second, is too slow for this port.
    await until('the client to be given up', () => Number(a.fact['generation']) > generation, 10_000);
    guest.close({ abrupt: true });
    // A client of the server takes the slot over.
    const other = await rig.guest(a);
    await a.reach('up');
    t.is(a.fact['attached_by'], 'socket');
    t.is(other.id, 1);
    await a.session.stop();
    t.false(existsSync(file));
  });
});

test.serial(
  'who joins a file at the moment that another leaves it gets a generation of its own, and keeps it',
  async (t) => {
    await withRig(async (rig) => {
      const file = join(dir, 'relay');
      const a = await rig.port(1, { 'backing-path': file, size: '4M' });
      const pool = new GuestPool(openSync(file, 'r+'));
      const slot = pool.slot(1);
      for (let turn = 0; turn < 5; turn++) {
        const guest = await rig.guest(a, { path: undefined, file });
        await a.reach('up');
        t.is(slot.generation, Number(a.fact['generation']));
        guest.close();
        t.true(slot.state !== STATE_READY || slot.used, 'nobody may begin with what is left');
      }
      const last = await rig.guest(a, { path: undefined, file });
      await a.reach('up');
      // As long as the switch may take to look at what the one before has left.
      await sleep(300);
      t.is(last.joins, 1);
      t.is(a.session.status().state, 'up');
      pool.close();
    });
  },
);

test.serial('a truncated file closes the ports of its pool; they work again on a pool made anew', async (t) => {
  await withRig(async (rig) => {
    const file = join(dir, 'cut');
    const options = { 'backing-path': file, size: '4M' };
    const [a, b] = [await rig.port(1, options), await rig.port(2, { pool: 'other' })];
    const c = await rig.port(3, options);
    const [ga] = [await rig.guest(a), await rig.guest(b), await rig.guest(c)];
    for (const port of [a, b, c]) await port.reach('up');
    const number = a.pool.place.number;
    truncateSync(file, 0);
    a.forward(c);
    await until('another pool', () => a.pool.place.number !== number, 5000);
    t.is(statSync(file).size, 4 << 20);
    t.is(b.session.status().state, 'up');
    t.true(a.states.includes('error') && c.states.includes('error') && !b.states.includes('error'));
    // The clients come again by themselves.
    await a.reach('up');
    await c.reach('up');
    await until('the client', () => ga.state === 'up', 5000);
    ga.queue(0).send([frameOf(100)]);
    t.is(a.forward(c), 1);
    sound(a, t);
  });
});

test.serial('ports of one pool must agree on it; what one leaves out is as the pool has it', async (t) => {
  await withRig(async (rig) => {
    await rig.port(1, { size: '8M' });
    const b = await rig.port(2);
    t.is(b.fact['pool_size'], String(8 << 20));
    const refused = (options: Record<string, string>, message: RegExp) =>
      t.throws(() => new Port(rig, 3, options, 1000), { message });
    refused(
      { size: '16M' },
      /^option size of port iv3 is 16777216, but pool "default", .* has 8388608 bytes; leave size/,
    );
    refused(
      { 'buffer-size': '4096' },
      /^option buffer-size of port iv3 is 4096, but pool "default", .* has 2048 bytes/,
    );
    refused({ backing: 'file' }, /^option backing of port iv3 is \/dev\/shm\/ringway-default, but pool "default"/);
    const c = await rig.port(4, { 'backing-path': join(dir, 'f1'), pool: 'f', size: '4M' });
    refused({ 'backing-path': join(dir, 'f2'), pool: 'f' }, /^option backing-path of port iv3 is .*f2, but pool "f"/);
    refused({ backing: 'memfd', pool: 'f' }, /^option backing of port iv3 is memfd, but pool "f", .* has the file/);
    // A port may change what only it uses.
    t.notThrows(() => new Port(rig, 4, { pool: 'f', size: '32M' }, 1000));
    t.is(rig.pools.size, 2);
    await c.session.stop();
    t.is(rig.pools.size, 1);
    t.true(await b.session.reconfigure({}));
    t.false(await b.session.reconfigure({ vectors: '2' }));
    await t.throwsAsync(b.session.reconfigure({ vectors: '65' }), {
      message: 'option vectors is "65"; it takes 1 to 64',
    });
  });
});

test.serial('a pool is full when all its slots are taken; a socket in use is refused, and takes no slot', async (t) => {
  await withRig(async (rig) => {
    for (let no = 1; no <= 31; no++) await rig.port(no, { size: '4M' });
    t.throws(() => new Port(rig, 32, {}, 1000), {
      message: /^pool "default" has 31 ports, as many as fit; name another/,
    });
    await rig.ports.get(7)!.session.stop();
    rig.ports.delete(7);
    const clash = new Port(rig, 33, { path: rig.ports.get(8)!.path }, 1000);
    await t.throwsAsync(clash.session.start(), { message: /^another process listens on / });
    await clash.session.stop();
    t.is((await rig.port(34)).fact['peer_id'], '7');
  });
});
