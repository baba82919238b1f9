/** Ports with as many queues as there may be, and frames as long as they may be. */
import test from 'ava';
import { DEFAULT_FEATURES } from '#guest/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, filler, ipv4, packet, udp } from '../support/packets.ts';
import { until } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';

const MOST = 128;

const cross = async (sw: SwitchProcess): Promise<void> => {
  await sw.ofctl('del-flows', 'br0');
  await sw.ofctl('add-flow', 'br0', 'in_port=vhost0,actions=output:vhost1');
  await sw.ofctl('add-flow', 'br0', 'in_port=vhost1,actions=output:vhost0');
};

const drops = async (sw: SwitchProcess, reason: string): Promise<number> =>
  Number(new RegExp(`vhost1\\s+${reason}\\s+(\\d+)`).exec(await sw.appctl('drops'))?.[1] ?? 0);

for (const packed of [false, true]) {
  test.serial(`a port has 128 ${packed ? 'packed' : 'split'} queue pairs, and each of them carries`, async (t) => {
    await withSwitch(['--default'], async (sw) => {
      await cross(sw);
      const many = { queues: MOST, ringSize: 8, packed };
      const a = await sw.guest('vhost0', many);
      const b = await sw.guest('vhost1', many);
      await sw.linkUp('vhost0', 'vhost1');
      t.is(a.queues.length, MOST);
      t.is((await sw.vsctl('get', 'Interface', 'vhost0', 'status:num_of_vrings')).trim().replaceAll('"', ''), '256');
      const rxqs = await sw.appctl('dpif-netdev/pmd-rxq-show');
      t.is(rxqs.match(/port: vhost0 +queue-id: +\d+/g)!.length, MOST);
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        for (let q = 0; q < MOST; q++)
          t.is(from.queue(q).send([packet(eth(), ipv4(), udp({ src: q + 1 }), filler(20))]), 1);
        const seen = new Set<number>();
        const take = (): boolean => {
          for (let q = 0; q < MOST; q++)
            for (const frame of to.queue(q).receive()) seen.add((frame[34]! << 8) | frame[35]!);
          return seen.size === MOST;
        };
        // The one tx queue that a worker sends on has eight buffers: what finds it full is sent again.
        await until(
          'a frame of every queue',
          () => {
            if (take()) return true;
            for (let q = 0; q < MOST; q++)
              if (!seen.has(q + 1)) from.queue(q).send([packet(eth(), ipv4(), udp({ src: q + 1 }), filler(20))]);
            return false;
          },
          PATIENCE_MS,
          () => `${seen.size}`,
        );
      }
    });
  });
}

test.serial(
  'jumbo frames pass up to the MTU of the port and to what the guest was told; longer ones are counted',
  async (t) => {
    await withSwitch(['--default'], async (sw) => {
      await cross(sw);
      for (const port of ['vhost0', 'vhost1']) await sw.vsctl('set', 'Interface', port, 'mtu_request=9000');
      const options = { rxFrameBytes: 9100, txFrameBytes: 9100 };
      const a = await sw.guest('vhost0', options);
      const frame = (mtu: number) => packet(eth(), ipv4(), udp(), filler(mtu - 28));
      let told = 0;
      for (const [mtu, features, longest] of [
        [undefined, DEFAULT_FEATURES, 9000],
        // A driver that did not take the MTU is not bound by it.
        [4000, DEFAULT_FEATURES, 9000],
        [4000, [...DEFAULT_FEATURES, 'MTU'], 4000],
      ] as const) {
        const b = await sw.guest('vhost1', { ...options, features, ...(mtu ? { mtu } : {}) });
        await sw.linkUp('vhost0', 'vhost1');
        const before = await drops(sw, 'tx_mtu');
        a.queue(0).send([frame(longest + 1), frame(longest)]);
        const [got] = await until(
          'the frame',
          () => {
            const frames = b.queue(0).receive();
            return frames.length > 0 && frames;
          },
          PATIENCE_MS,
        );
        t.is(got!.length, longest + 14);
        await until(
          'the longer one to be counted',
          async () => (await drops(sw, 'tx_mtu')) === before + 1,
          PATIENCE_MS,
        );
        const fact = async () =>
          (await sw.vsctl('get', 'Interface', 'vhost1', 'status')).match(/guest_mtu="?(\d+)/)?.[1];
        t.is(await fact(), mtu === undefined ? undefined : String(mtu));
        told++;
        await b.close();
        const down = async () => (await sw.vsctl('get', 'Interface', 'vhost1', 'link_state')).trim() === 'down';
        await until('the link to go', down, PATIENCE_MS);
      }
      t.is(told, 3);
      // Changed under a guest that stays.
      const b = await sw.guest('vhost1', options);
      await sw.linkUp('vhost1');
      await sw.vsctl('set', 'Interface', 'vhost1', 'mtu_request=2000');
      const before = await drops(sw, 'tx_mtu');
      a.queue(0).send([frame(2001), frame(2000)]);
      const arrived = () => b.queue(0).receive().length === 1;
      await until('the frame', arrived, PATIENCE_MS);
      await until('the longer one to be counted', async () => (await drops(sw, 'tx_mtu')) === before + 1, PATIENCE_MS);
      t.is(b.connections, 1);
    });
  },
);
