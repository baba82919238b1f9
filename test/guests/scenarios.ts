/**
 * What happens to two guests besides traffic: one of them moves to another QEMU, or the switch is killed under them. Pings
 * run all the while, and a stream whose every byte is compared.
 */
import { join } from 'node:path';
import { PATIENCE_MS } from '../support/datapath.ts';
import { until } from '../support/process.ts';
import type { QemuGuest } from '../support/qemu.ts';
import { listens, Qmp } from '../support/qmp.ts';
import { alive } from '../support/switch.ts';
import { iperf, ping, reach } from './exchange.ts';
import { ADDRESS, GuestLab, type LabOptions, type Side } from './lab.ts';
import type { Row } from './rows.ts';

const BLOCK = 65_536;
const BLOCKS = 64;
const PAUSE_US = 50_000;
/** Of pings, in seconds; each step of an outage. */
const INTERVAL = 0.1;
const STREAM_MS = 150_000;
const NAMES = ['migration-split', 'migration-packed', 'restart-split', 'restart-packed'] as const;

export type Scenario = (typeof NAMES)[number];
export const SCENARIOS: readonly Scenario[] = NAMES;

/** Lines for people, such as `stopped 12 ms, 3 pings lost`. */
export type Told = string[];

/** Between the guests' two queues of a kind of ring. */
const rowOf = (ring: Row['ring']): Row => ({ era: 'modern', ring, queues: '2q', offloads: 'offload', mtu: '1500' });

/**
 * `from` sends a file over TCP at leisure to `to`, which has this address; `during` is called when a part has arrived, and
 * says which guest the receiver is by then. @throws Error when a byte is not as it was sent.
 */
async function stream(
  from: QemuGuest,
  to: QemuGuest,
  address: string,
  during: () => Promise<QemuGuest>,
): Promise<void> {
  const digest = await from.run(`dd if=/dev/urandom of=/tmp/out bs=${BLOCK} count=${BLOCKS} 2>&- && sha1sum </tmp/out`);
  // nc shuts its side down, and the other end with it, when its input ends: this one's never does.
  await to.run('rm -f /tmp/in /tmp/never; mkfifo /tmp/never');
  await to.run(`timeout 120 nc -l -p 5000 <>/tmp/never >/tmp/in & nc=$!`);
  await to.run(`until netstat -ltn | grep -q ':5000 '; do usleep 10000; done`);
  const block = `dd if=/tmp/out bs=${BLOCK} skip=$i count=1 2>&-; usleep ${PAUSE_US}`;
  const blocks = `for i in $(seq 0 ${BLOCKS - 1}); do ${block}; done`;
  const sending = from.run(`${blocks} | timeout 120 nc ${address} 5000`, STREAM_MS);
  let receiver = to;
  try {
    await to.run(`until [ $(wc -c </tmp/in) -gt ${4 * BLOCK} ]; do usleep 10000; done`);
    receiver = await during();
  } finally {
    await sending;
  }
  const got = await receiver.run('wait $nc; sha1sum </tmp/in', STREAM_MS);
  if (got !== digest) throw new Error(`the stream's digest is ${got}instead of ${digest}`);
}

/** Pings from guest `a` to `b` in the background while `work` runs. @returns the longest row of pings lost, and all. */
async function pinged(a: QemuGuest, work: () => Promise<void>): Promise<{ row: number; lost: number; sent: number }> {
  await a.run(`ping -i ${INTERVAL} ${ADDRESS.b} >/tmp/pings 2>&1 & ping=$!`);
  try {
    await work();
  } finally {
    await a.run('kill -INT $ping; wait $ping; true');
  }
  const text = await a.run('cat /tmp/pings');
  const answered = [...text.matchAll(/seq=(\d+)/g)].map(([, seq]) => Number(seq));
  if (answered.length === 0) throw new Error(`no ping was answered\n${text}`);
  const gaps = answered.map((seq, i) => seq - (i > 0 ? answered[i - 1]! : -1) - 1);
  const [, sent, received] = /(\d+) packets transmitted, (\d+) packets received/.exec(text)!;
  return { row: Math.max(...gaps), lost: Number(sent) - Number(received), sent: Number(sent) };
}

const seconds = (pings: number): string => `${(pings * INTERVAL).toFixed(1)} s`;

/** Guest b moves to another QEMU. */
async function migration(ring: Row['ring'], options: LabOptions): Promise<Told> {
  const control = (dir: string) => join(dir, 'qmp');
  const more = (dir: string, side: Side) => (side === 'b' ? ['-qmp', `unix:${control(dir)},server=on,wait=off`] : []);
  return withLab(rowOf(ring), { ...options, more }, async (lab) => {
    const { a, b } = lab.guests;
    const meeting = join(lab.dir, 'incoming');
    const qmp = await Qmp.open(control(lab.dir));
    let end: Awaited<ReturnType<Qmp['migrate']>> | undefined;
    try {
      const move = async (): Promise<QemuGuest> => {
        const moved = await lab.twin('b', `unix:${meeting}`);
        try {
          await until(
            'QEMU to listen for the guest',
            () => listens(meeting),
            PATIENCE_MS,
            () => moved.child.tail(),
          );
          end = await qmp.migrate(`unix:${meeting}`);
        } finally {
          lab.moved('b', moved);
        }
        return moved;
      };
      const { lost, sent } = await pinged(a, () => stream(a, b, ADDRESS.b, move));
      await traffic(lab);
      return [`moved in ${end!['total-time']} ms, stopped for ${end!.downtime} ms, ${lost} of ${sent} pings lost`];
    } finally {
      qmp.close();
    }
  });
}

/** The data plane is killed, then the whole switch, which is started again; QEMU listens on all sockets. */
async function restart(ring: Row['ring'], options: LabOptions): Promise<Told> {
  return withLab(rowOf(ring), { ...options, roles: { a: 'server', b: 'server' } }, async (lab) => {
    const { a, b } = lab.guests;
    const told: Told = [];
    const tell = async (what: string, work: () => Promise<void>): Promise<void> => {
      const { row } = await pinged(a, async () => {
        await work();
        await reach(a, ADDRESS.b);
      });
      told.push(`${what}: ${seconds(row)} without an answer`);
    };
    await tell('data plane killed', () => stream(b, a, ADDRESS.a, () => killDataPlane(lab).then(() => a)));
    await tell('switch killed', () => stream(b, a, ADDRESS.a, () => killSwitch(lab).then(() => a)));
    await tell('data plane killed under full load', async () => {
      const load = iperf(a, ADDRESS.b, '-t 6 -P 4');
      await until('load', async () => ((await lab.statistics('b'))['tx_bytes'] ?? 0) > 2 ** 20, PATIENCE_MS);
      await killDataPlane(lab);
      if ((await load).sum_received.bytes < 2 ** 20) throw new Error('the load did not go on');
    });
    await traffic(lab);
    return told;
  });
}

async function killDataPlane({ sw }: GuestLab): Promise<void> {
  const before = sw.datapathPid;
  process.kill(before, 'SIGKILL');
  await until('another data plane', () => sw.datapathPid !== before && alive(sw.datapathPid), PATIENCE_MS);
}

async function killSwitch({ sw }: GuestLab): Promise<void> {
  const datapath = sw.datapathPid;
  // The control plane first: it would start the data plane again.
  await sw.child.stop('SIGKILL');
  process.kill(datapath, 'SIGKILL');
  await until('the data plane to end', () => !alive(datapath), PATIENCE_MS);
  await sw.restart();
}

/** Traffic goes on, both ways. */
async function traffic(lab: GuestLab): Promise<void> {
  const { a, b } = lab.guests;
  await ping(a, ADDRESS.b, 1472);
  await ping(b, ADDRESS.a, 56);
  for (const back of ['', ' -R']) await iperf(a, ADDRESS.b, `-n 4M -P 4${back}`);
}

async function withLab(row: Row, options: LabOptions, work: (lab: GuestLab) => Promise<Told>): Promise<Told> {
  const lab = await GuestLab.open([row], options);
  try {
    return await lab.withRow(row, async () => {
      await reach(lab.guests.a, ADDRESS.b);
      return work(lab);
    });
  } catch (error) {
    (error as Error).message += `\n${lab.said()}`;
    throw error;
  } finally {
    await lab.close();
  }
}

export function runScenario(name: Scenario, options: LabOptions): Promise<Told> {
  const [what, ring] = name.split('-') as ['migration' | 'restart', Row['ring']];
  return what === 'migration' ? migration(ring, options) : restart(ring, options);
}
