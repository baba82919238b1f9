/** Ports and workers of the real data process changed while it runs. */
import test from 'ava';
import { output } from '#contract/actions.ts';
import { W_DL_SRC } from '#contract/flow-key.ts';
import { allowedCpus } from '#contract/os.ts';
import { type Control, megaflow, PATIENCE_MS, receive, send, withDataPlane } from '../support/datapath.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { until } from '../support/process.ts';
import { Stream } from '../support/stream.ts';

const frame = (seed: number, src?: string): Uint8Array =>
  packet(eth({ type: 0x88b5, ...(src ? { src } : {}) }), filler(46, seed));

const cpus = allowedCpus();
const mask = (...list: number[]): string => `0x${list.reduce((sum, cpu) => sum + 2 ** cpu, 0).toString(16)}`;
const withTwoCpus =
  cpus.length >= 2
    ? test.serial
    : (title: string, _body: unknown) => test.serial.skip(`${title} (needs two CPUs)`, () => {});

test.serial('ports are refused by name of the fault, and nothing is left of them', async (t) => {
  await withDataPlane(async (_plane, control) => {
    await control.addPort('a');
    const refused: [work: () => Promise<unknown>, code: string, message: RegExp][] = [
      [() => control.addPort('a'), 'exists', /a port named a exists/],
      [() => control.addPort('x', {}, 'stt'), 'no_such_type', /unknown port type "stt"; known are .*vhost-user/],
      [() => control.addPort('x', { speed: '10' }), 'failed', /option speed of port x is not known/],
      [() => control.addPort('x', { n_rxq: '0' }), 'failed', /n_rxq is "0"/],
      [() => control.addPort('x', { 'pmd-rxq-affinity': 'one' }), 'failed', /pmd-rxq-affinity: "one"/],
      [() => control.addPort('x', {}, 'dpdkvhostuserclient'), 'failed', /vhost-server-path/],
      [() => control.addPort('x', { path: '/dev/null/s' }), 'failed', /\/dev\/null is not a folder/],
      [() => control.addPort('x', { path: `/tmp/${'y'.repeat(200)}` }), 'failed', /at most 107/],
      [() => control.client.deletePort(77), 'no_such_port', /no port has the number 77/],
      [() => control.client.setPort(77, { name: 'q', type: 'dummy', options: {}, mtu: 1500 }), 'no_such_port', /77/],
    ];
    for (const [work, code, message] of refused) {
      const error = await t.throwsAsync(work, { message });
      t.is((error as Error & { code: string }).code, code, error?.message);
    }
    t.deepEqual(
      control.client.ports().map(({ name }) => name),
      ['a'],
    );
    const no = await control.addPort('x');
    t.is(no, 2, 'a number that was refused is free');
    t.is(control.port(no)!.state, 'waiting-socket');
    t.is(control.port(await control.addPort('d', {}, 'dummy'))!.state, 'up');
  });
});

test.serial('a refused change leaves the port and its guest alone', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(200);
    const base = { name: 'b', type: 'vhost-user', options: {}, mtu: 1500 };
    for (const [change, message] of [
      [{ type: 'stt' }, /unknown port type/],
      [{ name: 'a' }, /a port named a exists/],
      [{ options: { speed: '10' } }, /speed/],
      [{ type: 'dpdkvhostuserclient' }, /vhost-server-path/],
    ] as const) {
      await stream.during(t.throwsAsync(control.client.setPort(b!.no, { ...base, ...change }), { message }));
      await stream.run(200);
    }
    t.is(await stream.finish(), 0);
    t.is(b!.guest.connections, 1);
    // An option that no guest notices.
    await control.client.setPort(b!.no, { ...base, options: { 'pmd-rxq-affinity': `0:${cpus[0]}` } });
    t.is(b!.guest.connections, 1);
    t.is(control.port(b!.no)!.options['pmd-rxq-affinity'], `0:${cpus[0]}`);
    // An MTU changes while the guest stays.
    await control.client.setPort(b!.no, { ...base, mtu: 9000 });
    await until('the MTU', () => control.port(b!.no)!.facts['mtu'] === '9000', PATIENCE_MS);
    t.is(b!.guest.connections, 1);
    // Offloads are for the next connection.
    await control.client.setPort(b!.no, { ...base, mtu: 9000, options: { offload: 'off' } });
    await until('the offer', () => control.port(b!.no)!.facts['offloads_offered'] === 'none', PATIENCE_MS);
    t.is(b!.guest.connections, 1);
    // An option that makes the port anew: the guest comes back by itself.
    await control.client.setPort(b!.no, { ...base, mtu: 9000, options: { 'tx-retries-max': '3' } });
    await until('the guest to be back', () => b!.guest.connections === 2, PATIENCE_MS);
    await control.waitUp(b!.no);
    await send(a!.guest, [frame(1)]);
    t.is((await receive(b!.guest, 1)).length, 1, 'flows to the port stand');
  });
});

test.serial('a deleted port is gone at once, and its number begins at zero again', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control, ['a', 'b'], { retryMs: 20 });
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    await send(a!.guest, [frame(1), frame(2)]);
    await receive(b!.guest, 2);
    await control.client.deletePort(b!.no);
    t.is(control.port(b!.no), undefined);
    await send(a!.guest, [frame(3)]);
    await until('the loss to be named', () => control.drops(a!.no)['no_such_port'] === 1, PATIENCE_MS);
    t.is(await control.addPort('c'), b!.no);
    t.deepEqual(control.drops(b!.no), {});
    t.is(control.counter(b!.no, 'tx_packets'), 0);
    await send(a!.guest, [frame(4)]);
    await until('a port without guest', () => control.drops(b!.no)['tx_port_down'] === 1, PATIENCE_MS);
  });
});

withTwoCpus('workers come and go under traffic: no flow, no frame and no count is lost', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.answer = () => undefined;
    const id = control.client.putFlow(megaflow(a!.no, output(b!.no)));
    const others = Array.from({ length: 500 }, (_, i) =>
      control.client.putFlow(megaflow(b!.no, output(a!.no), { [W_DL_SRC]: [i, 0xffffffff] })),
    );
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(1000);
    for (const cores of [[0], [0, 1], [1], [0, 1], [1, 0], []]) {
      const option = cores.length > 0 ? { 'pmd-cpu-mask': mask(...cores.map((i) => cpus[i]!)) } : {};
      const changing = control.client.setOptions(option as Record<string, string>);
      // A flow that comes and one that goes at that very time.
      const late = control.client.putFlow(megaflow(b!.no, output(a!.no), { [W_DL_SRC]: [7777, 0xffffffff] }));
      control.client.deleteFlow(others.pop()!);
      await stream.during(changing);
      await stream.during(control.client.barrier());
      await stream.run(500);
      const pmds = await stream.during(control.client.pmds());
      t.is(pmds.length, Math.max(1, new Set(cores).size));
      t.true(
        pmds.every(({ counters }) => counters.flows === 2 + others.length),
        JSON.stringify(pmds.map(({ counters }) => counters.flows)),
      );
      await send(b!.guest, [frame(1, '02:00:00:00:1e:61')]);
      await until('the late flow to carry', () => a!.guest.queue(0).receive().length === 1, PATIENCE_MS);
      control.client.deleteFlow(late);
      await stream.during(control.client.barrier());
    }
    t.is(await stream.finish(), 0);
    await until(
      'all to be counted',
      () => control.stats(id).packets === stream.sent,
      PATIENCE_MS,
      () => JSON.stringify([control.stats(id), stream.sent]),
    );
    await until('the port to count all', () => control.counter(b!.no, 'tx_packets') === stream.sent, PATIENCE_MS);
    t.deepEqual(control.drops(b!.no), {});
    t.is(control.upcalls.length, 0);
  });
});

withTwoCpus('new workers take upcalls too', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.answer = ({ inPort }) => output(inPort === a!.no ? b!.no : a!.no);
    for (const cores of [[0, 1], [0], [0, 1]]) {
      await control.client.setOptions({ 'pmd-cpu-mask': mask(...cores.map((i) => cpus[i]!)) });
      for (const [from, to] of [
        [a!, b!],
        [b!, a!],
      ] as const) {
        await send(from.guest, [frame(1)]);
        t.is((await receive(to.guest, 1)).length, 1);
      }
    }
    t.is(control.upcalls.length, 6);
  });
});

test.serial('options that cannot be are refused and change nothing', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    for (const [options, message] of [
      [{ 'pmd-cpu-mask': '0' }, /names no CPU/],
      [{ 'pmd-cpu-mask': 'fast' }, /not a hexadecimal mask/],
      [{ 'pmd-cpu-mask': '0x100000000000' }, /CPU 44 cannot be used here/],
      [{ 'pmd-rxq-assign': 'random' }, /pmd-rxq-assign: "random" is none of/],
      [{ 'pmd-sleep-max': '-1' }, /pmd-sleep-max/],
    ] as [Record<string, string>, RegExp][]) {
      const error = await t.throwsAsync(control.client.setOptions(options), { message });
      t.is((error as Error & { code: string }).code, 'bad_option');
    }
    t.is((await control.client.pmds())[0]!.core, -1);
    await send(a!.guest, [frame(1)]);
    t.is((await receive(b!.guest, 1)).length, 1);
  });
});

/** Which worker polls which queue of a port. */
const placement = async (control: Control, portNo: number): Promise<Record<number, number>> => {
  const pmds = await control.client.pmds();
  return Object.fromEntries(
    pmds.flatMap(({ worker, rxqs }) => rxqs.filter((q) => q.portNo === portNo).map(({ queue }) => [queue, worker])),
  );
};

withTwoCpus('the queues of a guest spread over the workers, all carry, and pins are obeyed', async (t) => {
  await withDataPlane(async (plane, control) => {
    await control.client.setOptions({ 'pmd-cpu-mask': mask(cpus[0]!, cpus[1]!), 'pmd-rxq-assign': 'roundrobin' });
    const [a, b] = await plane.pair(control, ['a', 'b'], { queues: 2 });
    const spread = async () => Object.values(await placement(control, a!.no)).sort();
    await until('both queues to be polled', async () => (await spread()).length === 2, PATIENCE_MS);
    t.deepEqual(await spread(), [0, 1]);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    for (const queue of [0, 1]) await send(a!.guest, [frame(queue), frame(queue + 10)], queue);
    const got: number[] = [];
    await until(
      'four frames',
      () => {
        for (const queue of [0, 1]) for (const bytes of b!.guest.queue(queue).receive()) got.push(bytes[14]!);
        return got.length === 4;
      },
      PATIENCE_MS,
    );
    t.deepEqual(
      got.sort((x, y) => x - y),
      [0, 1, 10, 11],
    );
    await until(
      'each worker to have taken its queue',
      async () => (await control.client.pmds()).every(({ counters }) => counters.rx_packets === 2),
      PATIENCE_MS,
    );

    const pinned = { 'pmd-rxq-affinity': `0:${cpus[1]},1:${cpus[1]}` };
    await control.client.setPort(a!.no, { name: 'a', type: 'vhost-user', options: pinned, mtu: 1500 });
    const pmds = await control.client.pmds();
    const home = pmds.find(({ core }) => core === cpus[1])!;
    t.deepEqual(await placement(control, a!.no), { 0: home.worker, 1: home.worker });
    t.true(home.isolated);
    t.true(home.rxqs.every(({ portNo, why }) => portNo === a!.no && why === `pinned to core ${cpus[1]}`));
    await send(a!.guest, [frame(1)]);
    await until(
      'a frame by the pinned queue',
      () => b!.guest.queues.some((q) => q.receive().length === 1),
      PATIENCE_MS,
    );

    a!.guest.setQueues(1);
    await until('the second queue to go', async () => (await placement(control, a!.no))[1] === undefined, PATIENCE_MS);
  });
});

test.serial('n_rxq bounds the queue pairs that a guest is offered', async (t) => {
  await withDataPlane(async (plane, control) => {
    const no = await control.addPort('a', { n_rxq: '1' });
    await t.throwsAsync(plane.guest('a', { queues: 2, timeoutMs: 2000 }), { message: /offers 1 queue pair/ });
    await plane.guest('a');
    await control.waitUp(no);
    t.is(Object.keys(await placement(control, no)).length, 1);
  });
});

/** What `look` sees once it has seen the same for half a second: what was given up goes a little later. */
const steady = async <T>(look: () => T): Promise<T> => {
  let seen = look();
  let since = performance.now();
  await until(
    'a state that stays',
    () => {
      const now = look();
      if (JSON.stringify(now) !== JSON.stringify(seen)) since = performance.now();
      seen = now;
      return performance.now() - since > 500;
    },
    PATIENCE_MS,
  );
  return seen;
};

test.serial('200 guests come and go without a descriptor or a mapping left behind', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    const no = await control.addPort('c');
    const stream = new Stream(a!.guest, b!.guest);
    const cycle = async (i: number): Promise<void> => {
      const guest = await plane.guest('c', { ringSize: 32 });
      if (i % 10 === 0) await control.waitUp(no);
      await guest.close({ abrupt: i % 2 === 0 });
      stream.step();
    };
    const settle = (): Promise<boolean> =>
      until('the port to wait again', () => control.port(no)!.state === 'waiting-socket', PATIENCE_MS);
    for (let i = 0; i < 10; i++) await cycle(i);
    await settle();
    const held = () => ({ fds: plane.usage().fds, guests: plane.mappings('virtio-port') });
    const kept = await steady(held);
    const before = plane.usage();
    for (let i = 0; i < 200; i++) await cycle(i);
    await settle();
    t.deepEqual(await steady(held), kept);
    const after = plane.usage();
    // Heap and code of the process move a little by themselves.
    t.true(after.maps - before.maps < 50, `${before.maps} mappings, then ${after.maps}`);
    await stream.run(100);
    t.is(await stream.finish(), 0);
  });
});

withTwoCpus('workers and control planes come and go without a descriptor or a lane left behind', async (t) => {
  await withDataPlane(async (plane, first) => {
    await plane.pair(first);
    let control = first;
    const both = { 'pmd-cpu-mask': mask(cpus[0]!, cpus[1]!) };
    const cycle = async (): Promise<void> => {
      await control.client.setOptions(both);
      await control.client.setOptions({});
      control.client.detach();
      control = await plane.control();
    };
    for (let i = 0; i < 3; i++) await cycle();
    const state = () => ({
      fds: plane.usage().fds,
      lanes: plane.mappings('lane'),
      guests: plane.mappings('virtio-port'),
    });
    const before = await steady(state);
    for (let i = 0; i < 20; i++) await cycle();
    t.deepEqual(await steady(state), before);
    t.is(before.lanes, 2, 'one of the worker, one of the main thread');
  });
});
