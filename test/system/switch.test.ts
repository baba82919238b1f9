/** The whole switch between guests: forwarding, flows, crashes of either plane, the end. */
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import type { VirtioPort } from '#guest/index.ts';
import { Host, hostCounter } from '#guest/net.ts';
import { PATIENCE_MS, receive, send } from '../support/datapath.ts';
import { eth, filler, ipv4, packet, padded, udp } from '../support/packets.ts';
import { removeScratchDir, run, scratchDir, sleep, until } from '../support/process.ts';
import { Stream } from '../support/stream.ts';
import { alive, type SwitchProcess, withSwitch } from '../support/switch.ts';

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03'] as const;
/** EtherType for local experiments (IEEE 802), the other one than that of streams: a late frame is none of theirs. */
const TYPE = 0x88b6;
const frame = (src: string, dst: string, seed = 0): Uint8Array =>
  packet(eth({ src, dst, type: TYPE }), filler(50, seed));

const pair = async (sw: SwitchProcess, options = {}): Promise<[VirtioPort, VirtioPort]> => {
  const guests: [VirtioPort, VirtioPort] = [await sw.guest('vhost0', options), await sw.guest('vhost1', options)];
  await sw.linkUp('vhost0', 'vhost1');
  return guests;
};

/** Frames both ways, so that both addresses are learnt and both megaflows are there. */
const meet = async (a: VirtioPort, b: VirtioPort): Promise<void> => {
  await send(a, [frame(MACS[0], MACS[1])]);
  await receive(b, 1);
  await send(b, [frame(MACS[1], MACS[0])]);
  await receive(a, 1);
};

const stream = (from: VirtioPort, to: VirtioPort): Stream => new Stream(from, to, { src: MACS[0], dst: MACS[1] });

test.serial('two guests find and ping each other through br0', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    const [a, b] = await pair(sw);
    const slots = [new Float64Array(4096), new Float64Array(4096)];
    const hosts = [
      new Host(a.queue(0), { mac: MACS[0], ip: '10.0.0.1', peer: '10.0.0.2', slots: slots[0]! }),
      new Host(b.queue(0), { mac: MACS[1], ip: '10.0.0.2', peer: '10.0.0.1', slots: slots[1]! }),
    ];
    const turn = (): void => {
      for (const host of hosts) host.poll();
    };
    await until(
      'the address of the peer',
      () => {
        if (!hosts[0]!.resolved) hosts[0]!.resolve();
        turn();
        return hosts[0]!.resolved;
      },
      PATIENCE_MS,
    );
    const answered = (): number => slots[0]![hostCounter('pings_answered')]!;
    for (let i = 1; i <= 50; i++) {
      hosts[0]!.ping();
      await until(
        `answer ${i}`,
        () => {
          turn();
          return answered() >= i;
        },
        PATIENCE_MS,
      );
    }
    t.is(answered(), 50);
    const fdb = await sw.appctl('fdb/show', 'br0');
    t.regex(fdb, /^\s*1\s+0\s+02:00:00:00:00:01\s+\d+$/m);
    t.regex(fdb, /^\s*2\s+0\s+02:00:00:00:00:02\s+\d+$/m);
    t.regex(await sw.appctl('dpctl/dump-flows'), /in_port\(1\).*actions:2/);
    await until(
      'the flow to count',
      async () => ((await sw.packets('br0'))['priority=0 actions=NORMAL'] ?? 0) >= 100,
      PATIENCE_MS,
    );
  });
});

test.serial('NORMAL floods what it does not know, sends on to what it has learnt, and follows a move', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await sw.vsctl('add-port', 'br0', 'vhost2', '--', 'set', 'Interface', 'vhost2', 'type=vhost-user');
    const [a, b] = await pair(sw);
    const c = await sw.guest('vhost2');
    await sw.linkUp('vhost2');
    await send(a, [frame(MACS[0], MACS[1], 1)]);
    t.is((await receive(b, 1)).length + (await receive(c, 1)).length, 2, 'flooded');
    await send(b, [frame(MACS[1], MACS[0], 2)]);
    t.is((await receive(a, 1)).length, 1);
    await send(a, [frame(MACS[0], MACS[1], 3)]);
    t.is((await receive(b, 1)).length, 1);
    await sleep(100);
    t.is(c.queue(0).receive().length, 0, 'what was learnt is not flooded');
    await send(c, [frame(MACS[1], MACS[0], 4)]);
    await receive(a, 1);
    await until(
      'the move to be obeyed',
      async () => {
        await send(a, [frame(MACS[0], MACS[1], 5)]);
        return (await receive(c, 1, 500)).length === 1;
      },
      PATIENCE_MS,
    );
    t.regex(await sw.appctl('fdb/show', 'br0'), /^\s*3\s+0\s+02:00:00:00:00:02/m);
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), 'vhost0\nvhost1\nvhost2');
  });
});

test.serial('the next packet obeys a change of flows made on the command line', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    const [a, b] = await pair(sw);
    const probeFrom = (src: number): Uint8Array =>
      padded(packet(eth({ src: MACS[0], dst: MACS[1] }), ipv4({ dst: '10.1.2.3' }), udp({ src, dst: 53 })));
    const probe = probeFrom(1000);
    const lost = probeFrom(1001);
    const arrives = async (): Promise<Uint8Array[]> => {
      await send(a, [probe]);
      return receive(b, 1);
    };
    await sw.ofctl('del-flows', 'br0');
    for (let i = 0; i < 5; i++) {
      await sw.ofctl('add-flow', 'br0', 'in_port=vhost0,udp,tp_dst=53,actions=output:vhost1');
      t.is((await arrives()).length, 1, `round ${i}: output`);
      await sw.ofctl('mod-flows', 'br0', 'udp,actions=set_field:10.9.9.9->nw_dst,output:2');
      const [edited] = await arrives();
      t.deepEqual([...edited!.subarray(30, 34)], [10, 9, 9, 9], `round ${i}: edited`);
      await sw.ofctl('add-flow', 'br0', 'priority=50000,udp,nw_dst=10.1.0.0/16,actions=drop');
      await send(a, [probe]);
      await until(
        'the drop to be counted',
        async () =>
          (await sw.packets('br0', 'nw_dst=10.1.0.0/16,udp'))['priority=50000,udp,nw_dst=10.1.0.0/16 actions=drop'] ===
          1,
        PATIENCE_MS,
      );
      t.is(b.queue(0).receive().length, 0);
      await sw.ofctl('del-flows', '--strict', 'br0', 'priority=50000,udp,nw_dst=10.1.0.0/16');
      t.is((await arrives()).length, 1, `round ${i}: after the drop was deleted`);
      await sw.ofctl('del-flows', 'br0', 'udp');
      // It may be looked at before the next flow is there or after.
      await send(a, [lost]);
      await sw.ofctl('add-flow', 'br0', 'priority=1,actions=in_port');
      await send(a, [probe]);
      const isProbe = (each: Uint8Array) => Buffer.from(each).equals(probe);
      await until(`back where it came from, round ${i}`, async () => (await receive(a, 1)).some(isProbe), PATIENCE_MS);
      t.is(b.queue(0).receive().length, 0);
      await sw.ofctl('del-flows', 'br0');
    }
  });
});

test.serial(
  'kill -9 of the control plane under traffic loses nothing; the next one adopts flows and counts',
  async (t) => {
    await withSwitch(['--default'], async (sw) => {
      const [a, b] = await pair(sw);
      await sw.ofctl('add-flow', 'br0', 'cookie=0x77,priority=9,in_port=1,actions=output:2');
      await meet(a, b);
      const run = stream(a, b);
      await run.run(2000);
      const datapath = sw.datapathPid;
      const before = (await run.during(sw.ofctl('dump-flows', '--no-stats', 'br0'))).trim();
      const ports = await run.during(sw.vsctl('--columns=name,ofport,type,options', 'list', 'Interface'));
      for (let crash = 0; crash < 3; crash++) {
        process.kill(sw.child.pid, 'SIGKILL');
        await run.during(sw.child.waitExit(PATIENCE_MS));
        await run.run(5000);
        const answer = await run.during(sw.tool('rw-ofctl', 'dump-flows', 'br0'));
        t.not(answer.code, 0, 'no control plane, and the command says so');
        await run.during(sw.restart());
        await run.run(1000);
      }
      t.is(sw.datapathPid, datapath, 'the data plane is the same');
      t.is(await run.finish(), 0, 'zero frames lost');
      t.is(a.connections + b.connections, 2, 'no guest noticed');
      t.is((await sw.ofctl('dump-flows', '--no-stats', 'br0')).trim(), before);
      t.is(await sw.vsctl('--columns=name,ofport,type,options', 'list', 'Interface'), ports);
      let total = 0;
      const counted = async () => {
        total = Number(/tx pkts=(\d+)/.exec(await sw.ofctl('dump-ports', 'br0', 'vhost1'))![1]);
        return total === run.sent + 1;
      };
      await until('port counters to go on', counted, PATIENCE_MS, () => `${total} instead of ${run.sent + 1}`);
      await send(a, [frame(MACS[0], MACS[1])]);
      t.is((await receive(b, 1)).length, 1);
      await sw.ofctl('mod-flows', 'br0', 'cookie=0x77/-1,actions=drop');
      await send(a, [frame(MACS[0], MACS[1])]);
      await until(
        'an adopted flow to obey a change',
        async () => {
          const flows = await sw.packets('br0', 'cookie=0x77/-1');
          return Object.entries(flows).some(([flow, packets]) => flow.endsWith('actions=drop') && packets > 0);
        },
        PATIENCE_MS,
      );
      t.is(b.queue(0).receive().length, 0);
    });
  },
);

test.serial('kill -9 of the data plane: it is started again, ports come back, guests go on', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    const [a, b] = await pair(sw, { retryMs: 20 });
    await meet(a, b);
    for (let crash = 1; crash <= 2; crash++) {
      const before = sw.datapathPid;
      process.kill(before, 'SIGKILL');
      await until('another data plane', () => sw.datapathPid !== before && alive(sw.datapathPid), PATIENCE_MS);
      await until('the guests to be back', () => a.connections > crash && b.connections > crash, PATIENCE_MS);
      await sw.linkUp('vhost0', 'vhost1');
      await until(
        'frames to pass',
        async () => {
          a.queue(0).send([frame(MACS[0], MACS[1])]);
          return (await receive(b, 1, 500)).length === 1;
        },
        PATIENCE_MS,
      );
    }
    const run = stream(a, b);
    b.queue(0).receive();
    await run.run(2000);
    t.is(await run.finish(), 0);
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), 'vhost0\nvhost1');
  });
});

test.serial('SIGTERM ends both planes and leaves no socket', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    await pair(sw);
    const datapath = sw.datapathPid;
    t.true(alive(datapath));
    await sw.child.stop('SIGTERM', PATIENCE_MS);
    t.is(sw.child.exit, 'exit code 0');
    await until('the data plane to end', () => !alive(datapath), PATIENCE_MS);
    t.deepEqual(
      readdirSync(sw.rundir).filter((name) => /\.(sock|pid)$/.test(name)),
      [],
    );
  });
});

test.serial('exit --keep-datapath leaves the data plane forwarding for the next control plane', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    const [a, b] = await pair(sw);
    await meet(a, b);
    const run = stream(a, b);
    await run.run(500);
    const datapath = sw.datapathPid;
    await run.during(sw.appctl('exit', '--keep-datapath'));
    await run.during(sw.child.waitExit(PATIENCE_MS));
    await run.run(5000);
    t.true(alive(datapath));
    t.false(existsSync(`${sw.rundir}/rw-vswitchd.pid`));
    await run.during(sw.restart());
    t.is(sw.datapathPid, datapath);
    t.is(await run.finish(), 0);
    await sw.appctl('exit');
    await until('the data plane to end', () => !alive(datapath), PATIENCE_MS);
  });
});

test.serial('an address that is taken ends a start that asked for it, and leaves no process behind', async (t) => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const taken = `127.0.0.1:${(other.address() as AddressInfo).port}`;
  const rundir = scratchDir('rws-');
  const args = ['--rundir', rundir, '--api', taken];
  const ended = await run(join(import.meta.dirname, '../../bin/rw-vswitchd'), args, { timeoutMs: PATIENCE_MS });
  t.is(ended.code, 1);
  t.regex(ended.stderr, /address already in use/);
  t.false(existsSync(join(rundir, 'api.sock')));
  const gone = () => !existsSync(join(rundir, 'rw-datapathd.pid'));
  await t.notThrowsAsync(until('the data plane to end', gone, PATIENCE_MS));
  other.close();
  removeScratchDir(rundir);
});
