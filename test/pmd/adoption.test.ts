/** The data process without its control plane, with the next one, and with two at a time. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { output, pushVlan } from '#contract/actions.ts';
import { Channel } from '#contract/channel.ts';
import { W_DL_DST, W_NW_SRC } from '#contract/flow-key.ts';
import { decodeReply, encodeRequest, type FromDatapath } from '#contract/messages.ts';
import { sendWithFds, unixConnect } from '#contract/os.ts';
import { always, DataProcess, megaflow, PATIENCE_MS, receive, send, withDataPlane } from '../support/datapath.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { run, until } from '../support/process.ts';
import { Stream } from '../support/stream.ts';

const frame = (seed: number): Uint8Array => packet(eth({ type: 0x88b5 }), filler(46, seed));

const byId = <T extends { id: number }>(flows: readonly T[]): T[] => [...flows].sort((x, y) => x.id - y.id);

test.serial('without a control plane flows forward on, no frame is lost, and misses are named', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    const id = control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(2000);
    control.client.detach();
    await stream.during(answer(plane, encodeRequest({ id: 1, hello: { version: 77 } })));
    await stream.run(20_000);
    await send(b!.guest, [frame(1), frame(2)]);
    await stream.run(2000);

    const next = plane.newControl();
    await stream.during(next.client.start());
    await stream.run(2000);
    t.is(await stream.finish(), 0);
    await until(
      'all to be counted',
      () => next.stats(id).packets === stream.sent,
      PATIENCE_MS,
      () => JSON.stringify([next.stats(id), stream.sent]),
    );
    await until('all to be counted at the port', () => next.counter(b!.no, 'tx_packets') === stream.sent, PATIENCE_MS);
    t.deepEqual(next.drops(b!.no), { no_control_plane: 2 });
    next.answer = always(a!.no);
    await send(b!.guest, [frame(3)]);
    t.deepEqual(
      (await receive(a!.guest, 1)).map((bytes) => bytes.length),
      [60],
      'misses are answered again',
    );
  });
});

test.serial('the next control plane finds ports, flows and statistics as they were', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    await control.addPort('c', { n_rxq: '2', 'socket-mode': '0660' }, 'vhost-user', 9000);
    await control.client.setOptions({ 'pmd-rxq-assign': 'roundrobin' });
    const put = [
      megaflow(a!.no, output(b!.no), { [W_DL_DST]: [0x02000000, 0xffffffff] }),
      megaflow(a!.no, []),
      megaflow(b!.no, [...pushVlan(0x8100, 0x1005), ...output(a!.no)], { [W_NW_SRC]: [0x0a000000, 0xff000000] }),
      ...Array.from({ length: 3000 }, (_, i) => megaflow(b!.no, output(a!.no), { [W_NW_SRC]: [i << 8, 0xffffff00] })),
    ].map((flow) => ({ id: control.client.putFlow(flow), ...flow }));
    const dead = control.client.putFlow(megaflow(7, []));
    control.client.deleteFlow(dead);
    await control.client.barrier();
    await send(a!.guest, [frame(1), frame(2), frame(3)]);
    await receive(b!.guest, 3);
    const counted = () => control.stats(put[0]!.id).packets === 3 && control.counter(b!.no, 'tx_packets') === 3;
    await until('the statistics', counted, PATIENCE_MS);
    const before = { ports: control.client.ports(), statistics: control.client.portStatistics(b!.no) };
    const stats = control.stats(put[0]!.id);
    control.client.detach();

    const next = await plane.control();
    t.is(next.connections, 1);
    t.deepEqual(next.ports, before.ports);
    t.deepEqual(next.client.ports(), before.ports);
    t.deepEqual(byId(next.flows), byId(put));
    t.deepEqual(next.client.portStatistics(b!.no), before.statistics);
    t.deepEqual(next.stats(put[0]!.id), stats);
    t.is(next.client.pid, plane.child.pid);
    const fresh = next.client.putFlow(megaflow(9, []));
    t.false(
      put.some(({ id }) => id === fresh),
      'ids in use are not given out again',
    );
    next.client.deleteFlow(put[1]!.id);
    next.client.setFlow(put[0]!.id, megaflow(a!.no, [], { [W_DL_DST]: [0x02000000, 0xffffffff] }));
    await next.client.barrier();
    await send(a!.guest, [frame(4)]);
    await until('the drop', () => next.drops(a!.no)['flow_drop'] === 1, PATIENCE_MS);
  });
});

test.serial('a second control plane is refused with the reason, and the first one notices nothing', async (t) => {
  await withDataPlane(async (plane, control) => {
    const second = plane.newControl();
    await t.throwsAsync(second.client.start(), { message: /another control plane is attached/ });
    t.false(second.client.connected);
    t.true(control.client.connected);
    t.is(control.losses, 0);
    t.is((await control.client.pmds()).length, 1);
    control.client.detach();
    await plane.control();
  });
});

test.serial('upcalls of a control plane that went away are lost under a name, none twice', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a] = await plane.pair(control);
    const frames = 100;
    // The client's turn comes only after this turn of the event loop: the upcalls lie in the ring unanswered.
    a!.guest.queue(0).send(Array.from({ length: frames }, (_, i) => frame(i)));
    control.client.detach();
    const next = await plane.control();
    await until(
      'all frames to be accounted for',
      () => {
        const { upcall_unanswered = 0, no_control_plane = 0 } = next.drops(a!.no);
        return upcall_unanswered + no_control_plane + control.upcalls.length + next.upcalls.length === frames;
      },
      PATIENCE_MS,
      () => JSON.stringify([next.drops(a!.no), control.upcalls.length, next.upcalls.length]),
    );
    t.pass();
  });
});

/** One request as bytes, and its answer. */
async function ask(
  plane: DataProcess,
  bytes: Uint8Array,
): Promise<{ reply: FromDatapath | undefined; closed: string }> {
  const fd = unixConnect(plane.socket);
  return new Promise((resolve) => {
    const channel = new Channel(fd, {
      frame: (reply) => {
        resolve({ reply: decodeReply(reply), closed: '' });
        channel.close();
      },
      closed: (closed) => resolve({ reply: undefined, closed }),
    });
    channel.send(bytes);
  });
}

/** The same once the control plane before is gone, which all workers know by then. */
const answer = (plane: DataProcess, bytes: Uint8Array) =>
  until(
    'an answer',
    async () => {
      const said = await ask(plane, bytes);
      return said.reply?.error?.code === 'busy' ? undefined : said;
    },
    PATIENCE_MS,
  );

test.serial('whatever comes over the socket, the data plane stays up and serves the next one', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(500);
    control.client.detach();
    let x = 1;
    const noise = (length: number) =>
      Uint8Array.from({ length }, () => {
        x = (Math.imul(x, 1103515245) + 12345) >>> 0;
        return x >>> 16;
      });
    for (let i = 0; i < 60; i++) {
      const fd = unixConnect(plane.socket);
      const channel = new Channel(fd, { frame() {}, closed() {} });
      // Half of it well framed, half of it raw: lengths that cannot be, frames cut off.
      const bytes = noise(1 + ((i * 37) % 400));
      if (i % 2 === 0) channel.send(bytes);
      else sendWithFds(fd, bytes, 0, bytes.length, null, 0);
      await stream.run(50);
      channel.close();
    }
    const oversized = Uint8Array.of(1, 0, 0, 2, 0, 0, 0, 0);
    const fd = unixConnect(plane.socket);
    const gone = new Promise<string>((resolve) => new Channel(fd, { frame() {}, closed: resolve }));
    sendWithFds(fd, oversized, 0, oversized.length, null, 0);
    t.regex(await gone, /closed|reset|ECONNRESET/i);

    const reply = (bytes: Uint8Array) => answer(plane, bytes);
    t.is((await reply(encodeRequest({ id: 5 }))).reply?.error?.code, 'unknown_request');
    t.is((await reply(encodeRequest({ id: 6, hello: { version: 77 } }))).reply?.error?.code, 'version');
    t.is((await reply(encodeRequest({ id: 7, deletePort: { portNo: 500 } }))).reply?.error?.code, 'no_such_port');
    const next = await stream.during(plane.control());
    t.is(next.ports.length, 2);
    t.is(await stream.finish(), 0);
  });
});

test.serial('a control plane that writes nonsense into its ring is cut off by name; flows forward on', async (t) => {
  await withDataPlane(async (plane, control) => {
    const [a, b] = await plane.pair(control);
    control.client.putFlow(megaflow(a!.no, output(b!.no)));
    await control.client.barrier();
    const stream = new Stream(a!.guest, b!.guest);
    await stream.run(500);
    const nonsense: [program: number[], what: RegExp][] = [
      [[0x00630001, 1], /unknown action 99/],
      [[0x00010000, 1], /has 0 words/],
      [[0x00030004, 999, 0, 0], /names key word 999/],
    ];
    for (const [i, [program, what]] of nonsense.entries()) {
      const mark = plane.child.mark;
      const connections = control.connections;
      if (i % 2 === 0) control.client.execute(a!.no, frame(1), Uint32Array.from(program));
      else control.client.putFlow(megaflow(a!.no, program, { [W_NW_SRC]: [i, 255] }));
      await stream.runUntil(() => control.connections > connections);
      const output = await stream.during(plane.child.waitFor(what, 'the reason', PATIENCE_MS, mark));
      t.regex(output, /control plane wrote nonsense/);
      t.is(control.flows.length, 1, 'what it installed before is there');
    }
    control.answer = always(a!.no);
    await send(b!.guest, [frame(5)]);
    await until('a miss to be answered again', () => control.upcalls.length === 1, PATIENCE_MS);
    await stream.run(1000);
    t.is(await stream.finish(), 0);
  });
});

test.serial('leftovers of a killed data process do not stop the next one; a running one does', async (t) => {
  const plane = await DataProcess.start();
  try {
    const control = await plane.control();
    const [a] = await plane.pair(control, ['a'], { retryMs: 20 });
    const pidFile = join(plane.rundir, 'rw-datapathd.pid');
    t.is(Number(readFileSync(pidFile, 'utf8')), plane.child.pid);
    const twin = await run(process.execPath, ['src/pmd/main.ts', '--rundir', plane.rundir], { timeoutMs: PATIENCE_MS });
    t.is(twin.code, 1);
    t.regex(twin.stderr, /another data plane runs in/);

    await plane.child.stop('SIGKILL');
    for (const left of [plane.socket, pidFile, `${pidFile}.lock`, join(plane.rundir, 'a.sock')])
      t.true(existsSync(left), left);
    writeFileSync(pidFile, '1\n');
    await plane.restart();
    t.is(Number(readFileSync(pidFile, 'utf8')), plane.child.pid);
    await until('the client to be back', () => control.connections === 2, PATIENCE_MS);
    t.is(control.losses, 1);
    t.deepEqual([control.ports.length, control.flows.length], [0, 0], 'a new process holds nothing');
    const no = await control.addPort('a');
    await control.waitUp(no);
    control.answer = always(no);
    await send(a!.guest, [frame(1)]);
    t.is((await receive(a!.guest, 1)).length, 1, 'the guest goes on');

    await control.client.exit();
    await plane.child.waitExit(PATIENCE_MS);
    t.is(plane.child.exit, 'exit code 0');
    t.false(existsSync(plane.socket));
    t.false(existsSync(pidFile));
    t.false(existsSync(join(plane.rundir, 'a.sock')));
  } finally {
    await plane.close();
  }
});
