/** The whole switch with ivshmem ports: frames by reference and by copy, crashes of either plane, other kinds of port. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type IvshmemPort, openIvshmemPort } from '#guest/ivshmem/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { until } from '../support/process.ts';
import { alive, type SwitchProcess, withSwitch } from '../support/switch.ts';
import { Testpmd, unavailable } from '../support/testpmd.ts';

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03', '02:00:00:00:00:04'] as const;
const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const frame = (src: string, dst: string, length = 60, seed = 0): Uint8Array =>
  packet(eth({ src, dst, type: 0x88b5 }), filler(length - 14, seed));

const attach = (sw: SwitchProcess, name: string): Promise<IvshmemPort> =>
  openIvshmemPort({ path: sw.socket(name), timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS, name });

/** Runs `body` with br0, ivshmem ports iv0, iv1, … of these options, and a client at each. */
async function withClients(
  sw: SwitchProcess,
  all: readonly (readonly string[])[],
  body: (clients: IvshmemPort[]) => Promise<void>,
): Promise<void> {
  const clients: IvshmemPort[] = [];
  try {
    await sw.vsctl('add-br', 'br0');
    for (const [i, options] of all.entries()) {
      const name = `iv${i}`;
      await sw.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, 'type=ivshmem', ...options);
      clients.push(await attach(sw, name));
    }
    await sw.linkUp(...clients.map((_, i) => `iv${i}`));
    await body(clients);
  } finally {
    for (const client of clients) client.close({ abrupt: true });
  }
}

const receive = async (client: IvshmemPort, count: number): Promise<Uint8Array[]> => {
  const frames: Uint8Array[] = [];
  await until(
    `${count} frames`,
    async () => {
      frames.push(...client.queue(0).receive());
      if (frames.length < count) await client.queue(0).readable(50);
      return frames.length >= count;
    },
    PATIENCE_MS,
    () => `${frames.length} came`,
  );
  return frames;
};

const send = async (client: IvshmemPort, frames: readonly Uint8Array[]): Promise<void> => {
  let at = 0;
  await until(
    'buffers to send with',
    () => {
      at += client.queue(0).send(frames.slice(at));
      return at === frames.length;
    },
    PATIENCE_MS,
  );
};

/** Both addresses are learnt, and the megaflows of both ways are there. */
const meet = async (a: IvshmemPort, b: IvshmemPort): Promise<void> => {
  await send(a, [frame(MACS[0], MACS[1])]);
  await receive(b, 1);
  await send(b, [frame(MACS[1], MACS[0])]);
  await receive(a, 1);
};

/** A word of an Interface's `statistics` or `status`. */
const column = async (sw: SwitchProcess, name: string, key: string): Promise<string> =>
  (await sw.vsctl('get', 'Interface', name, key)).trim().replace(/^"(.*)"$/, '$1');
const statistic = async (sw: SwitchProcess, name: string, key: string): Promise<number> =>
  Number(await column(sw, name, `statistics:${key}`));

test.serial('marked frames cross between two clients of one pool, and not a byte is copied', async (t) => {
  await withSwitch([], async (sw) => {
    await withClients(sw, [[], ['options:vectors=2']], async ([a, b]) => {
      await meet(a!, b!);
      const frames = Array.from({ length: 400 }, (_, i) => frame(MACS[0], MACS[1], 60 + ((i * 37) % 1400), i));
      const copied = await statistic(sw, 'iv1', 'copied_bytes');
      for (let at = 0; at < frames.length; at += 100) {
        await send(a!, frames.slice(at, at + 100));
        t.deepEqual(await receive(b!, 100), frames.slice(at, at + 100));
      }
      t.is(await statistic(sw, 'iv1', 'copied_bytes'), copied);
      // The frame that made the megaflow came by way of the control plane.
      t.is(copied, 60);
      t.is(await statistic(sw, 'iv1', 'tx_packets'), 401);
      t.is(await column(sw, 'iv0', 'status:pool'), 'br0');
      t.is(await column(sw, 'iv0', 'status:peer_id'), '1');
      t.is(await column(sw, 'iv1', 'status:peer_id'), '2');
      t.is(await column(sw, 'iv1', 'status:vectors'), '2');
      t.is(await column(sw, 'iv0', 'status:client'), 'iv0');
      t.is(await column(sw, 'iv0', 'options'), '{}');
    });
  });
});

test.serial('isolation: the copies are the traffic; the two clients map different objects', async (t) => {
  await withSwitch([], async (sw) => {
    const isolated = ['options:isolation=copy', 'options:size=4M'];
    await withClients(sw, [isolated, isolated], async ([a, b]) => {
      await meet(a!, b!);
      const before = await statistic(sw, 'iv1', 'copied_bytes');
      const frames = Array.from({ length: 50 }, (_, i) => frame(MACS[0], MACS[1], 60 + i * 29, i));
      await send(a!, frames);
      t.deepEqual(await receive(b!, 50), frames);
      const bytes = frames.reduce((sum, { length }) => sum + length, 0);
      t.is((await statistic(sw, 'iv1', 'copied_bytes')) - before, bytes);
      const maps = readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.includes('ringway-pool-iv'));
      t.is(new Set(maps.map((line) => line.split(/\s+/)[4])).size, 2);
    });
  });
});

test.serial('a flood to three clients is one buffer; one that dies gives all back and returns as it was', async (t) => {
  await withSwitch([], async (sw) => {
    await withClients(sw, [[], [], [], []], async ([a, b, c, d]) => {
      // The first frame makes the megaflow, and comes by way of the control plane.
      await send(a!, [frame(MACS[0], BROADCAST, 100)]);
      for (const client of [b!, c!, d!]) await receive(client, 1);
      const frames = Array.from({ length: 40 }, (_, i) => frame(MACS[0], BROADCAST, 200, i));
      await send(a!, frames);
      for (const client of [b!, c!]) t.deepEqual(await receive(client, 40), frames);
      for (const name of ['iv1', 'iv2', 'iv3']) t.is(await statistic(sw, name, 'copied_bytes'), 100);
      // The last of them never looked at its frames.
      const id = d!.id;
      d!.disconnect();
      d!.close({ abrupt: true });
      await until('the end of iv3', async () => (await column(sw, 'iv3', 'link_state')) === 'down', PATIENCE_MS);
      const again = await attach(sw, 'iv3');
      try {
        t.is(again.id, id);
        await sw.linkUp('iv3');
        await send(again, [frame(MACS[3], BROADCAST)]);
        await receive(b!, 1);
        for (const client of [a!, c!]) await receive(client, 1);
      } finally {
        again.close({ abrupt: true });
      }
      for (const client of [a!, b!, c!]) client.close({ abrupt: true });
      const word = async (key: string): Promise<number> => Number(await column(sw, 'iv0', `status:${key}`));
      await until('all buffers', async () => (await word('buffers_free')) === (await word('buffers')), PATIENCE_MS);
      t.is(await word('buffers_held'), 0);
    });
  });
});

test.serial(
  'frames cross while the control plane is killed and comes back; its ports are adopted untouched',
  async (t) => {
    await withSwitch([], async (sw) => {
      await withClients(sw, [[], ['options:n_rxq=2']], async ([a, b]) => {
        await meet(a!, b!);
        const generation = await column(sw, 'iv0', 'status:generation');
        const datapath = sw.datapathPid;
        const cross = async (seed: number): Promise<void> => {
          const frames = Array.from({ length: 64 }, (_, i) => frame(MACS[0], MACS[1], 100, seed + i));
          await send(a!, frames);
          t.deepEqual(await receive(b!, 64), frames);
        };
        await sw.child.stop('SIGKILL');
        for (let turn = 0; turn < 20; turn++) await cross(turn);
        await sw.restart();
        await cross(100);
        t.is(sw.datapathPid, datapath);
        await sw.linkUp('iv0', 'iv1');
        t.is(await column(sw, 'iv0', 'status:generation'), generation);
        t.deepEqual([a!.joins, b!.joins], [1, 1]);
        await cross(200);
      });
    });
  },
);

test.serial(
  'after a crash of the data plane clients join again by themselves, also those without a server',
  async (t) => {
    await withSwitch([], async (sw) => {
      const file = join('/dev/shm', `rw-test-${process.pid}`);
      const plain = ['options:pool=plain', `options:backing-path=${file}`, 'options:size=4M'];
      await withClients(sw, [[], []], async ([a, b]) => {
        await sw.vsctl('add-port', 'br0', 'iv2', '--', 'set', 'Interface', 'iv2', 'type=ivshmem', ...plain);
        const c = await openIvshmemPort({ file, timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS });
        try {
          await sw.linkUp('iv2');
          const before = sw.datapathPid;
          process.kill(before, 'SIGKILL');
          await until('the end of the data plane', () => !alive(before), PATIENCE_MS);
          const joined = () => [a!, b!, c].every((client) => client.state === 'up' && client.joins >= 2);
          await until('all clients to join again', joined, PATIENCE_MS, () => sw.child.tail());
          await sw.linkUp('iv0', 'iv1', 'iv2');
          t.deepEqual([a!.id, b!.id], [1, 2]);
          await send(a!, [frame(MACS[0], BROADCAST, 300)]);
          t.deepEqual(await receive(b!, 1), [frame(MACS[0], BROADCAST, 300)]);
          t.deepEqual(await receive(c, 1), [frame(MACS[0], BROADCAST, 300)]);
          await sw.vsctl('del-port', 'iv2');
          t.false(existsSync(file));
        } finally {
          c.close({ abrupt: true });
        }
      });
    });
  },
);

test.serial('an ivshmem client and a vhost-user guest exchange frames by one copy', async (t) => {
  await withSwitch([], async (sw) => {
    await withClients(sw, [[]], async ([a]) => {
      await sw.vsctl('add-port', 'br0', 'vh0', '--', 'set', 'Interface', 'vh0', 'type=vhost-user');
      const guest = await sw.guest('vh0');
      await sw.linkUp('vh0');
      const frames = Array.from({ length: 30 }, (_, i) => frame(MACS[0], MACS[1], 60 + i * 40, i));
      await send(a!, frames);
      const got: Uint8Array[] = [];
      await until('frames at the guest', () => got.push(...guest.queue(0).receive()) >= 30, PATIENCE_MS);
      t.deepEqual(got, frames);
      const back = frames.map((_, i) => frame(MACS[1], MACS[0], 60 + i * 40, i));
      guest.queue(0).send(back);
      t.deepEqual(await receive(a!, 30), back);
      const bytes = back.reduce((sum, { length }) => sum + length, 0);
      t.is(await statistic(sw, 'iv0', 'copied_bytes'), bytes);
    });
  });
});

const reason = unavailable();
const withTestpmd = reason === undefined ? test.serial : test.serial.skip;

withTestpmd(
  `frames of an ivshmem client come back whole from testpmd behind a vhost-user port ${reason ?? ''}`.trim(),
  async (t) => {
    await withSwitch([], async (sw) => {
      await withClients(sw, [[]], async ([a]) => {
        await sw.vsctl('add-port', 'br0', 'vh0', '--', 'set', 'Interface', 'vh0', 'type=vhost-user');
        await sw.ofctl('del-flows', 'br0');
        await sw.ofctl('add-flow', 'br0', 'in_port=iv0,actions=output:vh0');
        await sw.ofctl('add-flow', 'br0', 'in_port=vh0,actions=output:iv0');
        const devices = [{ path: sw.socket('vh0') }];
        const testpmd = await Testpmd.start({ devices, topology: 'loop', startTimeoutMs: PATIENCE_MS, mbufs: 16_384 });
        try {
          await sw.linkUp('vh0');
          await testpmd.startForwarding();
          // The frame that makes the megaflows.
          await send(a!, [frame(MACS[0], MACS[1])]);
          await receive(a!, 1);
          for (let turn = 0; turn < 10; turn++) {
            const frames = Array.from({ length: 100 }, (_, i) => frame(MACS[0], MACS[1], 60 + i * 14, turn + i));
            await send(a!, frames);
            t.deepEqual(await receive(a!, 100), frames);
          }
          const bytes = await statistic(sw, 'iv0', 'tx_bytes');
          t.is(await statistic(sw, 'iv0', 'copied_bytes'), bytes);
        } finally {
          await testpmd.kill();
        }
      });
    });
  },
);

test.serial('a wrong option is refused by name, and nothing is left of the port', async (t) => {
  await withSwitch([], async (sw) => {
    await withClients(sw, [['options:size=8M']], async () => {
      const add = (...options: string[]) =>
        sw.tool('rw-vsctl', 'add-port', 'br0', 'bad', '--', 'set', 'Interface', 'bad', 'type=ivshmem', ...options);
      for (const [option, said] of [
        ['options:size=16M', /option size of port bad is 16777216, but pool "br0", which other ports use, has 8388608/],
        ['options:size=9M', /not a power of two, which a PCI BAR must be; give 16M/],
        ['options:isolation=maybe', /option isolation is "maybe"; it takes none or copy/],
        ['options:vector=2', /option vector of port bad is not known; known are path, size, buffer-size, vectors/],
      ] as const) {
        const { code, stderr } = await add(option);
        t.not(code, 0, option);
        t.regex(stderr, said);
      }
      t.is((await sw.vsctl('list-ports', 'br0')).trim(), 'iv0');
      t.is(await column(sw, 'iv0', 'link_state'), 'up');
    });
  });
});
