/**
 * TCP from one Linux guest to another, and pings, through Ringway and through OVS-DPDK in turns. Guests under QEMU are
 * emulated, and do most of the work; those in user mode (rows uml-…) are as fast as the machine.
 *
 * One pair of guests serves both switches, a card on each: the processors are the same. They share a core; the other one is
 * for the PMD of the switch whose turn it is, while the other switch is stopped (SIGSTOP), since OVS would poll all the time.
 * Rates drift by a third within seconds, and from boot to boot: turns are short, the ratio is taken of two that follow each
 * other, and every round boots the guests anew, with the cards in the other order. OVS runs with userspace-tso-enable=true, without which it offers
 * no segmentation, Ringway with pmd-sleep-max=0. A guest in user mode can only connect, and OVS takes long frames only at
 * ports that connect too: a relay of messages stands between them, for both switches.
 */

import { join } from 'node:path';
import { iperf, reach } from '../../test/guests/exchange.ts';
import { ADDRESS, guestsUnavailable, SETUP, writeArchive } from '../../test/guests/lab.ts';
import { deviceOf, type Kind } from '../../test/guests/rows.ts';
import type { GuestShell } from '../../test/support/guest-shell.ts';
import { removeScratchDir, scratchDir, which } from '../../test/support/process.ts';
import { type Card, QemuGuest } from '../../test/support/qemu.ts';
import { UML_WITHOUT, UmlGuest, umlUnavailable, writeUmlImage } from '../../test/support/uml.ts';
import { VhostRelay } from '../../test/support/vhost-relay.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { OvsPeer, ovsUnavailable } from './ovs-peer.ts';
import type { SwitchUnderTest } from './peer.ts';
import { RingwayPeer, ringwayUnavailable } from './ringway-peer.ts';
import { GUEST_CORE, PMD_CORE } from './switches.ts';

const SIDES = ['a', 'b'] as const;
type Side = (typeof SIDES)[number];
const PINGS = 300;
/** Turns of each switch between two boots. */
const TURNS = 6;
const COMMAND_MS = 120_000;

type Machine = 'qemu' | 'uml';

interface Row {
  name: string;
  guests: Machine;
  about: string;
  offloads: Kind['offloads'];
  unit: string;
  /** Whether less is better. */
  less?: boolean;
  measure: (a: GuestShell, options: BenchOptions) => Promise<number>;
}

const stream = async (a: GuestShell, { seconds, warmup }: BenchOptions): Promise<number> =>
  (await iperf(a, ADDRESS.b, `-t ${seconds} -O ${warmup}`)).sum_received.bits_per_second / 1e9;

async function pings(a: GuestShell): Promise<number> {
  const said = await a.run(`ping -c ${PINGS} -A ${ADDRESS.b}`, COMMAND_MS);
  return median([...said.matchAll(/time=([\d.]+) ms/g)].map(([, time]) => Number(time)));
}

const row = (
  name: string,
  guests: Machine,
  about: string,
  more: Pick<Row, 'offloads' | 'unit' | 'less' | 'measure'>,
): Row => ({
  name,
  guests,
  about: `${about} (${guests === 'uml' ? 'in user mode' : 'emulated'})`,
  ...more,
});
const TSO = { offloads: 'offload', unit: 'Gbit/s', measure: stream } as const;
const PING = { offloads: 'offload', unit: 'ms', less: true, measure: pings } as const;

const ROWS: readonly Row[] = [
  row('uml-tso', 'uml', 'TCP, one stream, offloads', TSO),
  row('uml-ping', 'uml', 'ping, median', PING),
  row('tso', 'qemu', 'TCP, one stream, offloads', TSO),
  row('plain', 'qemu', 'TCP, one stream, no offloads', { ...TSO, offloads: 'plain' }),
  row('ping', 'qemu', 'ping, median', PING),
];

/** Both poll all the time, as OVS does in any case: a kick costs an emulated guest more than the PMD's core is worth here. */
const configOf = (peer: SwitchUnderTest): Record<string, string> =>
  peer instanceof OvsPeer ? { 'userspace-tso-enable': 'true' } : { 'pmd-sleep-max': '0' };

/** Guests with a card of each kind on each switch, in the order switch, kind. */
class Pair {
  readonly #dir = scratchDir('bg');
  readonly #machine: Machine;
  readonly switches: readonly SwitchUnderTest[];
  readonly #kinds: readonly Kind['offloads'][];
  readonly guests: Partial<Record<Side, QemuGuest | UmlGuest>> = {};
  readonly #relays: VhostRelay[] = [];
  /** Numbers of the switches in the order of the guests' cards. */
  #order: readonly number[] = [];

  constructor(machine: Machine, switches: readonly SwitchUnderTest[], kinds: readonly Kind['offloads'][]) {
    this.#machine = machine;
    this.switches = switches;
    this.#kinds = kinds;
  }

  #port(peer: number, kind: number, side: Side): string {
    return `v${side}${peer * this.#kinds.length + kind}`;
  }

  async open(): Promise<void> {
    for (const [p, peer] of this.switches.entries()) {
      await peer.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE, otherConfig: configOf(peer) });
      for (const k of this.#kinds.keys())
        for (const side of SIDES) {
          const [back, front] = [this.#socket(p, k, side), this.#guestSocket(p, k, side)];
          if (this.#machine === 'uml') this.#relays.push(new VhostRelay({ front, back }, UML_WITHOUT));
          await peer.addVhostPort(this.#port(p, k, side), back);
        }
      await peer.setFlows(
        this.#kinds.flatMap((_, k) => [
          `in_port=${2 * k + 1},actions=output:${2 * k + 2}`,
          `in_port=${2 * k + 2},actions=output:${2 * k + 1}`,
        ]),
      );
    }
  }

  #socket(peer: number, kind: number, side: Side): string {
    return join(this.#dir, `${this.#port(peer, kind, side)}.sock`);
  }

  /** QEMU listens at the socket to which the switch connects; a guest in user mode can only connect. */
  #guestSocket(peer: number, kind: number, side: Side): string {
    return this.#socket(peer, kind, side) + (this.#machine === 'uml' ? '.guest' : '');
  }

  /** New guests, whose cards come in this order of switches. */
  async boot(order: readonly number[]): Promise<void> {
    await this.#stopGuests();
    this.#order = order;
    const under = ['taskset', '-c', String(GUEST_CORE)];
    const start = this.#machine === 'qemu' ? this.#qemu(under) : this.#uml(under);
    const boots = SIDES.map(async (side) => {
      this.guests[side] = await start(side);
    });
    for (const end of await Promise.allSettled(boots)) if (end.status === 'rejected') throw end.reason;
    for (const side of SIDES) await this.guests[side]!.run(SETUP);
  }

  #qemu(under: readonly string[]): (side: Side) => Promise<QemuGuest> {
    const archive = writeArchive(this.#dir);
    return (side) => QemuGuest.start(`guest ${side}`, archive, this.#cards(side), [], { under });
  }

  #uml(under: readonly string[]): (side: Side) => Promise<UmlGuest> {
    const image = writeUmlImage(this.#dir, { iperf3: which('iperf3')! });
    return (side) =>
      UmlGuest.start(
        `guest ${side}`,
        image,
        this.#cards(side).map(({ socket }) => socket),
        under,
      );
  }

  #cards(side: Side): Card[] {
    return this.#order.flatMap((p) =>
      this.#kinds.map((offloads, k) => ({
        mac: `52:54:00:00:0${side}:0${p * this.#kinds.length + k}`,
        socket: this.#guestSocket(p, k, side),
        role: 'server' as const,
        device: deviceOf({ era: 'modern', ring: 'split', queues: '1q', offloads, mtu: '1500' }),
      })),
    );
  }

  /** Lets `work` run over one switch and one kind of card, while the other switch stands still. */
  async turn<T>(peer: number, offloads: Kind['offloads'], work: (a: GuestShell) => Promise<T>): Promise<T> {
    const card = this.#order.indexOf(peer) * this.#kinds.length + this.#kinds.indexOf(offloads);
    const each = async (command: (device: string, side: Side) => string): Promise<void> => {
      for (const side of SIDES) {
        const guest = this.guests[side]!;
        await guest.run(command(guest.interfaces[card]!, side));
      }
    };
    this.#freeze(peer);
    await each((device, side) => `ip link set ${device} up && ip addr add ${ADDRESS[side]}/24 dev ${device}`);
    try {
      await reach(this.guests.a!, ADDRESS.b);
      return await work(this.guests.a!);
    } finally {
      await each((device) => `ip addr flush dev ${device}; ip link set ${device} down`);
      this.#thaw();
    }
  }

  #freeze(but: number): void {
    for (const [p, peer] of this.switches.entries())
      if (p !== but) for (const pid of peer.pids()) process.kill(pid, 'SIGSTOP');
  }

  #thaw(): void {
    for (const peer of this.switches) for (const pid of peer.pids()) process.kill(pid, 'SIGCONT');
  }

  async #stopGuests(): Promise<void> {
    for (const side of SIDES) await this.guests[side]?.stop();
  }

  async close(): Promise<void> {
    await this.#stopGuests();
    for (const peer of this.switches) await peer.stop();
    for (const relay of this.#relays) relay.close();
    removeScratchDir(this.#dir);
  }
}

/** Those wanted that can run here, Ringway first. */
function switchesOf({ switches, progress }: BenchOptions): SwitchUnderTest[] {
  const known = [
    { name: 'ringway', why: ringwayUnavailable(), make: () => new RingwayPeer() },
    { name: 'ovs', why: ovsUnavailable(), make: () => new OvsPeer() },
  ].filter(({ name }) => switches.length === 0 || switches.includes(name));
  for (const { name, why } of known) if (why) progress(`${name} left out: ${why}`);
  const usable = known.filter(({ why }) => !why);
  if (usable.length === 0) throw new Error('no switch to measure');
  return usable.map(({ make }) => make());
}

/** Whether these guests can run here; says why not. */
function runs(machine: Machine, { progress }: BenchOptions): boolean {
  const iperf3 = which('iperf3') ? undefined : 'no iperf3 (Debian: iperf3)';
  const why = machine === 'uml' ? (umlUnavailable() ?? iperf3) : guestsUnavailable();
  if (why) progress(`rows of ${machine} left out: ${why}`);
  return !why;
}

async function measure(
  machine: Machine,
  rows: readonly Row[],
  switches: readonly SwitchUnderTest[],
  options: BenchOptions,
  values: ReadonlyMap<Row, number[][]>,
): Promise<void> {
  const pair = new Pair(machine, switches, [...new Set(rows.map(({ offloads }) => offloads))]);
  try {
    await pair.open();
    for (let round = 0; round < options.rounds; round++) {
      const order = switches.map((_, i) => (i + round) % switches.length);
      await pair.boot(order);
      for (let turn = 0; turn < TURNS; turn++) {
        const step = `[${round * TURNS + turn + 1}/${options.rounds * TURNS}]`;
        for (const [r, row] of rows.entries()) {
          // The first is another one each time.
          for (const i of switches.keys()) {
            const peer = order[(turn + r + i) % switches.length]!;
            const value = await pair.turn(peer, row.offloads, (a) => row.measure(a, options));
            values.get(row)![peer]!.push(value);
            options.progress(`${step} ${row.name} ${switches[peer]!.name}: ${figure(value)} ${row.unit}`);
          }
        }
      }
    }
  } finally {
    await pair.close();
  }
}

async function run(options: BenchOptions) {
  if (!which('taskset')) throw new Error('no taskset (Debian: util-linux)');
  const switches = switchesOf(options);
  const machines = (['uml', 'qemu'] as const).filter((machine) => runs(machine, options));
  const rows = ROWS.filter(
    ({ name, guests }) => machines.includes(guests) && (options.rows.length === 0 || options.rows.includes(name)),
  );
  if (rows.length === 0) throw new Error(`no row to measure; there are ${ROWS.map(({ name }) => name).join(', ')}`);
  const values = new Map<Row, number[][]>(rows.map((row) => [row, switches.map((): number[] => [])]));
  for (const machine of machines) {
    const those = rows.filter(({ guests }) => guests === machine);
    if (those.length > 0) await measure(machine, those, switches, options, values);
  }
  const heads = [
    'guest to guest',
    ...switches.map(({ name }) => name),
    ...(switches.length > 1 ? ['ratio', 'rounds'] : []),
  ];
  const table = [heads];
  const results: BenchResult[] = [];
  for (const row of rows) {
    const of = values.get(row)!;
    const medians = of.map(median);
    const line = [row.about, ...medians.map((value) => `${figure(value)} ${row.unit}`)];
    for (const [p, { name }] of switches.entries())
      results.push({ row: row.name, subject: name, metric: row.about, value: medians[p]!, unit: row.unit });
    if (switches.length > 1) {
      // Above 1: Ringway is faster.
      const ratios = of[0]!.map((mine, i) => (row.less ? of[1]![i]! / mine : mine / of[1]![i]!));
      const rounds = Array.from({ length: options.rounds }, (_, i) => ratios.slice(i * TURNS, (i + 1) * TURNS));
      line.push(figure(median(ratios)), rounds.map((round) => median(round).toFixed(2)).join(' '));
      results.push({ row: row.name, subject: 'Ringway', metric: 'ratio', value: median(ratios), unit: '' });
    }
    table.push(line);
  }
  return {
    results,
    table: [
      ...formatTable(table),
      `ratio: above 1 Ringway is faster; median of all turns; then of each round's ${TURNS}`,
    ],
  };
}

export const guests: Bench = {
  name: 'guests',
  about: `two Linux guests, a card on each switch (rows: ${ROWS.map(({ name }) => name).join(', ')})`,
  run,
};
