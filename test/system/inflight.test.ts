/**
 * A data plane that is killed again and again while frames cross, with front ends that keep its inflight areas. They come back
 * in any order; frames that wait for a flow at that moment go on in the next data plane.
 */
import test from 'ava';
import { allowedCpus } from '#contract/os.ts';
import { DEFAULT_PROTOCOL } from '#guest/features.ts';
import type { VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, packet, padded, u32 } from '../support/packets.ts';
import { sleep, until } from '../support/process.ts';
import { alive, type SwitchProcess, withSwitch } from '../support/switch.ts';

/** Per variant; a longer run names its own number. */
const KILLS = Number(process.env['RINGWAY_KILLS'] ?? 3);
const FRAMES = 3000;
/** EtherType for local experiments (IEEE 802). */
const TYPE = 0x88b5;
const NUMBER_AT = 14;
/** Last four bytes of the source address. */
const FLOW_AT = 8;
const WINDOW = 128;

/** Numbered frames, counted each by itself: those that wait for a flow may be overtaken. */
class Counted {
  readonly #from: VirtioPort;
  readonly #to: VirtioPort;
  /** Every frame is a flow of its own. */
  readonly #flows: boolean;
  readonly #frame = padded(packet(eth({ type: TYPE }), u32(0)));
  readonly times = new Map<number, number>();
  /** Frames that came after a later one. */
  overtaken = 0;
  #last = -1;
  sent = 0;

  constructor(from: VirtioPort, to: VirtioPort, flows: boolean) {
    this.#flows = flows;
    this.#from = from;
    this.#to = to;
  }

  /** @returns frames taken. */
  step(limit: number): number {
    const frames: Uint8Array[] = [];
    for (let number = this.sent; number < Math.min(limit, this.times.size + WINDOW); number++) {
      const frame = this.#frame.slice();
      const view = new DataView(frame.buffer);
      view.setUint32(NUMBER_AT, number);
      if (this.#flows) view.setUint32(FLOW_AT, number);
      frames.push(frame);
    }
    if (frames.length > 0) this.sent += this.#from.queue(0).send(frames);
    let taken = 0;
    for (const frame of this.#to.queue(0).receive()) {
      if (frame[12] !== TYPE >> 8 || frame[13] !== (TYPE & 0xff)) continue;
      const number = new DataView(frame.buffer, frame.byteOffset).getUint32(NUMBER_AT);
      this.times.set(number, (this.times.get(number) ?? 0) + 1);
      if (number < this.#last) this.overtaken++;
      this.#last = Math.max(this.#last, number);
      taken++;
    }
    return taken;
  }

  /** Until this many different frames have come. */
  async reach(count: number, limit: number): Promise<void> {
    const end = performance.now() + PATIENCE_MS;
    while (this.times.size < count) {
      if (performance.now() > end)
        throw new Error(`${this.times.size} of ${this.sent} frames came, of which ${count} were awaited`);
      if (this.step(limit) === 0) await sleep(1);
      else await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

interface Variant {
  readonly name: string;
  readonly packed: boolean;
  /** Who listens at the socket of the receiving guest. */
  readonly listens: 'guest' | 'switch';
  /** Two workers, which share the receiver's queue. */
  readonly shared: boolean;
  /** No frame finds a flow: all go by way of the control plane. */
  readonly flows?: boolean;
}

const VARIANTS: readonly Variant[] = [
  { name: 'split rings', packed: false, listens: 'switch', shared: false },
  { name: 'packed rings, the guest listens', packed: true, listens: 'guest', shared: false },
  { name: 'packed rings, a queue that workers share', packed: true, listens: 'switch', shared: true },
  { name: 'split rings, a queue that workers share, the guest listens', packed: false, listens: 'guest', shared: true },
  { name: 'split rings, every frame a flow of its own', packed: false, listens: 'switch', shared: false, flows: true },
  { name: 'packed rings, every frame a flow of its own', packed: true, listens: 'guest', shared: true, flows: true },
];

const hasWorkers = async (sw: SwitchProcess, count: number): Promise<boolean> => {
  const { stdout } = await sw.tool('rw-appctl', 'dpif-netdev/pmd-stats-show');
  return [...stdout.matchAll(/^pmd thread/gm)].length === count;
};

const cpus = allowedCpus().slice(0, 2);
const MASK = `0x${cpus.reduce((bits, cpu) => bits | (1n << BigInt(cpu)), 0n).toString(16)}`;

for (const { name, packed, listens, shared, flows = false } of VARIANTS) {
  const lacks = shared && cpus.length < 2;
  const maybe = lacks ? test.serial.skip : test.serial;
  const title = `a data plane killed in mid-burst neither loses nor doubles a frame: ${name}`;
  maybe(lacks ? `${title} (needs two CPUs)` : title, async (t) => {
    t.timeout(240_000);
    await withSwitch(['--default'], async (sw) => {
      if (shared) {
        await sw.vsctl('set', 'Open_vSwitch', '.', `other_config:pmd-cpu-mask=${MASK}`);
        await until('both workers', () => hasWorkers(sw, 2), PATIENCE_MS);
      }
      const protocol = [...DEFAULT_PROTOCOL, 'INFLIGHT_SHMFD'] as const;
      const options = { protocol, packed, retryMs: 20 };
      const [one, two] = ['sender', 'receiver'];
      await sw.vsctl('add-port', 'br0', one, '--', 'set', 'Interface', one, 'type=vhost-user', 'ofport_request=11');
      const type =
        listens === 'switch'
          ? ['type=vhost-user']
          : ['type=dpdkvhostuserclient', `options:vhost-server-path=${sw.socket(two)}`];
      await sw.vsctl('add-port', 'br0', two, '--', 'set', 'Interface', two, ...type, 'ofport_request=12');
      await sw.ofctl('add-flow', 'br0', 'in_port=11,actions=output:12');
      // A flow on a whole address makes megaflows of single addresses.
      if (flows) await sw.ofctl('add-flow', 'br0', 'priority=40000,in_port=11,dl_src=02:ff:ff:ff:ff:ff,actions=drop');
      const to = await sw.guest(two, { ...options, role: listens === 'switch' ? 'client' : 'server' });
      const from = await sw.guest(one, options);
      await sw.linkUp(one, two);
      const most = (KILLS + 1) * FRAMES;
      const stream = new Counted(from, to, flows);
      const reach = (count: number): Promise<void> =>
        stream.reach(count, most).catch(async (error: Error) => {
          throw new Error(`${error.message}; dropped: ${await sw.appctl('drops')}`);
        });
      await reach(FRAMES);
      for (let kill = 1; kill <= KILLS; kill++) {
        const before = sw.datapathPid;
        // The rings are full of frames at this moment.
        stream.step(most);
        process.kill(before, 'SIGKILL');
        for (let i = 0; i < 10; i++) stream.step(most);
        await until('another data plane', () => sw.datapathPid !== before && alive(sw.datapathPid), PATIENCE_MS);
        await reach(Math.min(stream.times.size + FRAMES, most));
      }
      await reach(most);
      t.deepEqual(
        [...stream.times].filter(([, times]) => times !== 1),
        [],
      );
      t.is(stream.times.size, stream.sent);
      t.log(`${stream.sent} frames, ${KILLS} kills, ${stream.overtaken} frames were overtaken`);
    });
  });
}
