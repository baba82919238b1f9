/** Other workers take over while frames of new flows wait for the control plane. */
import test from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, packet, padded, u32 } from '../support/packets.ts';
import { sleep } from '../support/process.ts';
import { withSwitch } from '../support/switch.ts';

/** EtherType for local experiments (IEEE 802). */
const TYPE = 0x88b5;
const NUMBER_AT = 14;
const MASKS = ['0x3', '0x1'];
/** Frames sent and not yet received, at most. */
const WINDOW = 200;
const BURST = 8;

/** Each frame is a flow of its own: NORMAL learns its sender. */
const frameOf = (number: number): Uint8Array => {
  const mac = `02:00:00:00:${(number >> 8).toString(16).padStart(2, '0')}:${(number & 0xff).toString(16).padStart(2, '0')}`;
  return padded(packet(eth({ src: mac, dst: '06:00:00:00:00:01', type: TYPE }), u32(number)));
};

test('frames of new flows that wait while pmd-cpu-mask changes arrive once each', async (t) => {
  t.timeout(2 * PATIENCE_MS);
  await withSwitch(['--default'], async (sw) => {
    await sw.vsctl('add-port', 'br0', 'one', '--', 'set', 'Interface', 'one', 'type=vhost-user');
    await sw.vsctl('add-port', 'br0', 'two', '--', 'set', 'Interface', 'two', 'type=vhost-user');
    const from = await sw.guest('one');
    const to = await sw.guest('two');
    await sw.linkUp('one', 'two');
    const times = new Map<number, number>();
    let sent = 0;
    const step = (): void => {
      const frames: Uint8Array[] = [];
      for (let n = sent; n < times.size + WINDOW && frames.length < BURST; n++) frames.push(frameOf(n));
      if (frames.length > 0) sent += from.queue(0).send(frames);
      for (const frame of to.queue(0).receive()) {
        const view = new DataView(frame.buffer, frame.byteOffset);
        if (view.getUint16(12) !== TYPE) continue;
        const number = view.getUint32(NUMBER_AT);
        times.set(number, (times.get(number) ?? 0) + 1);
      }
    };
    const reach = async (done: () => boolean): Promise<void> => {
      const end = performance.now() + PATIENCE_MS;
      while (!done()) {
        if (performance.now() > end) {
          const missing = Array.from({ length: sent }, (_, n) => n).filter((n) => !times.has(n));
          throw new Error(`frames ${missing.slice(0, 10)} of ${sent} are missing: ${await sw.appctl('drops')}`);
        }
        step();
        await sleep(1);
      }
    };
    for (const mask of MASKS) {
      let changed = false;
      const start = sent;
      await reach(() => times.size > start);
      const change = sw.vsctl('set', 'Open_vSwitch', '.', `other_config:pmd-cpu-mask=${mask}`);
      const noted = change.finally(() => (changed = true));
      noted.catch(() => undefined);
      await reach(() => changed);
      await noted;
    }
    const all = sent;
    await reach(() => times.size >= all);
    await reach(() => times.size === sent);
    t.true(sent > MASKS.length * BURST, `${sent} frames`);
    t.deepEqual(
      [...times].filter(([, count]) => count !== 1),
      [],
    );
    t.log(`${sent} frames, ${MASKS.length} changes of workers`);
  });
});
