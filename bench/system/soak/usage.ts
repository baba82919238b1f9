/** What a process holds, as the kernel counts it (proc(5)), and how much that grows over many samples. */
import { readdirSync, readFileSync } from 'node:fs';

export const KINDS = ['rss', 'pss', 'virtual', 'fds', 'maps', 'threads'] as const;
export type Kind = (typeof KINDS)[number];
/** Bytes of memory, and numbers of the others. */
export type Usage = Readonly<Record<Kind, number>>;

const MIB = 2 ** 20;

/**
 * What may be gained from the middle third of a run to the last one: at once, and for each 1000 cycles between the two. The
 * heap of a Node process breathes by some tens of megabytes; workers collect what guests left now and then (src/pmd/tidy.ts).
 */
export const BOUNDS: Readonly<Record<Kind, { once: number; perThousand: number }>> = {
  rss: { once: 32 * MIB, perThousand: 2 * MIB },
  pss: { once: 32 * MIB, perThousand: 2 * MIB },
  virtual: { once: 4096 * MIB, perThousand: 64 * MIB },
  fds: { once: 4, perThousand: 1 },
  maps: { once: 80, perThousand: 10 },
  threads: { once: 1, perThousand: 0 },
};

/** @throws Error when there is no such process. */
export function usageOf(pid: number): Usage {
  const proc = `/proc/${pid}`;
  const status = readFileSync(`${proc}/status`, 'utf8');
  const kib = (text: string, name: string): number =>
    1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)![1]);
  return {
    rss: kib(status, 'VmRSS'),
    pss: kib(readFileSync(`${proc}/smaps_rollup`, 'utf8'), 'Pss'),
    virtual: kib(status, 'VmSize'),
    fds: readdirSync(`${proc}/fd`).length,
    maps: readFileSync(`${proc}/maps`, 'utf8').split('\n').length - 1,
    threads: readdirSync(`${proc}/task`).length,
  };
}

export interface Sample {
  /** Cycles done by then. */
  readonly cycles: number;
  readonly usage: Usage;
}

export interface Growth {
  readonly kind: Kind;
  readonly first: number;
  readonly middle: number;
  readonly last: number;
  readonly perThousand: number;
  /** The bound that it is above of, or undefined. */
  readonly above: number | undefined;
}

const middleOf = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Compares the middle third of the samples with the last. @throws RangeError for fewer than six samples. */
export function growth(samples: readonly Sample[]): Growth[] {
  if (samples.length < 6) throw new RangeError(`${samples.length} samples; growth is seen in six or more`);
  const third = Math.floor(samples.length / 3);
  const parts = [samples.slice(0, third), samples.slice(third, -third), samples.slice(-third)];
  const cycles = middleOf(parts[2]!.map((s) => s.cycles)) - middleOf(parts[1]!.map((s) => s.cycles));
  return KINDS.map((kind) => {
    const [first, middle, last] = parts.map((part) => middleOf(part.map((s) => s.usage[kind]))) as [
      number,
      number,
      number,
    ];
    const bound = BOUNDS[kind].once + (BOUNDS[kind].perThousand * cycles) / 1000;
    const perThousand = cycles > 0 ? ((last - middle) * 1000) / cycles : Number.NaN;
    return { kind, first, middle, last, perThousand, above: last - middle > bound ? bound : undefined };
  });
}
