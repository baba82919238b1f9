/** dpdk-testpmd, DPDK's own virtio driver, at both ends of the switch: closed loop, flowgen, device variants, crashes. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { allowedCpus } from '#contract/os.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { sleep, until } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';
import { Testpmd, type TestpmdOptions, unavailable, type VirtioUser } from '../support/testpmd.ts';

const reason = unavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

type Variant = Omit<VirtioUser, 'kind' | 'path' | 'role'>;

const PORTS = ['vhost0', 'vhost1'] as const;

/** Flows that join the two ports, without learning. */
const join2 = async (sw: SwitchProcess): Promise<void> => {
  await sw.ofctl('del-flows', 'br0');
  await sw.ofctl('add-flow', 'br0', 'in_port=vhost0,actions=output:vhost1');
  await sw.ofctl('add-flow', 'br0', 'in_port=vhost1,actions=output:vhost0');
};

const start = (sw: SwitchProcess, device: Variant, options: Partial<TestpmdOptions> = {}): Promise<Testpmd> =>
  Testpmd.start({
    devices: PORTS.map((port) => ({ ...device, path: sw.socket(port) })),
    startTimeoutMs: PATIENCE_MS,
    ...options,
  });

const counter = async (sw: SwitchProcess, port: string, name: string): Promise<number> =>
  Number((await sw.vsctl('get', 'Interface', port, `statistics:${name}`)).trim());

/** Frames go round and round through the switch, both ways. */
async function loop(sw: SwitchProcess, testpmd: Testpmd): Promise<void> {
  await sw.linkUp(...PORTS);
  await testpmd.closeLoop(2, PATIENCE_MS);
  const [first] = await testpmd.portStats();
  await testpmd.waitReceived(0, first!.rxPackets + 20_000, PATIENCE_MS);
  await testpmd.waitReceived(1, first!.rxPackets + 20_000, PATIENCE_MS);
  await testpmd.stopForwarding();
}

const VARIANTS: [name: string, device: Variant][] = [
  ['mrg_rxbuf=0,in_order=0', { packedVq: false, mrgRxbuf: false, inOrder: false }],
  ['mrg_rxbuf=0,in_order=1', { packedVq: false, mrgRxbuf: false, inOrder: true }],
  ['mrg_rxbuf=1,in_order=0', { packedVq: false, mrgRxbuf: true, inOrder: false }],
  ['mrg_rxbuf=1,in_order=1', { packedVq: false, mrgRxbuf: true, inOrder: true }],
  ['vectorized=1', { packedVq: false, mrgRxbuf: false, inOrder: true, vectorized: true }],
  ['rings of 256', { queueSize: 256 }],
];

maybe('a closed loop runs with every kind of split ring that virtio-user has', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await join2(sw);
    for (const [name, device] of VARIANTS) {
      const testpmd = await start(sw, device);
      try {
        await loop(sw, testpmd);
        const stats = await testpmd.portStats();
        t.true(
          stats.every(({ rxErrors }) => rxErrors === 0),
          name,
        );
        t.log(`${name}: ${stats.map(({ rxPackets }) => rxPackets).join(' and ')} frames`);
      } finally {
        await testpmd.quit();
      }
    }
    for (const port of PORTS) t.true((await counter(sw, port, 'rx_packets')) > VARIANTS.length * 20_000);
    t.notRegex(await sw.ofctl('dump-ports', 'br0'), /errs=[1-9]/);
  });
});

maybe('flowgen: what testpmd sent is what the switch counted, over many destinations', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await join2(sw);
    const testpmd = await start(sw, {}, { forward: 'flowgen', flowgenFlows: 64 });
    try {
      await sw.linkUp(...PORTS);
      const before = await counter(sw, 'vhost0', 'rx_packets');
      await testpmd.clearPortStats();
      await testpmd.startForwarding();
      await testpmd.waitReceived(1, 50_000, PATIENCE_MS);
      const totals = await testpmd.stopForwarding();
      t.true(totals.txPackets > 50_000);
      const [sent] = await testpmd.portStats();
      await until(
        'the switch to have taken all',
        async () => (await counter(sw, 'vhost0', 'rx_packets')) - before === sent!.txPackets,
        PATIENCE_MS,
      );
      t.regex(await sw.appctl('dpctl/dump-flows'), /in_port\(1\).*actions:2/);
    } finally {
      await testpmd.quit();
    }
  });
});

maybe('two queue pairs carry', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await join2(sw);
    const testpmd = await start(sw, {}, { queues: 2 });
    try {
      await loop(sw, testpmd);
      const rxqs = await sw.appctl('dpif-netdev/pmd-rxq-show');
      for (const port of PORTS)
        for (const queue of [0, 1]) t.regex(rxqs, new RegExp(`port: ${port}\\s+queue-id:\\s+${queue}\\b`));
    } finally {
      await testpmd.quit();
    }
  });
});

maybe('workers come and go under load, and the loop goes on', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await join2(sw);
    const testpmd = await start(sw, {}, { queues: 2 });
    try {
      await sw.linkUp(...PORTS);
      await testpmd.closeLoop(2, PATIENCE_MS);
      const [first, ...rest] = allowedCpus();
      const masks = [
        1n << BigInt(first!),
        ...rest.slice(0, 1).map((cpu) => (1n << BigInt(first!)) | (1n << BigInt(cpu))),
      ];
      for (const mask of [...masks, ...masks]) {
        await sw.vsctl('set', 'Open_vSwitch', '.', `other_config:pmd-cpu-mask=0x${mask.toString(16)}`);
        const threads = (await sw.appctl('dpif-netdev/pmd-rxq-show')).match(/^pmd thread/gm)!.length;
        t.is(threads, mask.toString(2).replaceAll('0', '').length);
        const stats = await testpmd.portStats();
        for (const { port, rxPackets } of stats) await testpmd.waitReceived(port, rxPackets + 5000, PATIENCE_MS);
      }
      await testpmd.stopForwarding();
      const refused = await sw.tool('rw-vsctl', 'set', 'Open_vSwitch', '.', 'other_config:pmd-cpu-mask=0');
      t.not(refused.code, 0);
      t.regex(refused.stderr, /pmd-cpu-mask/);
    } finally {
      await testpmd.quit();
    }
  });
});

maybe('the switch connects to testpmd that listens, again after testpmd was killed', async (t) => {
  await withSwitch([], async (sw) => {
    const socket = (port: string): string => join(sw.rundir, `pmd-${port}`);
    const ports = PORTS.flatMap((port) => [
      ...['--', 'add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${socket(port)}`,
    ]);
    await sw.vsctl('add-br', 'br0', ...ports);
    await join2(sw);
    for (let round = 0; round < 2; round++) {
      // DPDK does not take over the sockets of a process that was killed.
      for (const port of PORTS) rmSync(socket(port), { force: true });
      const testpmd = await Testpmd.start({
        devices: PORTS.map((port) => ({ path: socket(port), role: 'server' })),
        startTimeoutMs: PATIENCE_MS,
      });
      try {
        await loop(sw, testpmd);
        await testpmd.startForwarding(1);
        await sleep(100);
      } finally {
        await testpmd.kill();
      }
      const down = async () => (await sw.vsctl('get', 'Interface', 'vhost0', 'link_state')).trim() === 'down';
      await until('the switch to notice', down, PATIENCE_MS);
    }
    t.pass();
  });
});

maybe('testpmd killed under load leaves the switch in order, and the next one runs', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await join2(sw);
    for (let round = 0; round < 3; round++) {
      const testpmd = await start(sw, {}, { forward: round % 2 === 0 ? 'io' : 'flowgen' });
      try {
        await sw.linkUp(...PORTS);
        await testpmd.startForwarding(round % 2 === 0 ? 8 : 0);
        await sleep(300);
      } finally {
        await testpmd.kill();
      }
      await until(
        'the switch to notice',
        async () => (await sw.vsctl('get', 'Interface', 'vhost1', 'link_state')).trim() === 'down',
        PATIENCE_MS,
      );
    }
    const testpmd = await start(sw, {});
    try {
      await loop(sw, testpmd);
    } finally {
      await testpmd.quit();
    }
    t.is(sw.child.exit, undefined);
  });
});

maybe('testpmd waits for a data plane that was killed, as the listening side, and goes on', async (t) => {
  await withSwitch([], async (sw) => {
    const socket = (port: string): string => join(sw.rundir, `pmd-${port}`);
    const ports = PORTS.flatMap((port) => [
      ...['--', 'add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=vhost-user'],
      'options:mode=client',
      `options:path=${socket(port)}`,
    ]);
    await sw.vsctl('add-br', 'br0', ...ports);
    await join2(sw);
    const testpmd = await Testpmd.start({
      devices: PORTS.map((port) => ({ path: socket(port), role: 'server' })),
      startTimeoutMs: PATIENCE_MS,
    });
    try {
      await loop(sw, testpmd);
      const before = sw.datapathPid;
      process.kill(before, 'SIGKILL');
      await until('another data plane', () => sw.datapathPid !== before, PATIENCE_MS);
      await loop(sw, testpmd);
      t.not(sw.datapathPid, before);
    } finally {
      await testpmd.quit();
    }
  });
});
