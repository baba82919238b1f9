/**
 * Packets by reference: rates and latency of ivshmem ports, beside vhost-user at the same size in the same run.
 *
 * One switch with one PMD has all the ports; the rows take turns, and the rounds too, so that what the machine does to one it
 * does to the others. The peer is examples/ivshmem/rwi on the other core, one thread that sends at one port, as fast as the
 * switch takes frames, and counts at the other. It writes the first line of a frame only: what grows with the size is the
 * switch's doing. The vhost-user row is a closed loop of testpmd (bench `rates`, row 1500-in_port).
 *
 * Towards vhost-user two processes share the peer's core, which says nothing about the switch's rate. That row is paced; its
 * figure is the busy cycles of the PMD per packet, and the rate that these allow.
 */
import { join } from 'node:path';
import { tscHz } from '../../src/contract/os.ts';
import { buildExamples, type Examples, exampleCompiler } from '../../test/support/ivshmem-examples.ts';
import { Child, removeScratchDir, runOk, scratchDir, sleep, until } from '../../test/support/process.ts';
import { Testpmd, unavailable as testpmdUnavailable } from '../../test/support/testpmd.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { RingwayPeer, ringwayUnavailable } from './ringway-peer.ts';
import { GUEST_CORE, PMD_CORE } from './switches.ts';

const SIZES = [64, 1500, 9000];
/** A frame of 9000 bytes lies in one buffer. */
const BUFFERS = 'options:buffer-size=9344';
const PINGS = 20_000;
const PACED = 500_000;

interface Row {
  name: string;
  about: string;
  /** From which port to which. */
  from: string;
  to: string;
  size: number;
  kind: 'load' | 'paced' | 'loop' | 'ping';
}

const sized = (name: string, about: string, from: string, to: string): Row[] =>
  SIZES.map((size) => ({ name: `${name}-${size}`, about: `${size} B, ${about}`, from, to, size, kind: 'load' }));

const ROWS: Row[] = [
  ...sized('shared', 'one pool', 'a', 'b'),
  ...sized('copy', 'isolation=copy', 'ca', 'cb'),
  { name: 'vhost-64', about: '64 B, vhost-user both ways', from: 'vh0', to: 'vh1', size: 64, kind: 'loop' },
  { name: 'vhost-1500', about: '1500 B, vhost-user both ways', from: 'vh0', to: 'vh1', size: 1500, kind: 'loop' },
  { name: 'to-vhost-64', about: '64 B, ivshmem to vhost-user', from: 'a', to: 'vh0', size: 64, kind: 'paced' },
  { name: 'to-vhost-1500', about: '1500 B, ivshmem to vhost-user', from: 'a', to: 'vh0', size: 1500, kind: 'paced' },
  { name: 'latency', about: '64 B, doorbell to doorbell and back', from: 'a', to: 'b', size: 64, kind: 'ping' },
];

interface Measured {
  mpps: number;
  cycles: number;
  /** Bytes that the switch copied per packet. */
  copied: number;
  /** Microseconds of a round trip: median, 99th percentile. */
  p50: number;
  p99: number;
}
const NOTHING: Measured = {
  mpps: Number.NaN,
  cycles: Number.NaN,
  copied: Number.NaN,
  p50: Number.NaN,
  p99: Number.NaN,
};

class Lab {
  readonly dir = scratchDir('bi');
  readonly peer = new RingwayPeer();
  programs!: Examples;

  async open(): Promise<void> {
    this.programs = await buildExamples();
    await this.peer.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
    for (const name of ['a', 'b', 'ca', 'cb']) {
      const settings = [
        'type=ivshmem',
        `options:path=${this.#path(name)}`,
        'options:size=64M',
        BUFFERS,
        'mtu_request=9000',
      ];
      const isolation = name.startsWith('c') ? ['options:isolation=copy'] : [];
      await this.peer.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...settings, ...isolation);
    }
    for (const name of ['vh0', 'vh1']) {
      const settings = ['type=dpdkvhostuserclient', `options:vhost-server-path=${this.#path(name)}`];
      await this.peer.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...settings);
    }
  }

  async close(): Promise<void> {
    await this.peer.stop();
    removeScratchDir(this.dir);
  }

  #path(port: string): string {
    return join(this.dir, `${port}.sock`);
  }

  #where(port: string): string {
    return `socket:${this.#path(port)}`;
  }

  /** An example program on the peer's core. */
  #program(file: string, ...args: string[]): Child {
    return new Child('taskset', ['-c', String(GUEST_CORE), file, ...args], { name: args[0] ?? file });
  }

  async #statistic(port: string, name: string): Promise<number> {
    return Number(await this.peer.vsctl('get', 'Interface', port, `statistics:${name}`));
  }

  async #linkUp(...ports: string[]): Promise<void> {
    for (const port of ports) {
      const check = async () => (await this.peer.vsctl('get', 'Interface', port, 'link_state')).trim() === 'up';
      await until(`the link of ${port}`, check, 30_000);
    }
  }

  async measure(row: Row, options: BenchOptions): Promise<Measured> {
    const { from, to } = row;
    await this.peer.setFlows([`in_port=${from},actions=output:${to}`, `in_port=${to},actions=output:${from}`]);
    if (row.kind === 'ping') return this.#ping(row);
    if (row.kind === 'loop') return this.#loop(row, options);
    if (row.kind === 'load') return this.#load(row, options, ['--to', this.#where(to), '--poll']);
    const testpmd = await this.#testpmd({ forward: 'rxonly' }, to);
    try {
      await testpmd.startForwarding();
      return await this.#load(row, options, ['--rate', String(PACED)]);
    } finally {
      await testpmd.quit(3000);
    }
  }

  async #testpmd(options: { forward?: 'rxonly'; packetLength?: number }, ...ports: string[]): Promise<Testpmd> {
    const devices = ports.map((port) => ({ path: this.#path(port), role: 'server' as const }));
    const testpmd = await Testpmd.start({ ...options, devices, core: GUEST_CORE });
    await testpmd.waitLinkUp();
    return testpmd;
  }

  async #load(row: Row, options: BenchOptions, args: string[]): Promise<Measured> {
    const times = ['--seconds', String(options.seconds), '--warmup', String(options.warmup)];
    const all = ['load', this.#where(row.from), '--size', String(row.size), ...times, ...args];
    const counts = async () => [
      await this.#statistic(row.to, 'copied_bytes'),
      await this.#statistic(row.to, 'tx_packets'),
    ];
    const before = await counts();
    const child = this.#program(this.programs.rwi, ...all);
    try {
      await child.waitFor(/loading\n/, 'the load to start', 30_000);
      await sleep(options.warmup * 1000);
      await this.peer.clearPmdStats();
      const said = await child.waitFor(
        /received in .*\n/,
        'the rate',
        (options.warmup + options.seconds) * 1000 + 30_000,
      );
      const stats = await this.peer.pmdStats();
      // Counters are told about once a second.
      await sleep(1500);
      const [bytes, frames] = (await counts()).map((count, i) => count - before[i]!);
      const rate = /sent ([\d.]+) Mpps, received ([\d.]+) Mpps/.exec(said)!;
      const measured = { ...NOTHING, cycles: stats.cyclesPerPacket, mpps: Number(rate[2]) };
      if (row.kind === 'load') return { ...measured, copied: bytes! / frames! };
      return { ...measured, mpps: tscHz() / stats.cyclesPerPacket / 1e6 };
    } finally {
      await child.stop('SIGKILL');
    }
  }

  async #loop(row: Row, options: BenchOptions): Promise<Measured> {
    const testpmd = await this.#testpmd({ packetLength: row.size }, row.from, row.to);
    try {
      await testpmd.closeLoop(8);
      await sleep(options.warmup * 1000);
      await this.peer.clearPmdStats();
      await testpmd.portStats();
      await sleep(options.seconds * 1000);
      const ports = await testpmd.portStats();
      const stats = await this.peer.pmdStats();
      const mpps = ports.reduce((sum, port) => sum + port.rxPps, 0) / 1e6;
      return { ...NOTHING, mpps, cycles: stats.cyclesPerPacket };
    } finally {
      await testpmd.quit(3000);
    }
  }

  async #ping(row: Row): Promise<Measured> {
    const echo = this.#program(this.programs.echo, this.#where(row.to));
    try {
      await echo.waitFor(/echo ready.*\n/, 'the echo to be ready', 30_000);
      await this.#linkUp(row.to);
      const said = await runOk(
        'taskset',
        ['-c', String(GUEST_CORE), this.programs.rwi, 'ping', this.#where(row.from), '--count', String(PINGS)],
        { timeoutMs: 120_000 },
      );
      const [, p50, p99] = /p50 ([\d.]+) us, p99 ([\d.]+) us/.exec(said)!;
      return { ...NOTHING, p50: Number(p50), p99: Number(p99) };
    } finally {
      await echo.stop('SIGKILL');
    }
  }
}

function pickRows(options: BenchOptions): Row[] {
  const named = ROWS.filter(({ name }) => options.rows.includes(name));
  const usable = testpmdUnavailable() ? ROWS.filter(({ kind }) => kind === 'load' || kind === 'ping') : ROWS;
  return named.length > 0 ? named : usable;
}

async function run(options: BenchOptions) {
  const reason = ringwayUnavailable() ?? (exampleCompiler() ? undefined : 'no C compiler or make');
  if (reason) throw new Error(reason);
  const rows = pickRows(options);
  const measured = new Map<string, Measured[]>(rows.map(({ name }) => [name, []]));
  const lab = new Lab();
  try {
    await lab.open();
    for (let round = 0; round < options.rounds; round++) {
      for (const row of rows) {
        const one = await lab.measure(row, options);
        measured.get(row.name)!.push(one);
        const what = row.kind === 'ping' ? `${one.p50} us, p99 ${one.p99} us` : `${figure(one.mpps)} Mpps`;
        options.progress(`[${round + 1}/${options.rounds}] ${row.name}: ${what}, ${figure(one.cycles)} cycles/packet`);
      }
    }
  } finally {
    await lab.close();
  }
  const of = (name: string, field: keyof Measured): number[] => (measured.get(name) ?? []).map((one) => one[field]);
  const results: BenchResult[] = [];
  const table: string[][] = [
    ['row', 'Mpps', 'best', 'cycles/pkt', 'copied B/pkt', 'p50 us', 'p99 us', 'x vhost-user 1500 B'],
  ];
  for (const { name, about, kind } of rows) {
    const value = (field: keyof Measured) => median(of(name, field));
    // Ratios within a round, then their median.
    const base = of('vhost-1500', 'mpps');
    const ratio =
      kind === 'load' ? median(of(name, 'mpps').map((mpps, i) => mpps / (base[i] ?? Number.NaN))) : Number.NaN;
    const best = kind === 'load' || kind === 'loop' ? Math.max(...of(name, 'mpps')) : Number.NaN;
    const cells = [value('mpps'), best, value('cycles'), value('copied'), value('p50'), value('p99'), ratio];
    table.push([about, ...cells.map(figure)]);
    for (const [metric, field, unit] of [
      ['rate', 'mpps', 'Mpps'],
      ['busy cycles per packet', 'cycles', 'cycles'],
      ['bytes copied per packet', 'copied', 'B'],
      ['round trip, median', 'p50', 'us'],
      ['round trip, 99th percentile', 'p99', 'us'],
    ] as const) {
      if (!Number.isNaN(value(field)))
        results.push({ row: name, subject: 'Ringway', metric, value: value(field), unit });
    }
    if (!Number.isNaN(ratio))
      results.push({ row: name, subject: 'ivshmem / vhost-user at 1500 B', metric: 'ratio', value: ratio, unit: '' });
  }
  return { results, table: formatTable(table) };
}

export const ivshmem: Bench = {
  name: 'ivshmem',
  about: `rates and latency of ivshmem ports beside vhost-user (rows: ${ROWS.map((row) => row.name).join(', ')})`,
  run,
};
