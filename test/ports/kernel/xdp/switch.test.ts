import test from 'ava';
import { Child, run, until, which } from '../../../support/process.ts';
import { alive, type SwitchProcess, withSwitch } from '../../../support/switch.ts';
import { VethPair } from './veth-pair.ts';

const PATIENCE_MS = 60_000;
const missing = ['ip', 'busybox', 'iperf3'].filter((program) => !which(program));
const reason = process.getuid?.() !== 0 ? 'needs root' : missing.length > 0 ? `needs ${missing.join(', ')}` : '';
const onVeth = reason ? test.skip : test.serial;
const why = reason ? ` (skipped: ${reason})` : '';

/** A switch whose bridge joins two namespaces by ports of type afxdp. */
async function withPorts(
  options: readonly string[],
  body: (sw: SwitchProcess, a: VethPair, b: VethPair) => Promise<void>,
): Promise<void> {
  const pairs: VethPair[] = [];
  try {
    for (const host of [1, 2]) pairs.push(await VethPair.make(host));
    await withSwitch([], async (sw) => {
      await sw.vsctl('add-br', 'br0');
      for (const { near } of pairs) {
        await sw.vsctl('add-port', 'br0', near, '--', 'set', 'Interface', near, 'type=afxdp', ...options);
      }
      await sw.linkUp(pairs[0]!.near, pairs[1]!.near);
      await body(sw, pairs[0]!, pairs[1]!);
    });
  } finally {
    for (const pair of pairs) await pair.remove();
  }
}

const pings = async (from: VethPair, to: VethPair): Promise<boolean> =>
  (await run('ip', ['netns', 'exec', from.space, 'busybox', 'ping', '-c', '1', '-W', '2', to.address])).code === 0;

const reaches = (from: VethPair, to: VethPair): Promise<true> =>
  until(`${from.space} to reach ${to.space}`, async () => (await pings(from, to)) || undefined, PATIENCE_MS);

const status = (sw: SwitchProcess, port: string): Promise<string> => sw.vsctl('get', 'Interface', port, 'status');

onVeth(
  `namespaces reach each other through ports of type afxdp, which tell mode, counters and errors${why}`,
  async (t) => {
    await withPorts([], async (sw, a, b) => {
      await reaches(a, b);
      // Two workers, one tx queue.
      await sw.vsctl('set', 'Open_vSwitch', '.', 'other_config:pmd-cpu-mask=0x3');
      await until(
        'two workers',
        async () => ((await sw.appctl('dpif-netdev/pmd-rxq-show')).match(/pmd thread/g) ?? []).length === 2,
        PATIENCE_MS,
      );
      await reaches(a, b);
      const server = new Child('ip', ['netns', 'exec', b.space, 'iperf3', '-s', '-1', '--forceflush']);
      try {
        await server.waitFor(/Server listening/, 'iperf3 to listen', PATIENCE_MS);
        await a.exec('iperf3', '-c', b.address, '-n', '8M');
      } finally {
        await server.stop('SIGKILL');
      }
      t.regex(await status(sw, a.near), /backend=af_xdp.*xdp-mode=native/);
      const packets = /rx_packets=(\d+)/.exec(await sw.vsctl('get', 'Interface', a.near, 'statistics'));
      t.true(Number(packets![1]) > 100);

      const before = await sw.vsctl('get', 'Interface', a.near, 'options');
      const refused = await sw.tool('rw-vsctl', 'set', 'Interface', a.near, 'options:xdp-mode=fast');
      t.regex(refused.stderr + refused.stdout, /xdp-mode is "fast"; it takes best-effort or/);
      t.is(await sw.vsctl('get', 'Interface', a.near, 'options'), before);
      t.true(await pings(a, b));
    });
  },
);

onVeth(`a port follows its interface: down, away and back, another MTU${why}`, async (t) => {
  await withPorts([], async (sw, a, b) => {
    await reaches(a, b);
    await run('ip', ['link', 'set', a.near, 'down']);
    await until(
      'the port to say so',
      async () => /is down/.test(await sw.vsctl('get', 'Interface', a.near, 'error')),
      PATIENCE_MS,
    );
    t.deepEqual(await a.programs(), []);
    await run('ip', ['link', 'set', a.near, 'up']);
    await reaches(a, b);

    await a.unlink();
    await until(
      'the port to say so',
      async () => /no interface/.test(await sw.vsctl('get', 'Interface', a.near, 'error')),
      PATIENCE_MS,
    );
    t.true(alive(sw.datapathPid));
    await a.link({});
    await sw.linkUp(a.near);
    await reaches(a, b);
    t.is((await a.programs()).length, 1);

    for (const pair of [a, b]) {
      await run('ip', ['-n', pair.space, 'link', 'set', pair.far, 'mtu', '3000']);
      await run('ip', ['link', 'set', pair.near, 'mtu', '3000']);
      await until('the port to see it', async () => /mtu="3000"/.test(await status(sw, pair.near)), PATIENCE_MS);
    }
    const large = ['busybox', 'ping', '-c', '1', '-W', '2', '-s', '2900', b.address];
    await until(
      'a long frame to pass',
      async () => (await run('ip', ['netns', 'exec', a.space, ...large])).code === 0 || undefined,
      PATIENCE_MS,
    );
  });
});

onVeth(`no XDP program stays behind a data plane that is killed; the next one takes over${why}`, async (t) => {
  await withPorts([], async (sw, a, b) => {
    await reaches(a, b);
    const killed = sw.datapathPid;
    process.kill(killed, 'SIGKILL');
    await until('the data process to be gone', () => !alive(killed), PATIENCE_MS);
    await until('another data process', () => sw.datapathPid !== killed && sw.datapathPid > 0, PATIENCE_MS);
    await reaches(a, b);
    t.is((await a.programs()).length, 1);

    await sw.child.stop('SIGKILL');
    const left = sw.datapathPid;
    t.is((await a.programs()).length, 1);
    process.kill(left, 'SIGKILL');
    await until('the program to be gone', async () => (await a.programs()).length === 0, PATIENCE_MS);
  });
});

onVeth(`SIGTERM leaves interfaces as they were${why}`, async (t) => {
  await withPorts(['options:xdp-mode=generic'], async (sw, a) => {
    t.regex(await status(sw, a.near), /xdp-mode=generic/);
    t.is((await a.programs()).length, 1);
    await sw.child.stop('SIGTERM', 20_000);
    await until('the program to be gone', async () => (await a.programs()).length === 0, PATIENCE_MS);
    t.regex(await a.describe(), /promiscuity 0/);
  });
});

onVeth(`a system port on a veth end uses AF_XDP only when it is asked to, and says why${why}`, async (t) => {
  const pair = await VethPair.make(1);
  try {
    await withSwitch([], async (sw) => {
      await sw.vsctl(
        'add-br',
        'br0',
        '--',
        'add-port',
        'br0',
        pair.near,
        '--',
        'set',
        'Interface',
        pair.near,
        'type=system',
      );
      await sw.linkUp(pair.near);
      t.regex(await status(sw, pair.near), /backend=af_packet.*xdp_refused="?AF_XDP would hide the offloads of veth/);
      await sw.vsctl('set', 'Interface', pair.near, 'options:xdp-mode=best-effort');
      await until('AF_XDP', async () => /backend=af_xdp/.test(await status(sw, pair.near)), PATIENCE_MS);
    });
  } finally {
    await pair.remove();
  }
});
