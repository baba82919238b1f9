/**
 * The ladder from QEMU's own virtio back end to packets by reference: two Linux guests, and each rung between them in turn.
 *
 * The guests' processors are emulated, and share a core: what a guest itself does for a packet weighs more than in life, and
 * bounds all rates. What the machinery between the guests costs is therefore told apart: processor time, outside of the
 * guests' processors, for a packet delivered. Rungs by network card go through the guests' kernels, as programs with sockets
 * do (ladder/frames.c); rungs by ivshmem end in the program (examples/ivshmem). docs/ladder.md explains the rungs.
 *
 * A second table shows the switch's side with nothing emulated: rows of the bench `ivshmem`.
 */
import { tscHz } from '../../src/contract/os.ts';
import { netnsMissing } from '../../test/support/netns.ts';
import { sleep } from '../../test/support/process.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { ivshmem } from './ivshmem.ts';
import { type Ends, Guests, guestsUnavailable } from './ladder/guests.ts';

const SMALL = 64;
const LARGE = 1500;
const PINGS = 1000;
/** Name of the second table, and the rows of the bench that it consists of. */
const SWITCH_SIDE = 'switch';
const SWITCH_ROWS = ['vhost-64', 'vhost-1500', 'copy-64', 'copy-1500', 'shared-64', 'shared-1500'];
/** The receiver starts first, and ends before the sender. */
const MARGIN_S = 2;
const COMMAND_MS = 120_000;

interface Rung {
  name: string;
  about: string;
  end: keyof Ends;
  /** The receiver's port of the switch; none where QEMU and the kernel carry the packets. */
  port?: string;
  /** Copies of a packet on its way from guest to guest. */
  copies: number;
}

// QEMU: writev from the guest into the kernel's buffer, read into QEMU's own, and from there into the other guest; the
// bridge passes the kernel's buffer on as it is (QEMU, net/tap.c and hw/net/virtio-net.c).
const RUNGS: readonly Rung[] = [
  { name: 'qemu', about: 'QEMU, tap, kernel bridge', end: 'tap', copies: 3 },
  { name: 'vhost-user', about: 'vhost-user', end: 'vhost', port: 'vb', copies: 1 },
  { name: 'copy', about: 'ivshmem, isolation=copy', end: 'copy', port: 'cb', copies: 1 },
  { name: 'shared', about: 'ivshmem, one pool', end: 'shared', port: 'sb', copies: 0 },
];
/** Whether the guests' programs have the packets' memory in their own hands. */
const direct = (end: keyof Ends): end is 'shared' | 'copy' => end === 'shared' || end === 'copy';
/** Without, the kernel of each guest copies between its own buffer and the program's. */
const COPIES_IN_GUESTS = 2;

interface Rate {
  /** Packets per second that the sending program sent, and that the receiving one counted. */
  sent: number;
  received: number;
  /** Microseconds of processor time between the guests, for a packet delivered. */
  cost: number;
  /** Bytes that the switch copied, for a packet. */
  copied: number;
}

interface Turn {
  small: Rate;
  large: Rate;
  /** Microseconds of a round trip: median, 99th percentile. */
  p50: number;
  p99: number;
}

const kilo = (perSecond: number): string => figure(perSecond / 1000);

/** Both programs say so: a number after the word, in packets or millions of them. */
function perSecond(said: string, word: string): number {
  const [, value, unit] = new RegExp(`${word} ([\\d.]+) (Mpps|per second)`).exec(said) ?? [];
  if (value === undefined) throw new Error(`no rate in: ${said}`);
  return Number(value) * (unit === 'Mpps' ? 1e6 : 1);
}

async function measureRate(guests: Guests, rung: Rung, size: number, options: BenchOptions): Promise<Rate> {
  const { peer } = guests;
  const { end, port } = rung;
  const { warmup, seconds } = options;
  const [from, to] = [guests.from[end], guests.to[end]];
  const sending = warmup + seconds + MARGIN_S;
  const receive = direct(end)
    ? `rwi count ${to} --warmup ${warmup} --seconds ${seconds}`
    : `frames count ${to} ${warmup} ${seconds}`;
  const send = direct(end)
    ? `rwi load ${from} --size ${size} --seconds ${sending}`
    : `frames send ${from} ${guests.macs[end]} ${size} ${sending}`;
  const copiedSoFar = async () =>
    port ? [await guests.statistic(port, 'copied_bytes'), await guests.statistic(port, 'tx_packets')] : [];

  const before = await copiedSoFar();
  const programs = Promise.all([guests.b.run(receive, COMMAND_MS), guests.a.run(send, COMMAND_MS)]);
  // The window lies within the time in which both run.
  const work = (async () => {
    await sleep(warmup * 1000);
    if (port) await peer.clearPmdStats();
    const [start, ran] = [performance.now(), guests.carrierSeconds()];
    await sleep(seconds * 1000);
    const elapsed = (performance.now() - start) / 1000;
    const carried = (guests.carrierSeconds() - ran) / elapsed;
    return { carried, cycles: port ? (await peer.pmdStats()).cyclesPerPacket : 0 };
  })();
  const [[said, sent], { carried, cycles }] = await Promise.all([programs, work]);
  const received = perSecond(said, 'received');
  const offered = perSecond(sent, 'sent');
  if (!port) return { sent: offered, received, cost: (carried / received) * 1e6, copied: Number.NaN };
  // What the switch handled and the receiver did not get has cost time too.
  const handled = Math.max(offered, received);
  // Counters are told about once a second.
  await sleep(1500);
  const [bytes, frames] = (await copiedSoFar()).map((count, i) => count - before[i]!);
  return { sent: offered, received, cost: (((cycles / tscHz()) * handled) / received) * 1e6, copied: bytes! / frames! };
}

async function measurePing(guests: Guests, { end, port }: Rung): Promise<Pick<Turn, 'p50' | 'p99'>> {
  const { a, b, from, to } = guests;
  const program = direct(end) ? 'rwi-echo' : 'frames';
  const echo = direct(end) ? to[end] : `echo ${to[end]}`;
  await b.run(`${program} ${echo} >/tmp/echo 2>&1 & until grep -q ready /tmp/echo; do usleep 10000; done`, COMMAND_MS);
  try {
    if (port) await guests.linkUp(port);
    const ping = direct(end)
      ? `rwi ping ${from[end]} --size ${SMALL} --count ${PINGS}`
      : `frames ping ${from[end]} ${guests.macs[end]} ${SMALL} ${PINGS}`;
    const [, p50, p99] = /p50 ([\d.]+) us, p99 ([\d.]+) us/.exec(await a.run(ping, COMMAND_MS)) ?? [];
    return { p50: Number(p50), p99: Number(p99) };
  } finally {
    await b.run(`kill -9 $(pidof ${program})`);
  }
}

async function measureRungs(rungs: readonly Rung[], options: BenchOptions): Promise<Map<string, Turn[]>> {
  const turns = new Map<string, Turn[]>(rungs.map(({ name }) => [name, []]));
  const guests = new Guests();
  try {
    await guests.open(rungs.some(({ port }) => !port));
    for (let round = 0; round < options.rounds; round++) {
      for (const rung of rungs) {
        await guests.carriedBy(rung.port ? 'switch' : 'qemu');
        const small = await measureRate(guests, rung, SMALL, options);
        const large = await measureRate(guests, rung, LARGE, options);
        const turn = { small, large, ...(await measurePing(guests, rung)) };
        turns.get(rung.name)!.push(turn);
        const rates = [small, large].map((rate) => `${kilo(rate.received)} of ${kilo(rate.sent)} kpps`).join(', ');
        options.progress(`[${round + 1}/${options.rounds}] ${rung.name}: ${rates}, ${figure(turn.p50)} us`);
      }
    }
  } finally {
    await guests.close();
  }
  return turns;
}

const COLUMNS: readonly { head: string; metric: string; unit: string; of: (turn: Turn) => number }[] = [
  { head: '64 B kpps', metric: 'rate, 64 B', unit: 'kpps', of: ({ small }) => small.received / 1000 },
  { head: '1500 B kpps', metric: 'rate, 1500 B', unit: 'kpps', of: ({ large }) => large.received / 1000 },
  { head: 'us/pkt 64 B', metric: 'time between guests, 64 B', unit: 'us', of: ({ small }) => small.cost },
  { head: 'us/pkt 1500 B', metric: 'time between guests, 1500 B', unit: 'us', of: ({ large }) => large.cost },
  { head: 'copied B', metric: 'copied by the switch, 1500 B', unit: 'B', of: ({ large }) => large.copied },
  { head: 'ping p50 us', metric: 'round trip, median', unit: 'us', of: ({ p50 }) => p50 },
  { head: 'p99 us', metric: 'round trip, 99th percentile', unit: 'us', of: ({ p99 }) => p99 },
];

const NOTES = [
  'copies: from guest to guest, and in the kernels of both guests. us/pkt: processor time between the guests per packet',
  'delivered (QEMU: main threads of both; else busy cycles of the PMD). Rates and round trips are bound by the guests,',
  'whose emulated processors share one core; us/pkt leaves these out.',
];

async function run(options: BenchOptions) {
  const reason = guestsUnavailable();
  if (reason) throw new Error(reason);
  const chosen = ({ name }: { name: string }) => options.rows.length === 0 || options.rows.includes(name);
  const noTaps = netnsMissing('taskset');
  const rungs = RUNGS.filter(chosen).filter(({ port }) => port || !noTaps);
  const table: string[] = [];
  const results: BenchResult[] = [];
  if (rungs.length > 0) {
    const turns = await measureRungs(rungs, options);
    const rows = [['guest to guest', 'copies', ...COLUMNS.map(({ head }) => head)]];
    for (const { name, about, copies, end } of rungs) {
      const values = COLUMNS.map(({ of }) => median(turns.get(name)!.map(of)));
      rows.push([about, `${copies} + ${direct(end) ? 0 : COPIES_IN_GUESTS}`, ...values.map(figure)]);
      for (const [i, { metric, unit }] of COLUMNS.entries()) {
        const value = values[i]!;
        if (!Number.isNaN(value)) results.push({ row: name, subject: about, metric, value, unit });
      }
    }
    table.push(...formatTable(rows), ...NOTES);
  }
  if (noTaps && RUNGS.some((rung) => chosen(rung) && !rung.port)) table.push(`left out: QEMU's own back end ${noTaps}`);
  if (chosen({ name: SWITCH_SIDE })) {
    const side = await ivshmem.run({ ...options, rows: SWITCH_ROWS });
    table.push('', 'the switch by itself, nothing emulated', ...side.table);
    results.push(...side.results);
  }
  return { results, table };
}

export const ladder: Bench = {
  name: 'ladder',
  about: `two Linux guests: QEMU's back end, vhost-user, ivshmem (rows: ${[...RUNGS.map((rung) => rung.name), SWITCH_SIDE].join(', ')})`,
  run,
};
