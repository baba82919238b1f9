import test from 'ava';
import type { PortMessage } from '#contract/messages.ts';
import { PORTS, sessionTypes } from '#pmd/port-types.ts';
import { Ports } from '#pmd/ports.ts';
import type { Verb, VerbAnswer } from '#pmd/verbs.ts';
import type { PmdWorker } from '#pmd/workers.ts';
import type { PortConfig, PortHost, PortSession, SessionFactory } from '#ports/port.ts';

/** A worker that writes down what it is asked, and takes a while over it. */
class FakeWorker {
  readonly worker: number;
  readonly core = -1;
  readonly laneFd = -1;
  readonly log: string[];
  stopped = false;

  constructor(worker: number, log: string[]) {
    this.worker = worker;
    this.log = log;
  }

  async ask(verb: Verb): Promise<VerbAnswer['result']> {
    await new Promise((resolve) => setTimeout(resolve, this.worker));
    const detail =
      verb.verb === 'attach'
        ? ` ${verb.portNo} ${verb.attachment?.rxQueues.join('+') ?? '-'}${verb.known ? '' : ' gone'}`
        : verb.verb === 'poll'
          ? ` ${verb.queues.map((q) => q.join('.')).join(' ')}`
          : '';
    this.log.push(`${this.worker}: ${verb.verb}${detail}`.trim());
    return verb.verb === 'usage' ? { queues: [], total: 1 } : undefined;
  }

  async stop(): Promise<void> {
    this.stopped = true;
  }
}

const workersOf = (log: string[], n: number): PmdWorker[] =>
  Array.from({ length: n }, (_, i) => new FakeWorker(i, log) as unknown as PmdWorker);

class FakeSession implements PortSession {
  readonly portNo: number;
  readonly host: PortHost;
  faults: string[] = [];
  started = false;
  stopped = false;
  readonly waits: boolean;
  constructor(config: PortConfig, host: PortHost) {
    if (config.options['bad']) throw new Error('option bad is bad');
    this.portNo = config.portNo;
    this.host = host;
    this.waits = config.options['waits'] !== undefined;
  }
  queues(...rxQueues: number[]): Promise<void> {
    return this.host.attach(this.portNo, { kind: 'dummy', portNo: this.portNo, rxQueues });
  }
  /** A queue that outlives the data plane. */
  keptQueue(): Promise<void> {
    return this.host.attach(this.portNo, { kind: 'dummy', portNo: this.portNo, rxQueues: [0], kept: true });
  }
  async start(): Promise<void> {
    this.started = true;
  }
  say(linkUp: boolean): void {
    this.host.status(this.portNo, { ...this.status(), linkUp });
  }
  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    return options['anew'] === undefined;
  }
  fault(reason: string): void {
    this.faults.push(reason);
  }
  status() {
    return { state: 'up' as const, lastError: '', linkUp: this.started && !this.waits, facts: {} };
  }
  async stop(): Promise<void> {
    this.stopped = true;
  }
}

const setUp = async (n = 2) => {
  const log: string[] = [];
  const made: FakeSession[] = [];
  const statuses: PortMessage[] = [];
  const factory: SessionFactory = (config, host) => {
    const session = new FakeSession(config, host);
    made.push(session);
    return session;
  };
  const ports = new Ports(new Map([['fake', factory]]), (port) => statuses.push(port));
  const workers = workersOf(log, n);
  await ports.useWorkers(workers);
  log.length = 0;
  const add = async (name: string, more: Partial<PortConfig> = {}): Promise<FakeSession> => {
    const no = await ports.add({ portNo: 0, name, type: 'fake', options: {}, mtu: 1500, ...more });
    return made.findLast(({ portNo }) => portNo === no)!;
  };
  return { ports, log, made, statuses, add, workers };
};

test('an attachment changes in three steps, each done by all workers before the next', async (t) => {
  const { add, log } = await setUp();
  const session = await add('a');
  await session.queues(0, 1);
  log.length = 0;
  await session.queues(0, 1, 2);
  const steps = log.map((line) => line.slice(3));
  const attach = steps.indexOf('attach 1 0+1+2');
  t.true(
    steps.slice(0, attach).every((step) => step === 'poll'),
    log.join('\n'),
  );
  t.is(steps.filter((step) => step === 'attach 1 0+1+2').length, 2);
  t.is(steps.lastIndexOf('attach 1 0+1+2'), attach + 1, 'no poll between');
  const final = log.filter((line) => line.includes('poll')).slice(-2);
  t.is(final.join().match(/1\.\d/g)!.length, 3, 'each queue at one worker');
});

test('changes asked at the same time happen one after the other', async (t) => {
  const { add, log } = await setUp(1);
  const [a, b] = [await add('a'), await add('b')];
  log.length = 0;
  await Promise.all([a!.queues(0), b!.queues(0), a!.queues(), b!.queues()]);
  const attaches = log.filter((line) => line.includes('attach'));
  t.deepEqual(attaches, ['0: attach 1 0', '0: attach 2 0', '0: attach 1', '0: attach 2']);
  t.is(log.at(-1), '0: poll');
});

test('names and numbers are unique, numbers are the smallest that are free', async (t) => {
  const { ports, add } = await setUp();
  t.deepEqual([(await add('a')).portNo, (await add('b')).portNo], [1, 2]);
  t.is((await add('c', { portNo: 9 })).portNo, 9);
  await t.throwsAsync(add('a'), { message: /a port named a exists/ });
  await t.throwsAsync(add('d', { portNo: 9 }), { message: /number 9 is taken/ });
  await t.throwsAsync(add('d', { portNo: 1024 }), { message: /not below 1024/ });
  await t.throwsAsync(add('d', { type: 'what' }), { message: /unknown port type "what"; known are fake/ });
  await t.throwsAsync(add('d', { options: { bad: '1' } }), { message: /option bad/ });
  await ports.delete(1);
  t.is((await add('e')).portNo, 1);
  t.deepEqual(
    ports.list().map(({ config }) => config.name),
    ['b', 'c', 'e'],
  );
});

test('a change keeps the session where it can, makes it anew where not, and touches nothing when refused', async (t) => {
  const { ports, made, add } = await setUp();
  const session = await add('a');
  await add('b');
  const config = { portNo: session.portNo, name: 'a', type: 'fake', options: {}, mtu: 1500 };
  await ports.set({ ...config, options: { x: '1' } });
  t.false(session.stopped);
  for (const [change, message] of [
    [{ options: { bad: '1' } }, /option bad/],
    [{ name: 'b' }, /named b exists/],
    [{ type: 'none' }, /unknown port type/],
    [{ options: { 'pmd-rxq-affinity': 'x' } }, /pmd-rxq-affinity/],
  ] as const) {
    await t.throwsAsync(ports.set({ ...config, ...change }), { message });
    t.false(session.stopped);
  }
  await ports.set({ ...config, options: { anew: '1' } });
  t.true(session.stopped);
  t.is(made.filter(({ portNo, started, stopped }) => portNo === session.portNo && started && !stopped).length, 1);
  await t.throwsAsync(ports.set({ ...config, portNo: 55 }), { message: /no port has the number 55/ });
});

test('a deleted port is told to all workers as gone; its late news is not passed on', async (t) => {
  const { ports, add, log, statuses } = await setUp();
  const session = await add('a');
  t.is(statuses.at(-1)!.state, 'up', 'told at once');
  log.length = 0;
  await ports.delete(session.portNo);
  t.true(session.stopped);
  t.deepEqual(log.filter((line) => line.includes('gone')).sort(), ['0: attach 1 - gone', '1: attach 1 - gone']);
  const told = statuses.length;
  ports.status(session.portNo, session.status());
  t.is(statuses.length, told);
});

test('new workers get every port before they poll, and old ones have stopped by then', async (t) => {
  const { ports, add, workers } = await setUp(1);
  await (await add('a')).queues(0, 1);
  await add('empty');
  const log: string[] = [];
  const fresh = workersOf(log, 2);
  await ports.useWorkers(fresh);
  t.true(workers.every((w) => (w as unknown as FakeWorker).stopped));
  t.deepEqual(log.slice(0, 2), ['0: inherit', '1: inherit']);
  const firstPoll = log.findIndex((line) => line.includes('poll'));
  t.deepEqual(log.slice(2, firstPoll).sort(), ['0: attach 1 0+1', '0: attach 2 -', '1: attach 1 0+1', '1: attach 2 -']);
  t.deepEqual(
    [0, 1].map((worker) => ports.usage(worker).rxqs.length),
    [1, 1],
  );
});

test('every type has a session, every kind a view', (t) => {
  const types = sessionTypes('/tmp/x');
  for (const type of ['vhost-user', 'dpdkvhostuser', 'dpdkvhostuserclient', 'dummy', 'tap', 'internal', 'system'])
    t.is(typeof types.get(type), 'function', type);
  for (const kind of ['vhost-user', 'dummy', 'tap', 'af_packet']) t.is(typeof PORTS.get(kind), 'function', kind);
});

test('queues that outlive a data plane are polled once all awaited ports are up; others at once', async (t) => {
  const { ports, add, log } = await setUp(1);
  let gathered = false;
  const gathering = ports.gather(['a', 'b', 'c'], 60_000).then(() => {
    gathered = true;
  });
  const waits = { options: { waits: 'true' } };
  const [a, b] = [await add('a', waits), await add('b', waits)];
  await a.keptQueue();
  await b.queues(0);
  t.is(log.at(-1), '0: poll 2.0');
  a.say(true);
  a.say(true);
  b.say(false);
  b.say(true);
  await ports.rebalance('cycles');
  t.false(gathered, 'one is missing');
  t.is(log.at(-1), '0: poll 2.0');
  // One that is deleted is waited for no longer.
  const c = await add('c', waits);
  await ports.delete(c.portNo);
  await gathering;
  t.regex(log.at(-1)!, /poll (1\.0 2\.0|2\.0 1\.0)/);
});

test('ports that do not come back are waited for no longer than is said', async (t) => {
  const { ports, add, log } = await setUp(1);
  const gathering = ports.gather(['a', 'gone'], 50);
  const a = await add('a');
  await a.keptQueue();
  await gathering;
  t.is(log.at(-1), '0: poll 1.0');
  await ports.gather([], 60_000);
});
