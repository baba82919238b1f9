/**
 * Guests connect, send, and end in every way they can, thousands of times, beside two that go on exchanging frames. Shows
 * what both processes of the switch hold at the beginning, in the middle and at the end, and fails where it grows.
 */
import { DEFAULT_PROTOCOL } from '#guest/features.ts';
import { PATIENCE_MS } from '../../test/support/datapath.ts';
import { sleep, until } from '../../test/support/process.ts';
import { Stream } from '../../test/support/stream.ts';
import { type SwitchProcess, withSwitch } from '../../test/support/switch.ts';
import { type Bench, type BenchOptions, type BenchReport, figure, formatTable } from '../bench.ts';
import { CYCLES, PORT } from './soak/cycles.ts';
import { type Growth, growth, type Sample, usageOf } from './soak/usage.ts';

/** Least number of samples; each comes after a round of all cycles. */
const LEAST_SAMPLES = 6;
const MOST_SAMPLES = 600;
const PLANES = ['data', 'control'] as const;

export interface SoakResult {
  readonly cycles: number;
  readonly growth: Readonly<Record<(typeof PLANES)[number], readonly Growth[]>>;
  /** Frames between the two lasting guests, and those of them that came out of turn. */
  readonly frames: number;
  readonly odd: number;
}

/** Takes the pair's frames on while something else is awaited. */
async function keep<T>(stream: Stream, work: Promise<T>): Promise<T> {
  let over = false;
  const done = work.finally(() => {
    over = true;
  });
  while (!over) {
    stream.step();
    await Promise.race([done.catch(() => undefined), sleep(1)]);
  }
  return done;
}

/** The port waits for its next guest: all that the one before had is given back. */
const settled = (sw: SwitchProcess): Promise<unknown> =>
  until(
    'the port to wait again',
    async () => (await sw.vsctl('get', 'Interface', PORT, 'status:status')).includes('disconnected'),
    PATIENCE_MS,
  );

/** @param more whether a further round of all cycles is wanted, given those done. */
export async function soak(more: (cycles: number) => boolean, progress: (line: string) => void): Promise<SoakResult> {
  const samples: Record<(typeof PLANES)[number], Sample[]> = { data: [], control: [] };
  let cycles = 0;
  let frames = 0;
  let odd = 0;
  await withSwitch(['--default'], async (sw) => {
    const [one, two] = (await sw.vsctl('list-ports', 'br0')).trim().split('\n') as [string, string];
    await sw.vsctl('add-port', 'br0', PORT, '--', 'set', 'Interface', PORT, 'type=vhost-user');
    const protocol = [...DEFAULT_PROTOCOL];
    const [a, b] = [await sw.guest(one, { protocol }), await sw.guest(two, { protocol })];
    await sw.linkUp(one, two);
    const stream = new Stream(a!, b!);
    const every = new Map<string, number>();
    for (let round = 0; round < LEAST_SAMPLES || more(cycles); round++) {
      for (const { name, run } of CYCLES) {
        const before = performance.now();
        await keep(stream, run(sw));
        every.set(name, (every.get(name) ?? 0) + performance.now() - before);
        cycles++;
      }
      await keep(stream, settled(sw));
      const sample = { data: usageOf(sw.datapathPid), control: usageOf(sw.child.pid) };
      for (const plane of PLANES) samples[plane].push({ cycles, usage: sample[plane] });
      for (const plane of PLANES)
        if (samples[plane].length > MOST_SAMPLES) samples[plane] = samples[plane].filter((_, i) => i % 2 === 0);
      const { pss, maps, fds } = sample.data;
      if (round % 20 === 0)
        progress(`${cycles} cycles: data plane ${figure(pss / 2 ** 20)} MiB, ${maps} mappings, ${fds} descriptors`);
    }
    await stream.finish();
    frames = stream.received;
    odd = stream.odd.length;
    for (const [name, ms] of every) progress(`${name}: ${figure((ms * CYCLES.length) / cycles)} ms a cycle`);
  });
  return { cycles, growth: { data: growth(samples.data), control: growth(samples.control) }, frames, odd };
}

const MEMORY = new Set(['rss', 'pss', 'virtual']);

/** The lines of the table, and what is above its bound. */
export function describe({ cycles, growth: of, frames, odd }: SoakResult): { table: string[]; grown: string[] } {
  const grown: string[] = [];
  const rows = [['', 'first', 'middle', 'last', 'per 1000 cycles']];
  for (const plane of PLANES) {
    for (const { kind, first, middle, last, perThousand, above } of of[plane]) {
      const scale = MEMORY.has(kind) ? 2 ** 20 : 1;
      const cells = [first, middle, last, perThousand].map((value) => figure(value / scale));
      rows.push([`${plane} plane, ${kind}${scale > 1 ? ' (MiB)' : ''}`, ...cells]);
      if (above !== undefined)
        grown.push(
          `${kind} of the ${plane} plane by ${figure((last - middle) / scale)}, above ${figure(above / scale)}`,
        );
    }
  }
  const table = formatTable(rows);
  table.push(`${cycles} cycles; ${frames} frames between two other guests meanwhile, ${odd} of them out of turn`);
  return { table, grown };
}

async function run(options: BenchOptions): Promise<BenchReport> {
  const end = performance.now() + options.seconds * 1000;
  const result = await soak((cycles) => cycles < (options.cycles ?? 0) || performance.now() < end, options.progress);
  const { table, grown } = describe(result);
  if (grown.length > 0) throw new Error(`grown: ${grown.join('; ')}\n${table.join('\n')}`);
  const results = PLANES.flatMap((plane) =>
    result.growth[plane].map(({ kind, perThousand }) => ({
      row: `soak, ${kind}`,
      subject: `Ringway's ${plane} plane`,
      metric: 'growth per 1000 cycles',
      value: perThousand,
      unit: MEMORY.has(kind) ? 'B' : '',
    })),
  );
  return { results, table };
}

export const soakBench: Bench = {
  name: 'soak',
  about: 'guests come and go in every way for --seconds and --cycles: growth of memory, descriptors, mappings, threads',
  run,
};
