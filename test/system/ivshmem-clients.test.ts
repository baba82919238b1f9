/**
 * The whole switch between clients of ivshmem ports: the C programs of examples/ivshmem and the TypeScript client, with and
 * without doorbells, in one pool and in pools of their own, and killed in the middle of their work.
 */
import { join } from 'node:path';
import test from 'ava';
import { openIvshmemPort } from '#guest/ivshmem/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { buildExamples, type Examples, exampleCompiler } from '../support/ivshmem-examples.ts';
import { Child, removeScratchDir, run, runOk, scratchDir, until } from '../support/process.ts';
import { SwitchProcess } from '../support/switch.ts';

const maybe = exampleCompiler()
  ? test.serial
  : (title: string, _body: unknown) => test.serial.skip(`${title} (no C compiler or make)`, () => {});
const GIVE_UP = ['--timeout', String(PATIENCE_MS / 1000)];

class Lab {
  readonly dir = scratchDir('rwi');
  sw!: SwitchProcess;
  programs!: Examples;
  readonly #children: Child[] = [];

  async open(): Promise<void> {
    this.programs = await buildExamples();
    this.sw = await SwitchProcess.start('--default');
    await this.port('a');
    await this.port('b');
    await this.port('alone', 'options:isolation=copy');
    await this.port('wide', 'options:n_rxq=2');
    await this.port('file', 'options:pool=filed', `options:backing-path=${this.file}`);
    // What came from a goes to b, and so on: no port hears of the others.
    for (const [one, other] of [['a', 'b']]) await this.join(one!, other!);
  }

  get file(): string {
    return join(this.dir, 'pool');
  }

  async port(name: string, ...options: string[]): Promise<void> {
    const settings = ['type=ivshmem', `options:path=${this.sw.socket(name)}`, 'options:size=16M', 'mtu_request=9000'];
    await this.sw.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...settings, ...options);
  }

  /** Leads all frames of each of two ports to the other. */
  async join(one: string, other: string): Promise<void> {
    await this.sw.ofctl('add-flow', 'br0', `in_port=${one},actions=output:${other}`);
    await this.sw.ofctl('add-flow', 'br0', `in_port=${other},actions=output:${one}`);
  }

  where(port: string): string {
    return `socket:${this.sw.socket(port)}`;
  }

  /** Starts the program that answers every frame, and waits until it is in. */
  async echo(port: string, where = this.where(port), ...options: string[]): Promise<Child> {
    const child = new Child(this.programs.echo, [where, ...options], { name: `echo at ${port}` });
    this.#children.push(child);
    await child.waitFor(/echo ready.*\n/, 'the echo to be ready', PATIENCE_MS);
    await this.sw.linkUp(port);
    return child;
  }

  /** Exchanges marked frames with an echo. @returns what it said. */
  exchange(where: string, count: number, size: number, ...options: string[]): Promise<string> {
    const args = ['exchange', where, '--count', String(count), '--size', String(size), ...GIVE_UP, ...options];
    return runOk(this.programs.rwi, args, { timeoutMs: 2 * PATIENCE_MS });
  }

  /** Frames that wait for a new flow's megaflow may be overtaken by those behind them: a few alone, to have it installed. */
  async warm(where: string): Promise<void> {
    const one = () =>
      run(this.programs.rwi, ['exchange', where, '--count', '2', '--window', '1', '--timeout', '3']).catch(() => ({
        code: 1,
      }));
    await until('frames to come back', async () => (await one()).code === 0, PATIENCE_MS);
  }

  start(mode: string, where: string, ...options: string[]): Child {
    const child = new Child(this.programs.rwi, [mode, where, ...GIVE_UP, ...options], { name: `rwi ${mode}` });
    this.#children.push(child);
    return child;
  }

  async statistic(port: string, name: string): Promise<number> {
    return Number(await this.sw.vsctl('get', 'Interface', port, `statistics:${name}`));
  }

  async fact(port: string, name: string): Promise<string> {
    return (await this.sw.vsctl('get', 'Interface', port, `status:${name}`)).trim().replaceAll('"', '');
  }

  /** All buffers of the port's pool are free. */
  async allFree(port: string): Promise<void> {
    const check = async () => (await this.fact(port, 'buffers_free')) === (await this.fact(port, 'buffers'));
    await until(`all buffers of the pool of ${port} to be free`, check, PATIENCE_MS);
  }

  async close(): Promise<void> {
    for (const child of this.#children) await child.stop('SIGKILL');
    await this.sw?.close();
    removeScratchDir(this.dir);
  }
}

const lab = new Lab();

test.before(async (t) => {
  t.timeout(240_000);
  if (exampleCompiler()) await lab.open();
});
test.after.always(() => lab.close());

const all = (count: number): RegExp => new RegExp(`exchanged ${count} good, 0 bad, 0 lost`);

maybe('C programs exchange frames of all lengths, asleep and awake; in one pool no byte is copied', async (t) => {
  t.timeout(240_000);
  const echo = await lab.echo('b');
  // The first frames wait for their megaflow, and are copied on the way.
  await lab.warm(lab.where('a'));
  t.regex(await lab.exchange(lab.where('a'), 200, 64), all(200));
  const before = [await lab.statistic('a', 'copied_bytes'), await lab.statistic('b', 'copied_bytes')];
  const received = await lab.statistic('b', 'rx_packets');
  t.regex(await lab.exchange(lab.where('a'), 4000, 64), all(4000));
  t.regex(await lab.exchange(lab.where('a'), 2000, 1514), all(2000));
  t.regex(await lab.exchange(lab.where('a'), 1000, 9014), all(1000));
  t.regex(await lab.exchange(lab.where('a'), 500, 64, '--poll'), all(500));
  const counted = async () => (await lab.statistic('b', 'rx_packets')) >= received + 7500;
  await until('the counters', counted, PATIENCE_MS);
  t.deepEqual([await lab.statistic('a', 'copied_bytes'), await lab.statistic('b', 'copied_bytes')], before);
  await echo.stop('SIGKILL');
  await lab.allFree('a');
});

maybe('the TypeScript client talks to the C echo, and answers a C program', async (t) => {
  t.timeout(240_000);
  const echo = await lab.echo('b');
  const port = await openIvshmemPort({ path: lab.sw.socket('a'), timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS });
  try {
    await lab.sw.linkUp('a');
    const queue = port.queue(0);
    t.true(port.hasDoorbell);
    // Frames one by one have the megaflows installed; some of them may come back late.
    const alone = new Uint8Array(61);
    const back = () => {
      if (queue.receive().length > 0) return true;
      queue.send([alone]);
      return false;
    };
    await until('a frame to come back', back, PATIENCE_MS);
    for (const length of [60, 1514, 9014]) {
      const frames = Array.from({ length: 20 }, (_, n) => Uint8Array.from({ length }, (_, i) => i * 3 + n));
      t.is(queue.send(frames), 20);
      const answers: Uint8Array[] = [];
      while (answers.length < 20 && (await queue.readable(PATIENCE_MS)))
        answers.push(...queue.receive().filter((frame) => frame.length !== alone.length));
      t.deepEqual(
        answers.map((frame) => Buffer.from(frame.subarray(12))),
        frames.map((frame) => Buffer.from(frame.subarray(12))),
      );
      t.deepEqual(answers[3]!.slice(0, 6), frames[3]!.slice(6, 12), 'addresses are swapped');
    }
    await echo.stop('SIGKILL');
    const asking = lab.exchange(lab.where('b'), 1000, 3000);
    let ended = false;
    void asking.finally(() => {
      ended = true;
    });
    while (!ended) {
      await queue.readable(20);
      for (const frame of queue.receive()) {
        if (queue.send([frame]) === 0 && (await queue.writable(PATIENCE_MS))) queue.send([frame]);
      }
    }
    t.regex(await asking, all(1000));
  } finally {
    port.close();
  }
  await lab.allFree('a');
});

maybe('in isolation every byte is copied once, to a pool that is the client’s own', async (t) => {
  t.timeout(240_000);
  await lab.join('a', 'alone');
  try {
    const echo = await lab.echo('alone');
    await lab.warm(lab.where('a'));
    t.regex(await lab.exchange(lab.where('a'), 200, 64), all(200));
    const settled = async (port: string): Promise<number> => {
      const [sent, bytes] = [await lab.statistic(port, 'tx_packets'), await lab.statistic(port, 'copied_bytes')];
      return sent === (await lab.statistic(port, 'tx_packets')) ? bytes : settled(port);
    };
    const [a, alone] = [await settled('a'), await settled('alone')];
    t.regex(await lab.exchange(lab.where('a'), 1000, 1500), all(1000));
    const copied = async () => (await settled('a')) - a >= 1_500_000 && (await settled('alone')) - alone >= 1_500_000;
    await until('the counters', copied, PATIENCE_MS);
    t.is((await settled('a')) - a, 1_500_000);
    t.is((await settled('alone')) - alone, 1_500_000);
    t.not(await lab.fact('alone', 'buffers_free'), await lab.fact('a', 'buffers_free'));
    await echo.stop('SIGKILL');
    await lab.allFree('alone');
  } finally {
    await lab.join('a', 'b');
  }
});

maybe('a port with two queue pairs takes and gives frames on them', async (t) => {
  t.timeout(240_000);
  await lab.join('a', 'wide');
  try {
    const echo = await lab.echo('a');
    const port = await openIvshmemPort({ path: lab.sw.socket('wide'), timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS });
    try {
      await lab.sw.linkUp('wide');
      t.is(port.queues.length, 2);
      for (const queue of port.queues) {
        const frame = new Uint8Array(80).fill(0x40 + queue.index);
        t.is(queue.send([frame]), 1);
        const answer = await until(
          `the answer on queue ${queue.index}`,
          () => port.queues.flatMap((each) => each.receive())[0],
          PATIENCE_MS,
        );
        t.deepEqual(Buffer.from(answer), Buffer.from(frame));
      }
    } finally {
      port.close();
      await echo.stop('SIGKILL');
    }
    const busy = await lab.echo('wide');
    await lab.warm(lab.where('a'));
    t.regex(await lab.exchange(lab.where('a'), 500, 200), all(500));
    await busy.stop('SIGKILL');
  } finally {
    await lab.join('a', 'b');
  }
});

maybe('a process that only has the file takes part, and both sides poll', async (t) => {
  t.timeout(240_000);
  await lab.join('a', 'file');
  try {
    const echo = await lab.echo('file', `file:${lab.file},file`);
    t.is(await lab.fact('file', 'attached_by'), 'file');
    await lab.warm(lab.where('a'));
    t.regex(await lab.exchange(lab.where('a'), 500, 2000), all(500));
    // Killed and started again: the next one asks for the slot that the dead one left.
    await echo.stop('SIGKILL');
    const again = await lab.echo('file', `file:${lab.file}`);
    await lab.warm(lab.where('a'));
    t.regex(await lab.exchange(lab.where('a'), 500, 64), all(500));
    await again.stop('SIGKILL');
  } finally {
    await lab.join('a', 'b');
  }
});

maybe('clients killed while they send and receive come back under the same id, and no buffer is lost', async (t) => {
  t.timeout(240_000);
  const ids: string[] = [];
  for (let round = 0; round < 4; round++) {
    const echo = await lab.echo('b');
    ids.push(/slot (\d+)/.exec(echo.outputSince(0))![1]!);
    const busy = lab.start('exchange', lab.where('a'), '--count', '1000000000', '--size', round % 2 ? '9000' : '64');
    const before = await lab.statistic('a', 'tx_packets');
    await until('frames under way', async () => (await lab.statistic('a', 'tx_packets')) > before, PATIENCE_MS);
    // The one that receives first, or the one that sends; the other goes on until its turn comes.
    for (const child of round % 2 ? [busy, echo] : [echo, busy]) await child.stop('SIGKILL');
    await lab.allFree('a');
  }
  t.is(new Set(ids).size, 1);
  const echo = await lab.echo('b');
  await lab.warm(lab.where('a'));
  t.regex(await lab.exchange(lab.where('a'), 500, 9000), all(500));
  await echo.stop('SIGKILL');
});

maybe('a client outlives the data plane: it attaches anew by itself', async (t) => {
  t.timeout(240_000);
  const echo = await lab.echo('b');
  await lab.warm(lab.where('a'));
  t.regex(await lab.exchange(lab.where('a'), 100, 64), all(100));
  const pid = lab.sw.datapathPid;
  process.kill(pid, 'SIGKILL');
  await until('another data plane', () => lab.sw.datapathPid !== pid && lab.sw.datapathPid > 0, PATIENCE_MS);
  await lab.sw.linkUp('b');
  t.is(echo.exit, undefined);
  await lab.warm(lab.where('a'));
  t.regex(await lab.exchange(lab.where('a'), 500, 1500), all(500));
  await echo.stop('SIGKILL');
});
