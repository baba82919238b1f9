import test from 'ava';
import { workerCounter } from '#contract/catalogue.ts';
import { H_COMMAND_HEAD, H_COMMAND_TAIL, H_WORKER_ASLEEP, LANE_BYTES, Lane } from '#contract/lane.ts';
import { eventfd, eventfdDrain, eventfdSignal, mapAnonymous } from '#contract/os.ts';
import { type LoopWork, PollLoop } from '#pmd/loop.ts';
import { SHARED_VERBS, SHARED_WORDS } from '#pmd/verbs.ts';
import type { RxQueue } from '#ports/port.ts';

/** A loop in this thread whose work ends it after `turns` turns of the first queue. */
class Bench implements LoopWork {
  readonly now = new Float64Array(1);
  readonly lane = new Lane(mapAnonymous(LANE_BYTES));
  readonly shared = new Int32Array(SHARED_WORDS);
  readonly wakeFd = eventfd();
  readonly loop: PollLoop;
  readonly polled: number[] = [];
  readonly log: string[] = [];
  /** Packets that a queue still has. */
  readonly packets = new Map<number, number>();
  onBurst: (queue: number) => void = () => {};
  onVerb: () => boolean = () => false;

  constructor() {
    this.loop = new PollLoop(this.lane, this.shared, this.wakeFd, this);
    this.loop.sleepAfter(Number.POSITIVE_INFINITY);
  }

  queue(queue: number, kickFd = -1): RxQueue {
    const note = (what: string) => void this.log.push(`${what} ${queue}`);
    return {
      portNo: 1,
      queue,
      kickFd,
      poll: () => 0,
      complete() {},
      arm: () => {
        note('arm');
        return (this.packets.get(queue) ?? 0) > 0;
      },
      disarm: () => note('disarm'),
      rest: () => note('rest'),
    };
  }

  burst(queue: RxQueue): number {
    this.polled.push(queue.queue);
    this.onBurst(queue.queue);
    const left = this.packets.get(queue.queue) ?? 0;
    this.packets.set(queue.queue, 0);
    return left;
  }

  commands(): void {
    this.log.push('commands');
    this.lane.header[H_COMMAND_TAIL] = this.lane.header[H_COMMAND_HEAD]!;
  }

  verbs(): boolean {
    this.log.push('verb');
    return this.onVerb();
  }

  fault(): void {}

  verb(): void {
    Atomics.add(this.shared, SHARED_VERBS, 1);
  }

  counter(name: Parameters<typeof workerCounter>[0]): number {
    return this.lane.worker[workerCounter(name)]!;
  }
}

test('queues are polled in turn, and a verb ends the loop', (t) => {
  const bench = new Bench();
  bench.loop.poll([bench.queue(0), bench.queue(1), bench.queue(2)]);
  bench.packets.set(1, 5);
  bench.onBurst = (queue) => {
    if (queue === 2 && bench.polled.length === 9) bench.verb();
  };
  bench.loop.run();
  t.deepEqual(bench.polled, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
  t.true(bench.counter('busy_cycles') > 0);
  t.is(bench.counter('idle_iterations'), bench.counter('iterations') - 1);
  t.true(Math.abs(bench.now[0]! - Date.now()) < 60_000);
});

test('every verb is taken once, in its turn, and queues may change under way', (t) => {
  const bench = new Bench();
  bench.loop.poll([bench.queue(0)]);
  for (let i = 0; i < 3; i++) bench.verb();
  let verbs = 0;
  bench.onVerb = () => {
    verbs++;
    if (verbs === 1) bench.loop.poll([bench.queue(7)]);
    return verbs < 3;
  };
  bench.loop.run();
  t.is(verbs, 3);
  t.deepEqual(bench.polled, [0, 7, 7]);
});

test('commands are carried out when the ring has some', (t) => {
  const bench = new Bench();
  bench.loop.poll([bench.queue(0)]);
  bench.onBurst = () => {
    if (bench.polled.length === 3) bench.lane.header[H_COMMAND_HEAD] = 64;
    if (bench.polled.length === 6) bench.verb();
  };
  bench.loop.run();
  t.deepEqual(bench.log, ['commands', 'verb']);
});

test('an idle loop arms all queues, sleeps, and wakes for a kick', (t) => {
  const bench = new Bench();
  const kick = eventfd();
  bench.loop.sleepAfter(0);
  bench.loop.poll([bench.queue(0, kick), bench.queue(1, eventfd())]);
  eventfdSignal(kick);
  bench.onBurst = () => {
    t.is(bench.lane.header[H_WORKER_ASLEEP], 0, 'awake at work');
    if (bench.counter('sleeps') === 1 && bench.polled.at(-1) === 0) bench.verb();
  };
  bench.loop.run();
  t.deepEqual(bench.log.slice(0, 4), ['arm 0', 'arm 1', 'disarm 0', 'disarm 1']);
  t.true(bench.counter('sleeps') >= 1);
});

test('a descriptor that is readable while frames wait wakes the loop, which does not read it', (t) => {
  const bench = new Bench();
  const [level, kick] = [eventfd(), eventfd()];
  bench.loop.sleepAfter(0);
  bench.loop.poll([{ ...bench.queue(0, level), kickIsLevel: true }, bench.queue(1, kick)]);
  eventfdSignal(level);
  eventfdSignal(kick);
  bench.onBurst = () => {
    if (bench.counter('sleeps') === 1) bench.verb();
  };
  bench.loop.run();
  t.true(eventfdDrain(kick) < 0, 'an eventfd was read');
  t.is(eventfdDrain(level), 1, 'the other was left alone');
});

test('a packet that comes while the queues are armed keeps the loop awake', (t) => {
  const bench = new Bench();
  bench.loop.sleepAfter(0);
  bench.loop.poll([bench.queue(0, eventfd()), bench.queue(1, eventfd())]);
  bench.onBurst = () => {
    if (bench.polled.length === 2) bench.packets.set(0, 1);
    if (bench.counter('sleeps') === 1) bench.verb();
  };
  bench.loop.run();
  t.deepEqual(bench.log.slice(0, 2), ['arm 0', 'disarm 0'], 'the others need not be asked');
});

test('a queue without kicks, or no wish to sleep, keeps the loop polling', (t) => {
  for (const [micros, fd] of [
    [0, -1],
    [Number.POSITIVE_INFINITY, eventfd()],
  ] as const) {
    const bench = new Bench();
    bench.loop.sleepAfter(micros);
    bench.loop.poll([bench.queue(0, fd)]);
    bench.onBurst = () => {
      if (bench.polled.length === 2000) bench.verb();
    };
    bench.loop.run();
    t.is(bench.counter('sleeps'), 0);
  }
});

test('usage tells cycles per queue since it was last taken', (t) => {
  const bench = new Bench();
  bench.loop.poll([bench.queue(0), bench.queue(1)]);
  bench.onBurst = () => {
    bench.packets.set(1, 1);
    if (bench.polled.length === 200) bench.verb();
  };
  bench.loop.run();
  const { cycles, total } = bench.loop.takeUsage();
  t.is(cycles[0], 0);
  t.true(cycles[1]! > 0 && cycles[1]! <= total);
  t.deepEqual([...bench.loop.takeUsage().cycles], [0, 0]);
});

test('queues that a worker polls no more are told, those that it keeps are not', (t) => {
  const bench = new Bench();
  const [kept, left] = [bench.queue(0), bench.queue(1)];
  bench.loop.poll([kept, left]);
  bench.loop.poll([kept]);
  t.deepEqual(bench.log, ['rest 1']);
  bench.loop.poll([]);
  t.deepEqual(bench.log, ['rest 1', 'rest 0']);
});
