/** Tunnels of the whole switch: to Open vSwitch's userspace datapath, and to the kernel's own devices where it has them. */
import { spawnSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { type NetnsLab, netnsMissing, withLab } from '../support/netns.ts';
import { type Ovs, startOvs } from '../support/ovs.ts';
import { unavailable } from '../support/ovs-dummy.ts';
import { removeScratchDir, scratchDir, which } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';

interface Kind {
  readonly type: 'vxlan' | 'geneve' | 'gre';
  readonly six: boolean;
  readonly options: Readonly<Record<string, string>>;
}

const KINDS: readonly Kind[] = [
  { type: 'vxlan', six: false, options: {} },
  { type: 'geneve', six: false, options: { csum: 'true' } },
  { type: 'gre', six: false, options: {} },
  { type: 'vxlan', six: true, options: {} },
];

/** Switch in namespace s: br0 with system port under, host a behind int0; the other end's namespace is r. */
async function ourSide(lab: NetnsLab, sw: SwitchProcess): Promise<void> {
  await lab.add('a');
  await lab.add('r');
  await lab.veth('s', 'va', 'a', '10.88.0.1/24', 'fd88::1/64');
  await lab.veth('s', 'under', 'r');
  await lab.ip('a', 'link', 'set', 'eth0', 'mtu', '1400');
  await sw.vsctl('add-br', 'br0');
  await sw.vsctl('add-br', 'int0');
  await sw.vsctl('add-port', 'br0', 'under', '--', 'set', 'Interface', 'under', 'type=system', 'options:xdp-mode=off');
  await sw.vsctl('add-port', 'int0', 'va', '--', 'set', 'Interface', 'va', 'type=system', 'options:xdp-mode=off');
  await lab.ip('s', 'address', 'add', '10.77.0.1/24', 'dev', 'br0');
  await lab.ip('s', 'address', 'add', 'fd77::1/64', 'dev', 'br0', 'nodad');
  await lab.ip('s', 'link', 'set', 'br0', 'up');
  await sw.linkUp('under', 'va');
}

const remoteOf = (six: boolean, n: number): string => (six ? `fd77::${n}` : `10.77.0.${n}`);

async function ourTunnel(sw: SwitchProcess, { type, six, options }: Kind): Promise<void> {
  const columns = Object.entries({ remote_ip: remoteOf(six, 2), key: '77', ...options });
  const set = columns.map(([key, value]) => `options:${key}=${value.includes(':') ? `"${value}"` : value}`);
  await sw.vsctl(
    '--if-exists',
    'del-port',
    'int0',
    'tun',
    '--',
    'add-port',
    'int0',
    'tun',
    '--',
    'set',
    'Interface',
    'tun',
    `type=${type}`,
    ...set,
  );
}

async function traffic(lab: NetnsLab, sw: SwitchProcess, t: ExecutionContext, what: string): Promise<void> {
  try {
    await lab.reaches('a', '10.88.0.2');
  } catch (error) {
    const told = await Promise.all([
      sw.appctl('dpctl/dump-flows'),
      sw.appctl('tnl/neigh/show'),
      sw.appctl('ovs/route/show'),
    ]);
    throw new Error(`${what}: ${(error as Error).message}\n${told.join('\n')}`);
  }
  // A busy machine may lose one of the fragments.
  const big = await lab.ping('a', '10.88.0.2', 2, 4000);
  t.true(big.received > 0, `${what}: ping in fragments`);
  const six = await lab.ping('a', 'fd88::2', 2, 1000);
  t.true(six.received > 0, `${what}: IPv6`);
  t.log(`${what}: ${big.received} of ${big.sent} pings in fragments, ${six.received} of ${six.sent} by IPv6`);
}

const missing = netnsMissing('busybox', 'ethtool') || (unavailable() ?? '');
const maybe = missing === '' ? test.serial : test.serial.skip;

async function ovsSide(lab: NetnsLab, folder: string): Promise<Ovs> {
  const daemon = join(folder, 'daemon');
  writeFileSync(daemon, `#!/bin/sh\nexec ${[...lab.under('r'), which('ovs-vswitchd')!].join(' ')} "$@"\n`);
  chmodSync(daemon, 0o755);
  const ovs = await startOvs({ daemon, daemonArgs: ['--disable-system'] });
  try {
    await ovs.vsctl(
      'add-br',
      'br0',
      '--',
      'set',
      'bridge',
      'br0',
      'datapath_type=netdev',
      '--',
      'add-port',
      'br0',
      'eth0',
    );
    await ovs.vsctl('add-br', 'int0', '--', 'set', 'bridge', 'int0', 'datapath_type=netdev');
    await lab.ip('r', 'address', 'add', '10.77.0.2/24', 'dev', 'br0');
    await lab.ip('r', 'address', 'add', 'fd77::2/64', 'dev', 'br0', 'nodad');
    await lab.ip('r', 'link', 'set', 'br0', 'up');
    await lab.ip('r', 'address', 'add', '10.88.0.2/24', 'dev', 'int0');
    await lab.ip('r', 'address', 'add', 'fd88::2/64', 'dev', 'int0', 'nodad');
    await ovs.vsctl('set', 'Interface', 'int0', 'mtu_request=1400');
    await lab.ip('r', 'link', 'set', 'int0', 'up');
    return ovs;
  } catch (error) {
    await ovs.stop();
    throw error;
  }
}

maybe(`hosts reach each other through tunnels to Open vSwitch${missing ? ` (${missing})` : ''}`, async (t) => {
  t.timeout(6 * PATIENCE_MS);
  const folder = scratchDir('tun');
  try {
    await withLab(async (lab) => {
      await lab.add('s');
      await withSwitch(
        [],
        async (sw) => {
          await ourSide(lab, sw);
          // Its datapath leaves checksums of its own port to nobody.
          const ovs = await ovsSide(lab, folder);
          try {
            for (const device of ['br0', 'int0', 'eth0'])
              await lab.tryExec('r', 'ethtool', '-K', device, 'tx', 'off', 'gso', 'off');
            for (const kind of KINDS) {
              const { type, six, options } = kind;
              const set = Object.entries({ remote_ip: remoteOf(six, 1), key: '77', ...options });
              const columns = set.map(([key, value]) => `options:${key}=${value.includes(':') ? `"${value}"` : value}`);
              await ovs.vsctl(
                '--if-exists',
                'del-port',
                'int0',
                'tun',
                '--',
                'add-port',
                'int0',
                'tun',
                '--',
                'set',
                'Interface',
                'tun',
                `type=${type}`,
                ...columns,
              );
              await ourTunnel(sw, kind);
              await traffic(lab, sw, t, `${type} over IPv${six ? 6 : 4}`);
            }
          } finally {
            await ovs.stop();
          }
        },
        lab.under('s'),
      );
    });
  } finally {
    removeScratchDir(folder);
  }
});

/** Whether the kernel can make devices of a type. */
function kernelHas(type: string): boolean {
  if (netnsMissing('busybox') !== '') return false;
  const key = type === 'gre' ? ['type', 'gretap', 'key', '1'] : ['type', type, 'id', '1'];
  const port = type === 'vxlan' ? ['dstport', '4789'] : [];
  const made = spawnSync('ip', ['link', 'add', 'rwprobe', ...key, ...port, 'remote', '192.0.2.1']);
  if (made.status === 0) spawnSync('ip', ['link', 'delete', 'rwprobe']);
  return made.status === 0;
}

const kernelKinds = KINDS.filter(({ type }) => kernelHas(type));
const lacks = netnsMissing('busybox') || (kernelKinds.length === 0 ? 'the kernel has no tunnels' : '');
const kernel = lacks === '' ? test.serial : test.serial.skip;
kernel(`hosts reach each other through tunnels to the kernel${lacks ? ` (${lacks})` : ''}`, async (t) => {
  t.timeout(6 * PATIENCE_MS);
  await withLab(async (lab) => {
    await lab.add('s');
    await withSwitch(
      [],
      async (sw) => {
        await ourSide(lab, sw);
        await lab.ip('r', 'address', 'add', '10.77.0.2/24', 'dev', 'eth0');
        await lab.ip('r', 'address', 'add', 'fd77::2/64', 'dev', 'eth0', 'nodad');
        // Nobody would segment what is wrapped.
        await lab.tryExec(
          'r',
          'ethtool',
          '-K',
          'eth0',
          'tx-udp_tnl-segmentation',
          'off',
          'tx-udp_tnl-csum-segmentation',
          'off',
        );
        for (const kind of kernelKinds) {
          const { type, six } = kind;
          const ends = ['remote', remoteOf(six, 1), 'local', remoteOf(six, 2)];
          const make = {
            vxlan: ['type', 'vxlan', 'id', '77', 'dstport', '4789', ...ends],
            geneve: ['type', 'geneve', 'id', '77', 'remote', remoteOf(six, 1), 'udpcsum'],
            gre: ['type', 'gretap', 'key', '77', ...ends],
          };
          await lab.ip('r', 'link', 'add', 'tun0', ...make[type]);
          await lab.ip('r', 'address', 'add', '10.88.0.2/24', 'dev', 'tun0');
          await lab.ip('r', 'address', 'add', 'fd88::2/64', 'dev', 'tun0', 'nodad');
          await lab.ip('r', 'link', 'set', 'tun0', 'mtu', '1400', 'up');
          await ourTunnel(sw, kind);
          // The device has another address than the one before it.
          await lab.ip('a', 'neighbour', 'flush', 'all');
          await traffic(lab, sw, t, `${type} over IPv${six ? 6 : 4}`);
          await lab.ip('r', 'link', 'delete', 'tun0');
        }
      },
      lab.under('s'),
    );
  });
});
