/** memif through the whole switch: DPDK's net_memif in both roles, and memif beside vhost-user, byte by byte. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { DEFAULT_FEATURES, OFFLOAD_FEATURES, type VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, faultOf, filler, ipv4, onesSum, packet, tcp } from '../support/packets.ts';
import { until } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';
import { type Memif, Testpmd, type TestpmdOptions, unavailable } from '../support/testpmd.ts';

const reason = unavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

const addPort = (sw: SwitchProcess, name: string, ...options: string[]): Promise<string> =>
  sw.vsctl(
    'add-port',
    'br0',
    name,
    '--',
    'set',
    'Interface',
    name,
    'type=memif',
    ...options.map((o) => `options:${o}`),
  );

const wire = async (sw: SwitchProcess, ...pairs: [string, string][]): Promise<void> => {
  await sw.ofctl('del-flows', 'br0');
  for (const [from, to] of pairs) await sw.ofctl('add-flow', 'br0', `in_port=${from},actions=output:${to}`);
};

const state = async (sw: SwitchProcess, port: string): Promise<string> =>
  (await sw.vsctl('get', 'Interface', port, 'status:state')).trim().replaceAll('"', '');

const waitState = (sw: SwitchProcess, port: string, wanted: string): Promise<unknown> =>
  until(`${port} to be ${wanted}`, async () => (await state(sw, port)) === wanted, PATIENCE_MS);

/** Interface ids 0 and 1 on one socket. */
const devices = (sw: SwitchProcess, role: 'client' | 'server', more: Partial<Memif> = {}): Memif[] =>
  [0, 1].map((id) => ({ kind: 'memif', path: join(sw.rundir, 'memif.sock'), role, id, ...more }));

const start = (list: Memif[], options: Partial<TestpmdOptions> = {}): Promise<Testpmd> =>
  Testpmd.start({ devices: list, startTimeoutMs: PATIENCE_MS, mbufs: 16_384, ...options });

/** Frames go round and round through the switch, both ways. */
async function loop(testpmd: Testpmd): Promise<void> {
  await testpmd.closeLoop(2, PATIENCE_MS);
  const [first] = await testpmd.portStats();
  await testpmd.waitReceived(0, first!.rxPackets + 20_000, PATIENCE_MS);
  await testpmd.waitReceived(1, first!.rxPackets + 20_000, PATIENCE_MS);
  await testpmd.stopForwarding();
}

for (const role of ['client', 'server'] as const) {
  maybe(`a closed loop runs through testpmd as memif ${role}, again after it was killed`, async (t) => {
    await withSwitch([], async (sw) => {
      await sw.vsctl('add-br', 'br0');
      const path = join(sw.rundir, 'memif.sock');
      const own = role === 'client' ? 'role=server' : 'role=client';
      for (const id of [0, 1]) await addPort(sw, `m${id}`, `path=${path}`, `id=${id}`, 'secret=s3cret', own);
      await wire(sw, ['m0', 'm1'], ['m1', 'm0']);
      for (let round = 0; round < 2; round++) {
        // DPDK does not take over the socket of a process that was killed.
        if (role === 'server') rmSync(path, { force: true });
        const testpmd = await start(devices(sw, role, { secret: 's3cret' }));
        try {
          await sw.linkUp('m0', 'm1');
          t.regex(await sw.vsctl('get', 'Interface', 'm1', 'status'), /peer_name=net_memif1.*remote_app="DPDK/);
          await loop(testpmd);
          await testpmd.startForwarding(1);
        } finally {
          await testpmd.kill();
        }
        for (const port of ['m0', 'm1']) await waitState(sw, port, role === 'client' ? 'waiting-socket' : 'connecting');
      }
    });
  });

  maybe(`testpmd as memif ${role}: two queue pairs carry, and long frames in several buffers`, async (t) => {
    await withSwitch([], async (sw) => {
      await sw.vsctl('add-br', 'br0');
      const path = join(sw.rundir, 'memif.sock');
      const own = role === 'client' ? [] : ['role=client', 'ring-size=1024', 'buffer-size=512'];
      for (const id of [0, 1]) await addPort(sw, `m${id}`, `path=${path}`, `id=${id}`, 'n_rxq=2', ...own);
      await wire(sw, ['m0', 'm1'], ['m1', 'm0']);
      const testpmd = await start(devices(sw, role, { bufferSize: 512 }), {
        queues: 2,
        packetLength: 1200,
      });
      try {
        await sw.linkUp('m0', 'm1');
        t.regex(await sw.vsctl('get', 'Interface', 'm0', 'status'), /rx_ring_1_size="1024"/);
        await loop(testpmd);
        // The last frames may be under way still.
        const whole = async () => {
          const statistics = await sw.vsctl('get', 'Interface', 'm0', 'statistics');
          const value = (name: string) => Number(new RegExp(`\\b${name}=(\\d+)`).exec(statistics)![1]);
          return value('rx_bytes') === 1200 * value('rx_packets') && value('tx_bytes') === 1200 * value('tx_packets');
        };
        await until('all frames to be whole', whole, PATIENCE_MS);
        t.regex(await sw.appctl('dpif-netdev/pmd-rxq-show'), /port: m0 +queue-id: +1/);
      } finally {
        await testpmd.kill();
      }
    });
  });
}

maybe('testpmd with a wrong secret is refused, and both sides say so', async (t) => {
  await withSwitch([], async (sw) => {
    await sw.vsctl('add-br', 'br0');
    await addPort(sw, 'm0', `path=${join(sw.rundir, 'memif.sock')}`, 'secret=right');
    const [device] = devices(sw, 'client', { secret: 'wrong' });
    const testpmd = await start([device!], { forward: 'rxonly' });
    try {
      const error = async () => {
        const said = await sw.vsctl('get', 'Interface', 'm0', 'error');
        return /wrong secret/.test(said) && said;
      };
      t.regex(await until('the port to say it', error, PATIENCE_MS), /option secret must be the same on both sides/);
      await waitState(sw, 'm0', 'waiting-socket');
    } finally {
      await testpmd.kill();
    }
  });
});

/** What a guest got, once there are `count` of them. */
async function receive(guest: VirtioPort, count: number): Promise<Uint8Array[]> {
  const got: Uint8Array[] = [];
  await until(
    `${count} frames`,
    () => {
      got.push(
        ...guest
          .queue(0)
          .receive()
          .map((frame) => Uint8Array.from(frame)),
      );
      return got.length >= count;
    },
    PATIENCE_MS,
    () => `${got.length} came`,
  );
  return got;
}

test.serial(
  'frames cross from vhost-user over memif, server and client, to vhost-user, byte by byte, both ways',
  async (t) => {
    await withSwitch([], async (sw) => {
      await sw.vsctl('add-br', 'br0');
      const path = join(sw.rundir, 'self.sock');
      for (const guest of ['v0', 'v1']) {
        await sw.vsctl(
          'add-port',
          'br0',
          guest,
          '--',
          'set',
          'Interface',
          guest,
          'type=vhost-user',
          'mtu_request=9000',
        );
      }
      await addPort(sw, 'ms', `path=${path}`, 'role=server', 'id=5');
      await addPort(sw, 'mc', `path=${path}`, 'role=client', 'id=5', 'ring-size=1024', 'buffer-size=1024');
      for (const port of ['ms', 'mc']) await sw.vsctl('set', 'Interface', port, 'mtu_request=9000');
      const again = await sw.tool(
        'rw-vsctl',
        'add-port',
        'br0',
        'mx',
        '--',
        'set',
        'Interface',
        'mx',
        'type=memif',
        `options:path=${path}`,
        'options:id=5',
      );
      t.not(again.code, 0);
      t.regex(again.stderr, /self\.sock is the socket of port ms already/);
      await wire(sw, ['v0', 'ms'], ['mc', 'v1'], ['v1', 'mc'], ['ms', 'v0']);
      const left = await sw.guest('v0', { features: [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES], rxFrameBytes: 9100 });
      const right = await sw.guest('v1', { txFrameBytes: 9100, rxFrameBytes: 9100 });
      await sw.linkUp('v0', 'v1', 'ms', 'mc');
      const frames = Array.from({ length: 60 }, (_, i) => packet(eth({ type: 0x88b5 }), filler(50 + 140 * i, i)));
      for (const [from, to] of [
        [left, right],
        [right, left],
      ] as const) {
        // Frames that wait for a new flow's megaflow may be overtaken by those behind them: one alone.
        t.is(from.queue(0).send([frames[0]!]), 1);
        await receive(to, 1);
        t.is(from.queue(0).send(frames), frames.length);
        t.deepEqual(await receive(to, frames.length), frames);
      }
      // memif has no offloads: a TCP frame of 20 000 bytes arrives as segments that fit.
      const payload = filler(20_000, 1);
      const whole = Buffer.from(packet(eth(), ipv4(), tcp(), payload));
      const tail = Buffer.from([0, 0, (whole.length - 34) >> 8, (whole.length - 34) & 0xff, 0, 6]);
      whole.writeUInt16BE(onesSum(Buffer.concat([whole.subarray(26, 34), tail])), 50);
      const offload = { flags: 1, gsoType: 1, gsoSize: 1448, headerLength: 54, csumStart: 34, csumOffset: 16 };
      t.is(left.queue(0).send([whole], offload), 1);
      const segments = await receive(right, Math.ceil(20_000 / 1448));
      t.true(segments.every((frame) => faultOf(frame) === undefined));
      t.true(Buffer.concat(segments.map((frame) => frame.subarray(54))).equals(payload));
    });
  },
);
