/** Packets through the real data process, between guests: upcalls, drops, barriers, sleep. */
import { createHash } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { decTtl, drop, output, popVlan, pushVlan } from '#contract/actions.ts';
import { type DropReason, dropReason } from '#contract/catalogue.ts';
import { ETH_IPV4, W_DL_DST, W_IN_PORT, W_NW_DST, W_TYPE } from '#contract/flow-key.ts';
import { truncate } from '#contract/os.ts';
import { DEFAULT_FEATURES, OFFLOAD_FEATURES } from '#guest/index.ts';
import { always, megaflow, PATIENCE_MS, receive, send, withDataPlane } from '../support/datapath.ts';
import { eth, filler, ipv4, packet, padded, tcp, udp } from '../support/packets.ts';
import { sleep, until } from '../support/process.ts';
import { Stream } from '../support/stream.ts';

const frame = (length: number, seed = 0): Uint8Array => packet(eth({ type: 0x88b5 }), filler(length - 14, seed));

const digest = (bytes: Uint8Array): string =>
  `${bytes.length} bytes ${createHash('sha1').update(bytes).digest('hex').slice(0, 8)}`;

const same = (t: ExecutionContext, got: readonly Uint8Array[], wanted: readonly Uint8Array[]): void => {
  t.deepEqual(got.map(digest), wanted.map(digest));
};

test.serial(
  'a miss is answered and its packet delivered; a megaflow carries the next ones without upcall',
  async (t) => {
    await withDataPlane(async (plane, control) => {
      const [a, b] = await plane.pair(control);
      const seen = padded(packet(eth(), ipv4({ dst: '10.1.2.3' }), udp(), filler(10)));
      let id = -1;
      control.answer = () => {
        id = control.client.putFlow(
          megaflow(a!.no, output(b!.no), {
            [W_NW_DST]: [0x0a010200, 0xffffff00],
            [W_TYPE]: [ETH_IPV4 << 16, 0xffff0000],
          }),
        );
        return output(b!.no);
      };
      await send(a!.guest, [seen]);
      same(t, await receive(b!.guest, 1), [seen]);
      t.is(control.upcalls.length, 1);
      const [upcall] = control.upcalls;
      t.is(upcall!.inPort, a!.no);
      t.is(upcall!.key[W_IN_PORT], a!.no);
      t.is(upcall!.key[W_NW_DST], 0x0a010203);
      t.is(upcall!.key[W_DL_DST], 0x02000000);
      same(t, [upcall!.frame], [seen]);

      await control.client.barrier();
      const next = Array.from({ length: 50 }, (_, i) => padded(packet(eth(), ipv4({ dst: `10.1.2.${i}` }), udp())));
      await send(a!.guest, next);
      same(t, await receive(b!.guest, 50), next);
      t.is(control.upcalls.length, 1, 'all hit the megaflow');
      await until('the statistics of the flow', () => control.stats(id).packets === 50, PATIENCE_MS);
      t.is(control.stats(id).bytes, 50 * 60);
      t.true(Math.abs(control.stats(id).used - Date.now()) < PATIENCE_MS);

      await send(a!.guest, [padded(packet(eth(), ipv4({ dst: '10.9.9.9' }), udp()))]);
      await receive(b!.guest, 1);
      t.is(control.upcalls.length, 2, 'what it does not match is a miss');
    });
  },
);

test.serial('every loss has its own name, counted at the port it belongs to', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    const empty = await control.addPort('nobody');
    const dummy = await control.addPort('dummy', {}, 'dummy');
    const plain = frame(60);
    const dying = padded(packet(eth(), ipv4({ ttl: 1 }), udp()));
    const cases: [reason: DropReason, program: number[] | undefined, bytes: Uint8Array, port: number][] = [
      ['no_such_port', output(900), plain, a!.no],
      ['flow_drop', [], plain, a!.no],
      ['controller', drop(dropReason('controller')), plain, a!.no],
      ['ttl_exceeded', [...decTtl(), ...output(b!.no)], dying, a!.no],
      ['tx_port_down', output(empty), plain, empty],
      ['tx_mtu', output(b!.no), frame(1600), b!.no],
      ['upcall_unanswered', undefined, plain, a!.no],
    ];
    let expected = 0;
    for (const [reason, program, bytes, port] of cases) {
      // First the program answers the upcall, then it is a megaflow's; what is not answered has no second turn.
      control.answer = () => program;
      await send(a!.guest, [bytes, bytes]);
      await until(
        `2 drops of ${reason}`,
        () => control.drops(port)[reason] === 2,
        PATIENCE_MS,
        () => JSON.stringify([control.drops(a!.no), control.drops(port)]),
      );
      expected += 2;
      if (!program) continue;
      const id = control.client.putFlow(megaflow(a!.no, program));
      await control.client.barrier();
      await send(a!.guest, [bytes, bytes, bytes]);
      await until(
        `5 drops of ${reason}`,
        () => control.drops(port)[reason] === 5,
        PATIENCE_MS,
        () => JSON.stringify([control.drops(a!.no), control.drops(port)]),
      );
      expected += 3;
      control.client.deleteFlow(id);
      await control.client.barrier();
    }
    const all = [a!.no, b!.no, empty, dummy].flatMap((port) => Object.values(control.drops(port)));
    t.is(
      all.reduce((sum, n) => sum + n, 0),
      expected,
      'no loss counts twice',
    );
    t.is(b!.guest.queue(0).receive().length, 0);
    control.client.putFlow(megaflow(a!.no, output(dummy)));
    await control.client.barrier();
    await send(a!.guest, [plain, plain]);
    await until('the dummy to count', () => control.counter(dummy, 'tx_packets') === 2, PATIENCE_MS);
  });
});

test.serial('a guest that takes nothing fills its ring and loses its own packets only', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b, c] = await plane.pair(control, ['a', 'b', 'c']);
    control.client.putFlow(megaflow(a!.no, [...output(b!.no), ...output(c!.no)]));
    await control.client.barrier();
    const frames = Array.from({ length: 1000 }, (_, i) => frame(60, i));
    const got: Uint8Array[] = [];
    for (let at = 0; at < frames.length; at += 50) {
      await send(a!.guest, frames.slice(at, at + 50));
      got.push(...(await receive(c!.guest, 50)));
    }
    same(t, got, frames);
    await until('the losses to be counted', () => control.drops(b!.no)['tx_ring_full'] === 1000 - 256, PATIENCE_MS);
    t.deepEqual(Object.keys(control.drops(b!.no)), ['tx_ring_full']);
    t.deepEqual(control.drops(c!.no), {});
    same(t, await receive(b!.guest, 256), frames.slice(0, 256));
  });
});

test.serial('frames of all sizes pass the upcall ring byte-exact', async (t) => {
  await withDataPlane(async (plane, control) => {
    const options = { txFrameBytes: 65_584 };
    const numbers = [];
    for (const name of ['a', 'b']) numbers.push(await control.addPort(name, {}, 'vhost-user', 65_535));
    const a = await plane.guest('a', options);
    const b = await plane.guest('b');
    for (const no of numbers) await control.waitUp(no);
    control.answer = always(numbers[1]!);
    const sizes = [14, 60, 189, 190, 191, 192, 1514, 1515, 4096, 9018, 32_768, 65_535, 65_548, 65_549];
    const frames = sizes.map((size, i) => frame(size, i));
    for (const one of frames) {
      await send(a, [one]);
      same(t, await receive(b, 1), [one]);
    }
    await send(a, frames);
    const gg = await receive(b, frames.length);
    same(t, gg, frames);
    same(
      t,
      control.upcalls.map((upcall) => upcall.frame),
      [...frames, ...frames],
    );
    // More than the ring of 4 MiB holds, so that it wraps.
    for (let i = 0; i < 100; i++) {
      const one = frame(65_549 - i, i);
      await send(a, [one]);
      const [back] = await receive(b, 1);
      if (!back || Buffer.compare(back, one) !== 0) return t.fail(`frame ${i} of ${one.length} bytes`);
    }
  });
});

test.serial('checksum and segmentation fields survive the upcall', async (t) => {
  await withDataPlane(async (plane, control) => {
    const features = [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES];
    const [a, b] = await plane.pair(control, ['a', 'b'], { features });
    control.answer = always(b!.no);
    const big = packet(eth(), ipv4(), tcp({ checksum: 0x1234 }), filler(8000));
    const fields = { flags: 1, gsoType: 1, gsoSize: 1448, headerLength: 54, csumStart: 34, csumOffset: 16 };
    t.is(a!.guest.queue(0).send([big], fields), 1);
    await b!.guest.queue(0).readable(PATIENCE_MS);
    const [got] = b!.guest.queue(0).receiveWithOffload();
    same(t, [got!.frame], [big]);
    const { flags, gsoType, gsoSize, csumStart, csumOffset } = got!;
    t.deepEqual(
      { flags, gsoType, gsoSize, csumStart, csumOffset },
      { flags: 1, gsoType: 1, gsoSize: 1448, csumStart: 34, csumOffset: 16 },
    );
    t.is(control.upcalls.length, 1);
  });
});

test.serial('after a barrier the very next packet obeys the change', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b, c] = await plane.pair(control, ['a', 'b', 'c']);
    const id = control.client.putFlow(megaflow(a!.no, output(b!.no)));
    for (let i = 0; i < 300; i++) {
      const to = i % 2 === 0 ? c! : b!;
      control.client.setFlow(id, megaflow(a!.no, output(to.no)));
      await control.client.barrier();
      const one = frame(60, i);
      await send(a!.guest, [one]);
      const [got] = await receive(to.guest, 1);
      if (!got || Buffer.compare(got, one) !== 0) return t.fail(`packet ${i} did not obey`);
    }
    control.client.deleteFlow(id);
    await control.client.barrier();
    await send(a!.guest, [frame(60)]);
    await until('the upcall', () => control.upcalls.length === 1, PATIENCE_MS);
    t.is(b!.guest.queue(0).receive().length + c!.guest.queue(0).receive().length, 0);
  });
});

test.serial('a program runs on a packet given by the control plane', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    const one = padded(packet(eth(), ipv4(), udp()));
    const program = [...pushVlan(0x8100, 0x1064), ...output(a!.no), ...popVlan(), ...output(b!.no)];
    control.client.execute(a!.no, one, Uint32Array.from(program));
    const [tagged] = await receive(a!.guest, 1);
    t.is(tagged!.length, 64);
    t.deepEqual([...tagged!.subarray(12, 16)], [0x81, 0, 0, 0x64]);
    same(t, await receive(b!.guest, 1), [one]);
  });
});

test.serial('a sleeping worker wakes for a packet and for a command', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    const asleep = () =>
      until('the worker to sleep', async () => (await control.client.pmds())[0]!.asleep, PATIENCE_MS);
    for (let i = 0; i < 20; i++) {
      await asleep();
      await send(a!.guest, [frame(60, i)]);
      t.is((await receive(b!.guest, 1)).length, 1);
      await asleep();
      await control.client.barrier();
    }
    const [pmd] = await control.client.pmds();
    t.true(pmd!.counters.sleeps >= 20);
  });
});

test.serial('an idle data plane leaves the CPU alone; pmd-sleep-max=0 keeps it polling', async (t) => {
  await withDataPlane(async (plane, control) => {
    await plane.pair(control);
    // In ticks of 10 ms. Just after its start the process still compiles, which takes long on a slow machine.
    const quietSecond = async (): Promise<boolean> => {
      const before = plane.usage().ticks;
      await sleep(1000);
      return plane.usage().ticks - before < 50;
    };
    await until('a second in which the process is mostly idle', quietSecond, PATIENCE_MS);
    t.true((await control.client.pmds())[0]!.counters.sleeps > 0);
    await control.client.setOptions({ 'pmd-sleep-max': '0' });
    const sleeps = (await control.client.pmds())[0]!.counters.sleeps;
    const { iterations } = (await control.client.pmds())[0]!.counters;
    await until(
      'many turns',
      async () => (await control.client.pmds())[0]!.counters.iterations > iterations + 100_000,
      PATIENCE_MS,
    );
    t.true((await control.client.pmds())[0]!.counters.sleeps <= sleeps + 1);
  });
});

test.serial('a guest that truncates its memory loses its port, with the reason; others lose nothing', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    const no = await control.addPort('bad');
    const bad = await plane.guest('bad', { memory: { sealed: false }, reconnect: 'never' });
    await control.waitUp(no);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    control.client.putFlow(megaflow(no, output(a!.no)));
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(1000);
    for (const { fd } of bad.memory.files) truncate(fd, 0);
    await stream.runUntil(() => control.port(no)!.state === 'error');
    t.regex(control.port(no)!.lastError, /memory was truncated/);
    t.false(control.port(no)!.linkUp);
    await stream.run(5000);
    t.is(await stream.finish(), 0);
    t.is(control.port(a!.no)!.state, 'up');
    await bad.close({ abrupt: true });
    await plane.guest('bad');
    await control.waitUp(no);
    t.is(control.port(no)!.lastError, '', 'the next guest finds a sound port');
  });
});
