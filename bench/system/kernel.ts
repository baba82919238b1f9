/**
 * Two network namespaces joined by veth pairs through a switch: TCP, small frames, and round trips; Ringway beside the userspace
 * datapath of Open vSwitch and the kernel's own bridge, in turns. Sender and receiver have one CPU, the switch the other.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { NetnsLab, netnsMissing } from '../../test/support/netns.ts';
import { ovsUnavailable, startOvs } from '../../test/support/ovs.ts';
import { sleep } from '../../test/support/process.ts';
import { SwitchProcess } from '../../test/support/switch.ts';
import {
  type Bench,
  type BenchOptions,
  type BenchReport,
  type BenchResult,
  figure,
  formatTable,
  median,
} from '../bench.ts';

const OVS_DAEMON = '/usr/lib/openvswitch-switch/ovs-vswitchd';
const OVS_DPDK_DAEMON = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
const FLOOD = fileURLToPath(new URL('kernel-flood.ts', import.meta.url));
const GUESTS = ['taskset', '-c', '0'];
const SWITCH = ['taskset', '-c', '1'];
/** The thread of ports of type afxdp is not held by the affinity of its process. */
const PMD_CPU = { 'pmd-cpu-mask': '0x2' };
/** As that thread does. */
const NEVER_SLEEPS = { ...PMD_CPU, 'pmd-sleep-max': '0' };
const PINGS = 600;

/** What joins the interfaces va and vb of namespace `s`. */
interface Subject {
  readonly name: string;
  readonly key: string;
  /** Subjects of one row do the job by the same means, and are compared. */
  readonly row: 'bridge' | 'packet' | 'xdp';
  unavailable(): string | undefined;
  /** @returns what ends it. */
  join(lab: NetnsLab): Promise<() => Promise<void>>;
}

const ringway = (
  name: string,
  row: Subject['row'],
  otherConfig: Record<string, string>,
  ...options: string[]
): Subject => ({
  name,
  key: 'ringway',
  row,
  unavailable: () => undefined,
  async join(lab) {
    const sw = await SwitchProcess.startUnder([...lab.under('s'), ...SWITCH]);
    const settings = Object.entries(otherConfig).map(([key, value]) => `other_config:${key}=${value}`);
    if (settings.length > 0) await sw.vsctl('set', 'Open_vSwitch', '.', ...settings);
    await sw.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'other_config:local-device=false');
    for (const port of ['va', 'vb'])
      await sw.vsctl('add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=system', ...options);
    await sw.linkUp('va', 'vb');
    return () => sw.close();
  },
});

const ovs = (
  name: string,
  row: Subject['row'],
  daemon: string,
  otherConfig: Record<string, string>,
  prepare: (lab: NetnsLab) => Promise<void> = async () => undefined,
  ...options: string[]
): Subject => ({
  name,
  key: 'ovs',
  row,
  unavailable: () => ovsUnavailable() ?? (existsSync(daemon) ? undefined : `${daemon} is missing`),
  async join(lab) {
    await prepare(lab);
    const made = await startOvs({ daemon, otherConfig, under: [...lab.under('s'), ...SWITCH] });
    await made.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev');
    for (const port of ['va', 'vb'])
      await made.vsctl(
        'add-port',
        'br0',
        port,
        ...(options.length ? ['--', 'set', 'Interface', port, ...options] : []),
      );
    return () => made.stop();
  },
});

/** Without userspace TSO, Open vSwitch passes on frames whose checksums were left out: its guests must not leave them out. */
const guestsSum = async (lab: NetnsLab): Promise<void> => {
  for (const host of ['a', 'b']) await lab.exec(host, 'ethtool', '-K', 'eth0', 'tx', 'off');
};

const SUBJECTS: readonly Subject[] = [
  {
    name: 'kernel bridge',
    key: 'kernel',
    row: 'bridge',
    unavailable: () => undefined,
    async join(lab) {
      await lab.ip('s', 'link', 'add', 'br0', 'type', 'bridge');
      for (const port of ['va', 'vb']) await lab.ip('s', 'link', 'set', port, 'master', 'br0');
      await lab.ip('s', 'link', 'set', 'br0', 'up');
      return async () => undefined;
    },
  },
  ovs('OVS netdev system, offloads off', 'packet', OVS_DAEMON, {}, guestsSum),
  ovs('OVS netdev system, userspace TSO', 'packet', OVS_DPDK_DAEMON, { 'userspace-tso-enable': 'true' }),
  ringway('Ringway AF_PACKET', 'packet', {}, 'options:xdp-mode=off'),
  ovs('OVS netdev afxdp, offloads off', 'xdp', OVS_DAEMON, PMD_CPU, guestsSum, 'type=afxdp', 'options:n_rxq=1'),
  ringway('Ringway AF_XDP', 'xdp', NEVER_SLEEPS, 'options:xdp-mode=best-effort'),
  ringway('Ringway AF_XDP, asleep when idle', 'xdp', PMD_CPU, 'options:xdp-mode=best-effort'),
];

interface Figures {
  tcp: number;
  mpps: number;
  p50: number;
  p99: number;
}

const METRICS = [
  ['tcp', 'Gbit/s'],
  ['mpps', 'Mpps'],
  ['p50', 'µs'],
  ['p99', 'µs'],
] as const;

async function measure(subject: Subject, options: BenchOptions): Promise<Figures> {
  const lab = new NetnsLab();
  let leave: (() => Promise<void>) | undefined;
  try {
    for (const name of ['s', 'a', 'b']) await lab.add(name);
    await lab.veth('s', 'va', 'a', '10.9.0.1/24');
    await lab.veth('s', 'vb', 'b', '10.9.0.2/24');
    leave = await subject.join(lab);
    await lab.reaches('a', '10.9.0.2');
    const tcp = await iperf(lab, options);
    const mpps = await flood(lab, options);
    await sleep(500);
    const [p50, p99] = await roundTrips(lab);
    return { tcp, mpps, p50, p99 };
  } finally {
    await leave?.();
    await lab.close();
  }
}

async function iperf(lab: NetnsLab, { seconds, warmup }: BenchOptions): Promise<number> {
  const server = lab.start('b', GUESTS[0]!, ...GUESTS.slice(1), 'iperf3', '-s', '-1', '--forceflush');
  await server.waitFor(/Server listening/, 'iperf3 to listen');
  const client = ['iperf3', '-J', '-c', '10.9.0.2', '-O', String(warmup), '-t', String(seconds)];
  const text = await lab.exec('a', GUESTS[0]!, ...GUESTS.slice(1), ...client);
  await server.waitExit(10_000);
  return (
    (JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } }).end.sum_received.bits_per_second / 1e9
  );
}

/** Frames per microsecond that reach b while a sends as fast as it can. */
async function flood(lab: NetnsLab, { seconds, warmup }: BenchOptions): Promise<number> {
  const macOf = async (name: string) => /link\/ether (\S+)/.exec(await lab.ip(name, 'link', 'show', 'eth0'))![1]!;
  const [from, to] = [await macOf('a'), await macOf('b')];
  const received = async () => Number(await lab.exec('b', 'cat', '/sys/class/net/eth0/statistics/rx_packets'));
  const args = [process.execPath, FLOOD, 'eth0', from, to, String(seconds + warmup + 3)];
  const sender = lab.start('a', GUESTS[0]!, ...GUESTS.slice(1), ...args);
  await sleep((warmup + 1) * 1000);
  const before = await received();
  const start = performance.now();
  await sleep(seconds * 1000);
  const packets = (await received()) - before;
  const micros = (performance.now() - start) * 1000;
  await sender.stop('SIGKILL');
  return packets / micros;
}

/** Median and 99th percentile of pings, in microseconds. */
async function roundTrips(lab: NetnsLab): Promise<[number, number]> {
  await lab.reaches('a', '10.9.0.2');
  const args = ['busybox', 'ping', '-i', '0.005', '-c', String(PINGS), '10.9.0.2'];
  const text = await lab.exec('a', GUESTS[0]!, ...GUESTS.slice(1), ...args);
  const times = [...text.matchAll(/time=([\d.]+) ms/g)].map(([, ms]) => Number(ms) * 1000).sort((a, b) => a - b);
  const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? Number.NaN;
  return [at(0.5), at(0.99)];
}

/** Per metric, how many times better Ringway is than an OVS of its row: the median of the rounds' ratios. */
function compare(chosen: readonly Subject[], samples: readonly Figures[][]): string[][] {
  const pairs = chosen.flatMap((ours, i) =>
    chosen.flatMap((other, j) =>
      ours.key === 'ringway' && other.key === 'ovs' && ours.row === other.row ? [[i, j] as const] : [],
    ),
  );
  return pairs.map(([i, j]) => [
    `${chosen[i]!.name} ÷ ${chosen[j]!.name}`,
    ...METRICS.map(([metric, unit]) => {
      const ratios = samples[i]!.map((one, round) => one[metric] / samples[j]![round]![metric]);
      return `${figure(median(unit === 'µs' ? ratios.map((ratio) => 1 / ratio) : ratios))} ×`;
    }),
  ]);
}

async function runKernel(options: BenchOptions): Promise<BenchReport> {
  const missing = netnsMissing('iperf3', 'busybox', 'ethtool', 'taskset');
  if (missing) throw new Error(missing);
  const wanted = (list: readonly string[], one: string) => list.length === 0 || list.includes(one);
  const chosen = SUBJECTS.filter(({ key, row }) => wanted(options.switches, key) && wanted(options.rows, row)).filter(
    (subject) => {
      const why = subject.unavailable();
      if (why) options.progress(`${subject.name} left out: ${why}`);
      return !why;
    },
  );
  const samples = chosen.map((): Figures[] => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, subject] of chosen.entries()) {
      const figures = await measure(subject, options);
      samples[index]!.push(figures);
      const { tcp, mpps, p50, p99 } = figures;
      options.progress(
        `round ${round + 1} ${subject.name}: ${figure(tcp)} Gbit/s, ${figure(mpps)} Mpps, ping ${figure(p50)} / ${figure(p99)} µs`,
      );
    }
  }
  const results: BenchResult[] = chosen.flatMap((subject, index) =>
    METRICS.map(([metric, unit]) => ({
      row: 'kernel',
      subject: subject.name,
      metric,
      value: median(samples[index]!.map((one) => one[metric])),
      unit,
    })),
  );
  const lines = chosen.map(({ name }) => [
    name,
    ...METRICS.map(([metric]) => figure(results.find((one) => one.subject === name && one.metric === metric)!.value)),
  ]);
  lines.push(...compare(chosen, samples));
  return {
    results,
    table: formatTable([['veth to veth', 'TCP Gbit/s', '64 B Mpps', 'ping p50 µs', 'ping p99 µs'], ...lines]),
  };
}

export const kernel: Bench = {
  name: 'kernel',
  about: 'veth to veth between two namespaces: TCP, small frames, round trips; beside OVS netdev and the kernel bridge',
  run: runKernel,
};
