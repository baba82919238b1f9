/** Docker containers on networks of the driver, with a real dockerd, through crashes of every daemon. */
import { existsSync } from 'node:fs';
import test from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { DockerDaemon, whyNoDocker } from '../support/docker.ts';
import { NetnsLab } from '../support/netns.ts';
import { runOk, until } from '../support/process.ts';
import { alive, SwitchProcess } from '../support/switch.ts';

const why = await whyNoDocker();
const maybe = why === '' ? test.serial : test.serial.skip;
const title = (text: string): string => (why === '' ? text : `${text} (${why})`);

/** The plugin's folder is the host's: a name of our own keeps out of the way of others. */
const DRIVER = `rwt${process.pid}`;
const SOCKET = `/run/docker/plugins/${DRIVER}.sock`;

interface Lab {
  /** Runs a program on the host. */
  onHost(file: string, ...words: string[]): Promise<string>;
  readonly sw: SwitchProcess;
  readonly daemon: DockerDaemon;
  create(network: string, subnet: string, ...options: string[]): Promise<void>;
  /** Starts a container that stays, with this address. */
  start(name: string, network: string, ip: string): Promise<void>;
  /** Whether one of three pings from a container is answered. */
  pings(container: string, ip: string): Promise<boolean>;
  /** Waits until it is. */
  reaches(container: string, ip: string): Promise<void>;
}

async function withLab(body: (lab: Lab) => Promise<void>): Promise<void> {
  const lab = new NetnsLab();
  let sw: SwitchProcess | undefined;
  let daemon: DockerDaemon | undefined;
  try {
    await lab.add('host');
    sw = await SwitchProcess.startUnder(lab.under('host'));
    const running = sw;
    await sw.vsctl('set', 'Open_vSwitch', '.', `other_config:docker-socket=${SOCKET}`, 'other_config:docker=true');
    // Containers outlive their daemon.
    daemon = await DockerDaemon.start(lab.space('host'), '--live-restore');
    await daemon.importBusybox();
    const { docker, tryDocker } = {
      docker: daemon.docker.bind(daemon),
      tryDocker: daemon.tryDocker.bind(daemon),
    };
    const pings: Lab['pings'] = async (container, ip) => {
      const { stdout } = await tryDocker('exec', container, 'ping', '-c', '3', '-i', '0.2', '-W', '1', ip);
      return /[123] packets received/.test(stdout);
    };
    await body({
      sw,
      onHost: (file, ...words) => lab.exec('host', file, ...words),
      daemon,
      create: async (network, subnet, ...options) => {
        await docker('network', 'create', '-d', DRIVER, '--subnet', subnet, ...options, network);
      },
      start: async (name, network, ip) => {
        await docker('run', '-d', '--name', name, '--network', network, '--ip', ip, 'busybox', 'sleep', '100000');
      },
      pings,
      reaches: (container, ip) =>
        until(
          `${container} to reach ${ip}`,
          () => pings(container, ip),
          PATIENCE_MS,
          () => running.child.tail(),
        ).then(() => undefined),
    });
  } catch (error) {
    (error as Error).message += `\n${sw?.child.tail()}\n${daemon?.tail() ?? ''}`;
    throw error;
  } finally {
    await daemon?.close();
    await sw?.close();
    await lab.close();
  }
}

maybe(
  title('containers reach each other, by name too, and the host; inspect tells the truth; nothing is left'),
  async (t) => {
    await withLab(async ({ sw, daemon, create, start, pings, reaches, onHost }) => {
      const devices = (): Promise<string> => onHost('ip', '-o', 'link', 'show');
      await create('lan', '172.29.1.0/24');
      await start('c1', 'lan', '172.29.1.11');
      await start('c2', 'lan', '172.29.1.12');
      await reaches('c1', '172.29.1.12');
      await reaches('c2', 'c1');
      await reaches('c1', '172.29.1.1');
      const fromHost = () => onHost('busybox', 'ping', '-c', '3', '-W', '5', '172.29.1.12').catch(() => '');
      await until('the host to reach c2', async () => /[123] packets received/.test(await fromHost()), PATIENCE_MS);

      const network = await daemon.inspect('network', 'inspect', 'lan');
      t.is(network.Driver, DRIVER);
      t.is(network.IPAM.Config[0].Subnet, '172.29.1.0/24');
      const told = Object.values<{ Name: string; MacAddress: string }>(network.Containers);
      t.deepEqual(told.map(({ Name }) => Name).sort(), ['c1', 'c2']);
      const { MacAddress } = told.find(({ Name }) => Name === 'c1')!;
      t.regex(await daemon.docker('exec', 'c1', 'ip', 'link', 'show', 'eth0'), new RegExp(MacAddress));
      t.regex(await daemon.docker('exec', 'c1', 'route', '-n'), /^0\.0\.0\.0 +172\.29\.1\.1 /m);

      await daemon.docker('network', 'disconnect', 'lan', 'c2');
      t.false(await pings('c1', '172.29.1.12'));
      await daemon.docker('network', 'connect', '--ip', '172.29.1.13', 'lan', 'c2');
      await reaches('c1', '172.29.1.13');

      const made = (await devices()).match(/: rw[^ ]+/g) ?? [];
      t.is(made.length, 3, 'a bridge and two ports');
      await daemon.docker('rm', '-f', 'c1', 'c2');
      await daemon.docker('network', 'rm', 'lan');
      const gone = async () => !/: rw/.test(await devices());
      await until('the devices to be gone', gone, PATIENCE_MS);
      t.is((await sw.vsctl('list-br')).trim(), '');
      await sw.vsctl('set', 'Open_vSwitch', '.', 'other_config:docker=false');
      await until("the plugin's socket to be gone", () => !existsSync(SOCKET), PATIENCE_MS);
    });
  },
);

maybe(title('networks are apart; VLAN, MTU, isolation and an IPv6 subnet are obeyed; mistakes are told'), async (t) => {
  await withLab(async ({ sw, daemon, create, start, pings, reaches }) => {
    await sw.vsctl('add-br', 'lab0');
    await create(
      'v30',
      '172.29.3.0/24',
      '-o',
      'ringway.bridge=lab0',
      '-o',
      'ringway.vlan=30',
      '-o',
      'ringway.mtu=1400',
    );
    const shut = ['--ipv6', '--subnet', 'fd00:29:4::/64', '-o', 'ringway.isolate=true'];
    await create('shut', '172.29.4.0/24', ...shut);
    await start('v1', 'v30', '172.29.3.11');
    await start('v2', 'v30', '172.29.3.12');
    await start('s1', 'shut', '172.29.4.11');
    await start('s2', 'shut', '172.29.4.12');
    await reaches('v1', '172.29.3.12');
    await reaches('v1', '172.29.3.1');
    t.regex(await daemon.docker('exec', 'v1', 'ip', 'link', 'show', 'eth0'), /mtu 1400/);
    const ports = (await sw.vsctl('list-ports', 'lab0')).trim().split('\n');
    t.is(ports.length, 3);
    for (const port of ports) t.is((await sw.vsctl('get', 'Port', port, 'tag')).trim(), '30');
    await reaches('s1', '172.29.4.1');
    await reaches('s1', 'fd00:29:4::1');
    t.false(await pings('s1', '172.29.4.12'), 'isolated: no other container');
    const bad = await daemon.tryDocker('network', 'create', '-d', DRIVER, '-o', 'ringway.vlan=5000', 'no');
    t.not(bad.code, 0);
    t.regex(bad.stderr, /option ringway\.vlan is "5000"; it takes 1 to 4094/);
    const options = (await daemon.inspect('network', 'inspect', 'v30')).Options;
    t.deepEqual(options, { 'ringway.bridge': 'lab0', 'ringway.vlan': '30', 'ringway.mtu': '1400' });
    await daemon.docker('rm', '-f', 'v1', 'v2', 's1', 's2');
    await daemon.docker('network', 'rm', 'v30', 'shut');
    t.is((await sw.vsctl('list-br')).trim(), 'lab0');
    t.is((await sw.vsctl('list-ports', 'lab0')).trim(), '');
  });
});

maybe(
  title('containers go on through kill -9 of the control plane, the data plane, dockerd, and all of them'),
  async (t) => {
    await withLab(async ({ sw, daemon, create, start, reaches }) => {
      await create('lan', '172.29.2.0/24');
      await start('c1', 'lan', '172.29.2.11');
      await start('c2', 'lan', '172.29.2.12');
      await reaches('c1', '172.29.2.12');

      // Without a control plane there is no new flow: neither of them may ask for the other's address then.
      const pairs = [
        ['c1', 'c2', '172.29.2.12'],
        ['c2', 'c1', '172.29.2.11'],
      ] as const;
      const neighbour = async (one: string, ...words: string[]): Promise<string> => {
        const { State } = await daemon.inspect('inspect', one);
        return runOk('nsenter', [`--net=/proc/${State.Pid}/ns/net`, 'ip', 'neighbour', ...words, 'dev', 'eth0']);
      };
      for (const [one, other, ip] of pairs) {
        const mac = await daemon.docker('exec', other, 'cat', '/sys/class/net/eth0/address');
        await neighbour(one, 'replace', ip, 'lladdr', mac.trim(), 'nud', 'permanent');
      }
      await reaches('c1', '172.29.2.12');
      await sw.child.stop('SIGKILL');
      await reaches('c1', '172.29.2.12');
      await sw.restart();
      for (const [one, , ip] of pairs) await neighbour(one, 'delete', ip);
      await reaches('c1', '172.29.2.1');
      await start('c3', 'lan', '172.29.2.13');
      await reaches('c3', '172.29.2.11');

      const before = sw.datapathPid;
      process.kill(before, 'SIGKILL');
      await until('a new data plane', () => sw.datapathPid !== before && alive(sw.datapathPid), PATIENCE_MS);
      await reaches('c1', '172.29.2.12');
      await reaches('c1', '172.29.2.1');

      await daemon.kill();
      await daemon.restart();
      await reaches('c1', '172.29.2.13');
      await daemon.docker('restart', '-t', '0', 'c2');
      await reaches('c1', '172.29.2.12');

      const all = sw.datapathPid;
      await daemon.kill();
      await sw.child.stop('SIGKILL');
      process.kill(all, 'SIGKILL');
      await until('the end of the data plane', () => !alive(all), PATIENCE_MS);
      await sw.restart();
      await daemon.restart();
      await reaches('c1', '172.29.2.12');
      await reaches('c3', '172.29.2.1');
      await daemon.docker('rm', '-f', 'c1', 'c2', 'c3');
      await daemon.docker('network', 'rm', 'lan');
      t.is((await sw.vsctl('list-br')).trim(), '');
    });
  },
);
