/**
 * One switch with two ports for each row of a batch, and one testpmd that has all devices of a batch: pairs of its ports are
 * joined by pairs of the switch's. What is counted at both ends of both must agree, frame by frame and byte by byte.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { allowedCpus } from '#contract/os.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { until } from '../support/process.ts';
import type { SwitchProcess } from '../support/switch.ts';
import { Testpmd } from '../support/testpmd.ts';
import { parseVirtioPaths, type QueueCount } from '../support/testpmd-output.ts';
import { deviceOf, isVectorized, nameOf, queuesOf, type Row } from './rows.ts';

/** Rows of a batch for each role: DPDK has room for 32 ports in a process. */
const PER_ROLE = 8;
const SIDES = ['a', 'b'] as const;
const RING = 512;
/** Frames that each port sends at once, over all its queues: half a ring, so that none is lost. */
const FRAMES = 128;
const BURST = 32;
const MOST_QUEUES = 4;
/** Frames that each port receives in a closed loop: several times round the ring. */
const LOOP_FRAMES = 3000;

export interface Outcome {
  readonly row: Row;
  /** Code that the driver runs, as it says. */
  readonly path: string;
  /** What went wrong, empty for nothing. */
  readonly faults: readonly string[];
  /** Frames received by either device. */
  readonly received: readonly number[];
}

const portOf = (role: Row['role'], index: number, side: string): string => `${role[0]}${index}${side}`;

export const hasAvx512 = (): boolean => /^flags\b.*\bavx512f\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));

/** Rows in batches that one testpmd can hold: alike in queues and buffers, and at most PER_ROLE of each role. */
export function batches(rows: readonly Row[]): Row[][] {
  const out: Row[][] = [];
  for (const { queues, buffers } of rows.filter((row, i) => rows.findIndex((other) => alike(row, other)) === i)) {
    const left = { client: [] as Row[], server: [] as Row[] };
    for (const row of rows) if (row.queues === queues && row.buffers === buffers) left[row.role].push(row);
    while (left.client.length + left.server.length > 0)
      out.push([...left.client.splice(0, PER_ROLE), ...left.server.splice(0, PER_ROLE)]);
  }
  return out;
}

const alike = (one: Row, other: Row): boolean => one.queues === other.queues && one.buffers === other.buffers;

/** What was counted of one device: by testpmd per queue, by the switch since the batch began. */
interface Seen {
  rx: QueueCount[];
  tx: QueueCount[];
}

const packets = (counts: readonly QueueCount[]): number => counts.reduce((all, count) => all + count.packets, 0);
const bytes = (counts: readonly QueueCount[]): number => counts.reduce((all, count) => all + count.bytes, 0);

export class Lab {
  readonly #sw: SwitchProcess;
  #workers = 1;

  constructor(sw: SwitchProcess) {
    this.#sw = sw;
  }

  #socket(port: string): string {
    return port.startsWith('s') ? join(this.#sw.rundir, `pmd-${port}`) : this.#sw.socket(port);
  }

  /** Adds all ports and joins them in pairs; two workers where there are two processors, so that two tx queues are used. */
  async prepare(): Promise<void> {
    const sw = this.#sw;
    const cpus = allowedCpus().slice(0, 2);
    this.#workers = cpus.length;
    const mask = cpus.reduce((sum, cpu) => sum | (1n << BigInt(cpu)), 0n);
    await sw.vsctl('set', 'Open_vSwitch', '.', `other_config:pmd-cpu-mask=0x${mask.toString(16)}`);
    const commands: string[] = ['add-br', 'br0'];
    const flows: string[] = [];
    let ofport = 0;
    for (const role of ['client', 'server'] as const) {
      for (let i = 0; i < PER_ROLE; i++) {
        for (const side of SIDES) {
          const port = portOf(role, i, side);
          const type =
            role === 'client'
              ? ['type=vhost-user']
              : ['type=dpdkvhostuserclient', `options:vhost-server-path=${this.#socket(port)}`];
          commands.push('--', 'add-port', 'br0', port, '--', 'set', 'Interface', port, ...type);
          // Queues in turns over both workers, so that either writes to a receive queue of its own.
          const turn = side === 'a' ? cpus : cpus.toReversed();
          const affinity = Array.from({ length: MOST_QUEUES }, (_, q) => `${q}:${turn[q % turn.length]}`).join();
          commands.push('mtu_request=9000', `ofport_request=${++ofport}`, `other_config:pmd-rxq-affinity=${affinity}`);
        }
        flows.push(`in_port=${ofport - 1},actions=output:${ofport}`, `in_port=${ofport},actions=output:${ofport - 1}`);
      }
    }
    await sw.vsctl(...commands);
    const file = join(sw.rundir, 'flows');
    writeFileSync(file, `${flows.join('\n')}\n`);
    await sw.ofctl('replace-flows', 'br0', file);
  }

  /** Frames that the switch took from and gave to each port, by OpenFlow name. */
  async counts(): Promise<Map<string, { rx: number; tx: number; rxBytes: number; txBytes: number }>> {
    const counts = new Map<string, { rx: number; tx: number; rxBytes: number; txBytes: number }>();
    const text = await this.#sw.ofctl('dump-ports', 'br0');
    const entry =
      /port +"?([^\s":]+)"?: rx pkts=(\d+), bytes=(\d+), drop=\d+[^\n]*\n +tx pkts=(\d+), bytes=(\d+), drop=\d+/g;
    for (const [, name, rx, rxBytes, tx, txBytes] of text.matchAll(entry))
      counts.set(name!, { rx: Number(rx), tx: Number(tx), rxBytes: Number(rxBytes), txBytes: Number(txBytes) });
    return counts;
  }

  async run(rows: readonly Row[]): Promise<Outcome[]> {
    const queues = queuesOf(rows[0]!);
    const next = { client: 0, server: 0 };
    const names = rows.flatMap((row) => {
      const index = next[row.role]++;
      return SIDES.map((side) => portOf(row.role, index, side));
    });
    // DPDK does not take over the sockets of a process before it.
    for (const name of names) if (name.startsWith('s')) rmSync(this.#socket(name), { force: true });
    const before = await this.counts();
    const testpmd = await Testpmd.start({
      devices: names.map((name, i) => ({ ...deviceOf(rows[i >> 1]!), path: this.#socket(name), queueSize: RING })),
      forward: 'rxonly',
      queues,
      packetLength: 64,
      // A transmit ring holds what it sent until it is nearly full.
      mbufs: names.length * queues * RING * 2 + 8192,
      memory: 768,
      ...(hasAvx512() ? { simdBits: 512 } : {}),
      logLevel: 'pmd.net.virtio.init:info',
      startTimeoutMs: PATIENCE_MS,
    });
    try {
      await this.#up(names);
      const faults = rows.map((): string[] => []);
      await this.#exact(testpmd, '64', faults);
      await this.#exact(testpmd, '1500', faults);
      // More than a buffer holds.
      if (rows[0]!.buffers === 'mergeable') await this.#exact(testpmd, '1500,1500,1000', faults);
      await this.#loop(testpmd, rows);
      const seen = await testpmd.queueStats();
      const paths = parseVirtioPaths(testpmd.log);
      await this.#settle(names, before, seen, faults);
      return rows.map((row, i) => {
        const path = paths.get(2 * i) ?? { rx: 'unknown', tx: 'unknown' };
        const pair = SIDES.map((_, side) => seen[2 * i + side]!);
        const vectorized = path.rx.includes('vectorized');
        if (vectorized !== isVectorized(row, hasAvx512())) faults[i]!.push(`runs the ${path.rx} path`);
        for (const { port, rx, tx } of pair) {
          if (tx.length !== queues || tx.some((count) => count.packets === 0))
            faults[i]!.push(
              `port ${port} sent by ${tx.filter((count) => count.packets > 0).length} of ${queues} queues`,
            );
          // As many of the guest's receive queues as the switch has workers are written to.
          if (rx.filter((count) => count.packets > 0).length < Math.min(queues, this.#workers))
            faults[i]!.push(`port ${port} received by too few queues`);
        }
        return {
          row,
          path: `${path.rx} / ${path.tx}`,
          received: pair.map(({ rx }) => packets(rx)),
          faults: faults[i]!,
        };
      });
    } catch (error) {
      (error as Error).message += `\n${await this.#sw.appctl('drops')}\n${rows.map(nameOf).join('\n')}`;
      throw error;
    } finally {
      await testpmd.quit();
    }
  }

  async #up(names: readonly string[]): Promise<void> {
    let down = names;
    const check = async (): Promise<boolean> => {
      const text = await this.#sw.ofctl('dump-ports-desc', 'br0');
      down = names.filter((name) => !new RegExp(`\\(${name}\\): addr:[^(]*state: +(?!LINK_DOWN)`).test(text));
      return down.length === 0;
    };
    await until('the links', check, PATIENCE_MS, () => down.join());
  }

  /** Every queue sends some frames, and all of them arrive at the other device of the row. */
  async #exact(testpmd: Testpmd, lengths: string, faults: string[][]): Promise<void> {
    const before = await testpmd.queueStats();
    const queues = before[0]!.tx.length;
    await testpmd.command(`set txpkts ${lengths}`);
    await testpmd.command('set fwd rxonly');
    await testpmd.startForwarding(FRAMES / BURST / queues);
    const since = (now: Seen[], port: number): number[] => {
      const was = before[port]!;
      const is = now[port]!;
      const other = now[port ^ 1]!;
      return [
        packets(is.tx) - packets(was.tx),
        packets(other.rx) - packets(before[port ^ 1]!.rx),
        bytes(is.tx) - bytes(was.tx),
        bytes(other.rx) - bytes(before[port ^ 1]!.rx),
      ];
    };
    let now: Seen[] = before;
    const arrived = async (): Promise<boolean> => {
      now = await testpmd.queueStats();
      return now.every((_, port) => since(now, port)[1]! >= FRAMES);
    };
    await until('all frames', arrived, PATIENCE_MS).catch(() => undefined);
    await testpmd.stopForwarding();
    now.forEach((_, port) => {
      const [sent, received, sentBytes, receivedBytes] = since(now, port);
      // Split rings' vector code does not count bytes.
      if (sent !== FRAMES || received !== FRAMES || (receivedBytes !== 0 && sentBytes !== receivedBytes))
        faults[port >> 1]!.push(
          `frames of ${lengths}: port ${port} sent ${sent} (${sentBytes} bytes), ${received} (${receivedBytes}) arrived`,
        );
    });
  }

  /** Frames go round and round. */
  async #loop(testpmd: Testpmd, rows: readonly Row[]): Promise<void> {
    await testpmd.command('set txpkts 64');
    await testpmd.command('set fwd io');
    const before = await testpmd.portStats();
    await testpmd.startForwarding(1);
    let late: string[] = [];
    const done = async (): Promise<boolean> => {
      const now = await testpmd.portStats();
      late = rows
        .filter((_, i) =>
          [0, 1].some((side) => now[2 * i + side]!.rxPackets - before[2 * i + side]!.rxPackets < LOOP_FRAMES),
        )
        .map(nameOf);
      return late.length === 0;
    };
    try {
      await until('frames to go round', done, PATIENCE_MS, () => late.join('\n'));
    } finally {
      await testpmd.stopForwarding();
    }
  }

  /** What testpmd sent is what the switch took; what the switch gave is what testpmd received or has in its rings yet. */
  async #settle(
    names: readonly string[],
    before: Awaited<ReturnType<Lab['counts']>>,
    seen: readonly Seen[],
    faults: string[][],
  ): Promise<void> {
    let wrong: [port: number, text: string][] = [];
    const agree = async (): Promise<boolean> => {
      const now = await this.counts();
      wrong = names.flatMap((name, port): [number, string][] => {
        const was = before.get(name)!;
        const is = now.get(name)!;
        const { rx, tx } = seen[port]!;
        const taken = is.rx - was.rx === packets(tx) && is.rxBytes - was.rxBytes === bytes(tx);
        const waiting = is.tx - was.tx - packets(rx);
        if (taken && waiting >= 0 && waiting <= rx.length * RING) return [];
        const text = `${name}: the switch took ${is.rx - was.rx} of ${packets(tx)} and gave ${is.tx - was.tx}, ${packets(rx)} arrived`;
        return [[port, text]];
      });
      return wrong.length === 0;
    };
    await until('the counts to agree', agree, PATIENCE_MS).catch(() => undefined);
    for (const [port, text] of wrong) faults[port >> 1]!.push(text);
  }
}

const row = (cells: readonly string[], widths: readonly number[]): string =>
  cells
    .map((cell, i) => cell.padEnd(widths[i]!))
    .join('  ')
    .trimEnd();

/** A line for each row: its name, the code that the driver ran, frames received at either end, and what was wrong. */
export function tableOf(outcomes: readonly Outcome[]): string[] {
  const cells = outcomes.map(({ row: one, path, received, faults }) => [
    nameOf(one),
    path,
    received.join(' + '),
    faults.join('; ') || 'ok',
  ]);
  const widths = [0, 1, 2, 3].map((i) => Math.max(...cells.map((line) => line[i]!.length)));
  return cells.map((line) => row(line, widths));
}
