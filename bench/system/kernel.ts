/**
 * Two network namespaces joined by veth pairs through a switch: TCP, small frames, and round trips; Ringway beside the userspace
 * datapath of Open vSwitch and the kernel's own bridge. Sender and receiver have one CPU, the switch the other. Every switch
 * lives through the whole run with namespaces of its own, stopped while another has its turn; a round before the first warms up.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { NetnsLab, netnsMissing } from '../../test/support/netns.ts';
import { ovsUnavailable, startOvs } from '../../test/support/ovs.ts';
import { sleep } from '../../test/support/process.ts';
import { alive, SwitchProcess } from '../../test/support/switch.ts';
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
const SETTLE_MS = 500;

/** What joins the interfaces va and vb of namespace `s`. */
interface Subject {
  readonly name: string;
  readonly key: string;
  /** Subjects of one row do the job by the same means, and are compared. */
  readonly row: 'bridge' | 'packet' | 'xdp' | 'xdp-sleep';
  unavailable(): string | undefined;
  join(lab: NetnsLab): Promise<Joined>;
}

interface Joined {
  /** Processes that take part. */
  readonly pids: readonly number[];
  end(): Promise<unknown>;
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
    return { pids: [sw.child.pid, sw.datapathPid], end: () => sw.close() };
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
    return { pids: [made.pid], end: () => made.stop() };
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
      return { pids: [], end: async () => undefined };
    },
  },
  ovs('OVS netdev system, offloads off', 'packet', OVS_DAEMON, {}, guestsSum),
  ovs('OVS netdev system, userspace TSO', 'packet', OVS_DPDK_DAEMON, { 'userspace-tso-enable': 'true' }),
  ringway('Ringway AF_PACKET', 'packet', {}, 'options:xdp-mode=off'),
  ovs('OVS netdev afxdp, offloads off', 'xdp', OVS_DAEMON, PMD_CPU, guestsSum, 'type=afxdp', 'options:n_rxq=1'),
  ringway('Ringway AF_XDP', 'xdp', NEVER_SLEEPS, 'options:xdp-mode=best-effort'),
  ovs(
    'OVS netdev afxdp, pmd-maxsleep=500',
    'xdp-sleep',
    OVS_DAEMON,
    { ...PMD_CPU, 'pmd-maxsleep': '500' },
    guestsSum,
    'type=afxdp',
    'options:n_rxq=1',
  ),
  ringway('Ringway AF_XDP, asleep when idle', 'xdp-sleep', PMD_CPU, 'options:xdp-mode=best-effort'),
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

/** A subject between its own namespaces, stopped except in its turns. */
class Contender {
  readonly subject: Subject;
  readonly samples: Figures[] = [];
  readonly #lab = new NetnsLab();
  #joined: Joined | undefined;

  constructor(subject: Subject) {
    this.subject = subject;
  }

  async start(): Promise<void> {
    for (const name of ['s', 'a', 'b']) await this.#lab.add(name);
    await this.#lab.veth('s', 'va', 'a', '10.9.0.1/24');
    await this.#lab.veth('s', 'vb', 'b', '10.9.0.2/24');
    this.#joined = await this.subject.join(this.#lab);
    await this.#lab.reaches('a', '10.9.0.2');
    this.#signal('SIGSTOP');
  }

  async turn(options: BenchOptions): Promise<Figures> {
    this.#signal('SIGCONT');
    await sleep(SETTLE_MS);
    await this.#lab.reaches('a', '10.9.0.2');
    const tcp = await iperf(this.#lab, options);
    const mpps = await flood(this.#lab, options);
    await sleep(SETTLE_MS);
    const [p50, p99] = await roundTrips(this.#lab);
    this.#signal('SIGSTOP');
    return { tcp, mpps, p50, p99 };
  }

  async end(): Promise<void> {
    this.#signal('SIGCONT');
    await this.#joined?.end();
    await this.#lab.close();
  }

  #signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    for (const pid of this.#joined?.pids ?? []) if (alive(pid)) process.kill(pid, signal);
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
function compare(contenders: readonly Contender[]): string[][] {
  const pairs = contenders.flatMap((ours) =>
    contenders
      .filter(
        ({ subject: { key, row } }) => ours.subject.key === 'ringway' && key === 'ovs' && row === ours.subject.row,
      )
      .map((theirs) => [ours, theirs] as const),
  );
  return pairs.map(([ours, theirs]) => [
    `${ours.subject.name} ÷ ${theirs.subject.name}`,
    ...METRICS.map(([metric, unit]) => {
      const ratios = ours.samples.map((one, round) => one[metric] / theirs.samples[round]![metric]);
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
  const contenders = chosen.map((subject) => new Contender(subject));
  try {
    for (const contender of contenders) await contender.start();
    for (let round = 0; round <= options.rounds; round++) {
      // Another is the first in every round, so that no one always follows the same.
      for (let turn = 0; turn < contenders.length; turn++) {
        const contender = contenders[(round + turn) % contenders.length]!;
        const figures = await contender.turn(options);
        const { tcp, mpps, p50, p99 } = figures;
        if (round > 0) contender.samples.push(figures);
        options.progress(
          `${round === 0 ? 'warm-up' : `round ${round}`} ${contender.subject.name}: ${figure(tcp)} Gbit/s, ${figure(mpps)} Mpps, ping ${figure(p50)} / ${figure(p99)} µs`,
        );
      }
    }
  } finally {
    for (const contender of contenders) await contender.end();
  }
  const results: BenchResult[] = contenders.flatMap(({ subject, samples }) =>
    METRICS.map(([metric, unit]) => ({
      row: 'kernel',
      subject: subject.name,
      metric,
      value: median(samples.map((one) => one[metric])),
      unit,
    })),
  );
  const lines = contenders.map(({ subject: { name } }) => [
    name,
    ...METRICS.map(([metric]) => figure(results.find((one) => one.subject === name && one.metric === metric)!.value)),
  ]);
  lines.push(...compare(contenders));
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
