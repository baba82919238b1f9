/** Tunnels of the whole switch: to Open vSwitch's userspace datapath, and to the kernel's own devices where it has them. */
import { chmodSync, existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { kernelMakes, type NetnsLab, netnsMissing, withLab } from '../support/netns.ts';
import { type Ovs, startOvs } from '../support/ovs.ts';
import { unavailable } from '../support/ovs-dummy.ts';
import { removeScratchDir, run, scratchDir, until, which } from '../support/process.ts';
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

/** Switch in namespace s: br0 with system port under, host a behind int0; the other end's namespace is r. @param mtu of the underlay. */
async function ourSide(lab: NetnsLab, sw: SwitchProcess, mtu = 1500): Promise<void> {
  await lab.add('a');
  await lab.add('r');
  await lab.veth('s', 'va', 'a', '10.88.0.1/24', 'fd88::1/64');
  await lab.veth('s', 'under', 'r');
  for (const [name, device] of [
    ['s', 'under'],
    ['r', 'eth0'],
  ] as const)
    await lab.ip(name, 'link', 'set', device, 'mtu', String(mtu));
  for (const [name, device] of [
    ['s', 'va'],
    ['a', 'eth0'],
  ] as const)
    await lab.ip(name, 'link', 'set', device, 'mtu', String(mtu - 100));
  await sw.vsctl('add-br', 'br0');
  await sw.vsctl('add-br', 'int0');
  await sw.vsctl('add-port', 'br0', 'under', '--', 'set', 'Interface', 'under', 'type=system', 'options:xdp-mode=off');
  await sw.vsctl('add-port', 'int0', 'va', '--', 'set', 'Interface', 'va', 'type=system', 'options:xdp-mode=off');
  await lab.ip('s', 'address', 'add', '10.77.0.1/24', 'dev', 'br0');
  await lab.ip('s', 'address', 'add', 'fd77::1/64', 'dev', 'br0', 'nodad');
  // The host would answer ARP for br0's address on under as well.
  await lab.tryExec('s', 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore');
  await lab.ip('s', 'link', 'set', 'br0', 'up');
  await sw.linkUp('under', 'va');
}

/** Of 16 MB sent: iperf3 does not count what buffers at both ends still hold when it is done. */
const STREAM = 3e6;

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
  const answered = (to: string, bytes: number) => async () => (await lab.ping('a', to, 1, bytes)).received === 1;
  // A busy machine may lose one of the fragments.
  await until(`${what}: an answer in fragments`, answered('10.88.0.2', 4000), PATIENCE_MS);
  await until(`${what}: an answer by IPv6`, answered('fd88::2', 1000), PATIENCE_MS);
  t.pass(what);
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

for (const type of ['vxlan', 'geneve', 'gre'] as const) {
  const lacks = netnsMissing('busybox', 'iperf3') || (kernelMakes(type) ? '' : `this kernel has no ${type} devices`);
  const maybeKernel = lacks === '' ? test.serial : test.serial.skip;
  const title = `hosts reach each other through ${type} tunnels to the kernel${lacks ? ` (skipped: ${lacks})` : ''}`;
  maybeKernel(title, (t) => toTheKernel(t, type));
}

async function toTheKernel(t: ExecutionContext, type: Kind['type']): Promise<void> {
  t.timeout(6 * PATIENCE_MS);
  await withLab(async (lab) => {
    await lab.add('s');
    await withSwitch(
      [],
      async (sw) => {
        await ourSide(lab, sw);
        await lab.ip('r', 'address', 'add', '10.77.0.2/24', 'dev', 'eth0');
        await lab.ip('r', 'address', 'add', 'fd77::2/64', 'dev', 'eth0', 'nodad');
        for (const kind of KINDS.filter((one) => one.type === type)) {
          const { six } = kind;
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
          const { sum_received: stream } = await lab.iperf('r', 'a', '10.88.0.1', '-n', '16M');
          t.true(stream.bytes > STREAM, `TCP by ${type} over IPv${six ? 6 : 4}`);
          t.notRegex(await sw.vsctl('get', 'Interface', 'under', 'statistics'), /rx_bad_offload/);
          await lab.ip('r', 'link', 'delete', 'tun0');
        }
      },
      lab.under('s'),
    );
  });
}

/** Kernel namespace with a vxlan device to another one. */
async function kernelVxlan(lab: NetnsLab, name: string, n: number, to: string, ...more: string[]): Promise<void> {
  const ends = ['remote', to, 'local', `10.77.0.${n}`, ...more];
  await lab.ip(name, 'link', 'add', 'tun0', 'type', 'vxlan', 'id', '77', 'dstport', '4789', ...ends);
  await lab.ip(name, 'link', 'set', 'tun0', 'mtu', '8900', 'up');
  await lab.ip(name, 'address', 'add', `10.88.0.${n}/24`, 'dev', 'tun0');
}

/** Streams both ways and datagrams of both sizes between a and r. */
async function streams(lab: NetnsLab, t: ExecutionContext, what: string): Promise<void> {
  for (const [from, to, address] of [
    ['a', 'r', '10.88.0.2'],
    ['r', 'a', '10.88.0.1'],
  ] as const) {
    const tcp = await lab.iperf(from, to, address, '-n', '16M');
    t.true(tcp.sum_received.bytes > STREAM, `${what}: TCP from ${from}`);
    const udp = await lab.iperf(
      from,
      to,
      address,
      '-u',
      '-b',
      '30M',
      '-l',
      from === 'a' ? '1000' : '8000',
      '-n',
      '400K',
    );
    t.true(udp.sum!.lost_packets < udp.sum!.packets, `${what}: UDP from ${from}`);
    t.log(
      `${what} from ${from}: TCP ${Math.round(tcp.sum_received.bits_per_second / 1e6)} Mbit/s, UDP lost ${udp.sum!.lost_packets} of ${udp.sum!.packets}`,
    );
  }
}

/** Pings of an installed flow go on while the control plane is killed and comes again. */
async function restartUnder(lab: NetnsLab, sw: SwitchProcess, t: ExecutionContext): Promise<void> {
  await lab.reaches('a', '10.88.0.2');
  const pings = lab.start('a', 'busybox', 'ping', '-i', '0.1', '-c', '40', '10.88.0.2');
  await sw.child.stop('SIGKILL');
  await sw.restart();
  await sw.linkUp('under', 'va');
  const told = await pings.waitFor(/packets received/, 'the end of the pings', PATIENCE_MS);
  const [line, sent, received] = /(\d+) packets transmitted, (\d+) packets received/.exec(told)!;
  t.log(`over a restart: ${line}`);
  // A busy machine may lose one.
  t.true(Number(received) >= Number(sent) - 2, line);
  t.regex(await sw.appctl('tnl/neigh/show'), /10\.77\.0\.2/);
}

/** Host b is reached by a tag in the tunnel: the kernel's device, its end in r, is a port beside b. */
async function acrossTag(lab: NetnsLab, sw: SwitchProcess, t: ExecutionContext): Promise<void> {
  await lab.add('b');
  await lab.veth('s', 'vb', 'b', '10.88.0.3/24');
  await lab.ip('s', 'link', 'set', 'vb', 'mtu', '8900');
  await lab.ip('b', 'link', 'set', 'eth0', 'mtu', '8900');
  await lab.ip('r', 'link', 'set', 'tun0', 'netns', lab.space('s'));
  await lab.ip('s', 'link', 'set', 'tun0', 'up');
  await sw.vsctl('add-br', 'int1', '--', 'set', 'port', 'va', 'tag=5');
  for (const device of ['vb', 'tun0'])
    await sw.vsctl('add-port', 'int1', device, '--', 'set', 'Interface', device, 'type=system', 'options:xdp-mode=off');
  await sw.vsctl('set', 'port', 'vb', 'tag=5');
  await sw.linkUp('vb', 'tun0');
  await lab.reaches('a', '10.88.0.3');
  for (const [from, to, n] of [
    ['a', 'b', 3],
    ['b', 'a', 1],
  ] as const)
    t.true(
      (await lab.iperf(from, to, `10.88.0.${n}`, '-n', '16M')).sum_received.bytes > STREAM,
      `tagged, from ${from}`,
    );
  const tagged = async () => {
    await lab.ping('a', '10.88.0.3');
    return /push_vlan\(vid=5/.test(await sw.appctl('dpctl/dump-flows'));
  };
  await until('the tag to be among the flows', tagged, PATIENCE_MS);
}

const DECODED = ['vxlan.vni', 'ip.checksum.status', 'udp.checksum.status', 'tcp.checksum.status'];

/** Each frame with TCP that comes to r during `body`, as tshark reads it: values of DECODED. */
async function decoded(lab: NetnsLab, folder: string, body: () => Promise<unknown>): Promise<string[]> {
  const file = join(folder, 'far.pcap');
  const capture = lab.start('r', 'tcpdump', '-i', 'eth0', '-w', file, '-U', '--immediate-mode', '-Q', 'in', 'udp');
  await capture.waitFor(/listening on/, 'the capture', PATIENCE_MS);
  await body();
  // Dozens of frames as long as the MTU, 9000 bytes.
  const held = () => existsSync(file) && statSync(file).size > 500_000;
  await until('the capture to hold what came', held, PATIENCE_MS);
  await capture.stop('SIGINT', PATIENCE_MS);
  const checks = ['tcp', 'udp', 'ip'].flatMap((layer) => ['-o', `${layer}.check_checksum:TRUE`]);
  const fields = DECODED.flatMap((field) => ['-e', field]);
  const { stdout } = await run('tshark', ['-r', file, '-Y', 'tcp', ...checks, '-T', 'fields', ...fields], {
    timeoutMs: PATIENCE_MS,
  });
  return stdout.split('\n').filter((line) => line.trim() !== '');
}

const without =
  netnsMissing('busybox', 'iperf3', 'ethtool', 'tcpdump', 'tshark') ||
  (kernelMakes('vxlan') ? '' : 'the kernel has no vxlan');
const offloads = without === '' ? test.serial : test.serial.skip;
offloads(`streams pass tunnels to the kernel, its offloads on and off${without ? ` (${without})` : ''}`, async (t) => {
  t.timeout(6 * PATIENCE_MS);
  await withLab(async (lab) => {
    await lab.add('s');
    await withSwitch(
      [],
      async (sw) => {
        await ourSide(lab, sw, 9000);
        await lab.ip('r', 'address', 'add', '10.77.0.2/24', 'dev', 'eth0');
        await kernelVxlan(lab, 'r', 2, '10.77.0.1', 'udpcsum');
        await ourTunnel(sw, { type: 'vxlan', six: false, options: { csum: 'true' } });
        await lab.reaches('a', '10.88.0.2');
        await streams(lab, t, 'offloads on');
        await restartUnder(lab, sw, t);
        const frames = await decoded(lab, sw.rundir, () => lab.iperf('a', 'r', '10.88.0.2', '-n', '2M'));
        t.true(frames.length > 10);
        // Both IP headers, UDP and the TCP inside.
        t.deepEqual(frames.filter((line) => line !== '77\t1,1\t1\t1').slice(0, 3), []);

        for (const [name, device] of [
          ['a', 'eth0'],
          ['r', 'eth0'],
          ['r', 'tun0'],
        ] as const)
          await lab.exec(name, 'ethtool', '-K', device, 'tx', 'off', 'tso', 'off', 'gso', 'off');
        await streams(lab, t, 'offloads off');
        t.notRegex(await sw.vsctl('get', 'Interface', 'under', 'statistics'), /rx_bad_offload/);
        await acrossTag(lab, sw, t);
      },
      lab.under('s'),
    );
  });
});

offloads(
  `a bridge between tunnels of kernels passes what they did not cut${without ? ` (${without})` : ''}`,
  async (t) => {
    t.timeout(6 * PATIENCE_MS);
    await withLab(async (lab) => {
      for (const name of ['s', 'q', 'r']) await lab.add(name);
      await withSwitch(
        [],
        async (sw) => {
          await sw.vsctl('add-br', 'br0');
          for (const [n, name] of ['q', 'r'].entries()) {
            await lab.veth('s', `v${name}`, name, `10.77.0.${n + 1}/24`);
            await sw.vsctl(
              'add-port',
              'br0',
              `v${name}`,
              '--',
              'set',
              'Interface',
              `v${name}`,
              'type=system',
              'options:xdp-mode=off',
            );
            await kernelVxlan(lab, name, n + 1, `10.77.0.${2 - n}`, ...(n === 0 ? ['udpcsum'] : []));
            await lab.ip(name, 'link', 'set', 'tun0', 'mtu', '1450');
          }
          await sw.linkUp('vq', 'vr');
          await lab.reaches('q', '10.88.0.2');
          for (const [from, to, n] of [
            ['q', 'r', 2],
            ['r', 'q', 1],
          ] as const)
            t.true((await lab.iperf(from, to, `10.88.0.${n}`, '-n', '16M')).sum_received.bytes > STREAM);
          for (const port of ['vq', 'vr']) {
            const told = await sw.vsctl('get', 'Interface', port, 'statistics');
            t.regex(told, /segmented=[1-9]/);
            t.notRegex(told, /rx_bad_offload/);
          }
        },
        lab.under('s'),
      );
    });
  },
);
