/**
 * A guest that rewrites its rings while the switch reads them, at a whole running switch: what the neighbours say to each other
 * arrives whole, in order, once; the port says what was wrong, and serves the next guest that behaves.
 */
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { DEFAULT_FEATURES, type Feature } from '#guest/features.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { HostileGuest, RX, TX } from '../support/hostile-guest.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { until } from '../support/process.ts';
import type { RingRacerData } from '../support/ring-racer.ts';
import { recovers, VICTIM, withVictim } from '../support/victim.ts';

const RACE_MS = 4000;
const BURST = 32;
const TURNS = 2000;
const NUMBER_AT = 16;
const SOURCE = '02:00:00:00:00:01';

/** A guest on the victim's port with a thread that disturbs its rings, until `stop`. */
class RacingGuest {
  readonly #guest: HostileGuest;
  readonly #worker: Worker;
  readonly #words: Int32Array;
  readonly #ended: Promise<unknown>;

  constructor(guest: HostileGuest, packed: boolean, seed: number) {
    this.#guest = guest;
    const control = new SharedArrayBuffer(8);
    this.#words = new Int32Array(control);
    const rings = [RX, TX].map((ring) => {
      const { file, ringAt, buffersAt } = guest.block(ring);
      const { fd, size: bytes, guestAddress } = file;
      return { fd, bytes, guestAddress, ringAt, buffersAt, kickFd: guest.plan(ring).kickFd, receives: ring === RX };
    });
    const data: RingRacerData = { rings, layout: guest.layout, packed, seed, control };
    this.#worker = new Worker(new URL('../support/ring-racer.ts', import.meta.url), { workerData: data });
    this.#ended = new Promise((done, failed) => this.#worker.once('exit', done).once('error', failed));
  }

  get broken(): boolean {
    return this.#guest.closedBecause !== '';
  }

  /** Words written so far. */
  get writes(): number {
    return Atomics.load(this.#words, 1) >>> 0;
  }

  async stop(): Promise<void> {
    Atomics.store(this.#words, 0, 1);
    await this.#ended;
    this.#guest.close();
  }
}

interface RaceRow {
  readonly name: string;
  readonly features: readonly Feature[];
}

const ROWS: readonly RaceRow[] = [
  { name: 'split', features: DEFAULT_FEATURES },
  { name: 'split, buffers not mergeable', features: DEFAULT_FEATURES.filter((name) => name !== 'MRG_RXBUF') },
  { name: 'packed', features: [...DEFAULT_FEATURES, 'RING_PACKED'] },
];

for (const { name, features } of ROWS) {
  test.serial(`a ring that changes while it is read harms nobody: ${name}`, async (t) => {
    await withVictim(async (sw, a, b) => {
      // The neighbours' frames go to the racing rings too, what comes from there goes to one neighbour only.
      await sw.ofctl('del-flows', 'br0');
      await sw.ofctl('add-flow', 'br0', `in_port=vhost0,actions=output:${VICTIM},output:vhost1`);
      await sw.ofctl('add-flow', 'br0', `in_port=${VICTIM},actions=output:vhost0`);
      const packed = features.includes('RING_PACKED');
      const seed = Math.floor(Math.random() * 2 ** 32);
      t.log(`seed ${seed}`);
      const open = async () =>
        new RacingGuest(await HostileGuest.open({ path: sw.socket(VICTIM), features }), packed, seed);
      const frames = Array.from({ length: BURST }, () =>
        packet(eth({ src: SOURCE, dst: '02:00:00:00:00:02' }), filler(46)),
      );
      let racing = await open();
      let [connects, writes, sent, junk] = [1, 0, 0, 0];
      try {
        for (const end = performance.now() + RACE_MS; performance.now() < end; ) {
          if (racing.broken) {
            writes += racing.writes;
            await racing.stop();
            racing = await open();
            connects++;
          }
          for (const [i, frame] of frames.entries()) Buffer.from(frame.buffer).writeUInt32BE(sent + i, NUMBER_AT);
          let offered = 0;
          let received = 0;
          const exchange = (): boolean => {
            if (offered < BURST) offered += a.queue(0).send(frames.slice(offered));
            junk += a.queue(0).receive(256).length;
            for (const got of b.queue(0).receive(BURST)) {
              t.is(Buffer.from(got).compare(frames[received++]!), 0, `frame ${sent + received}`);
            }
            return received === BURST;
          };
          // A wait sleeps between its looks; most bursts need none.
          const exchanged = () => {
            for (let turn = 0; turn < TURNS; turn++) if (exchange()) return true;
            return false;
          };
          await until(
            `${BURST} frames of a neighbour`,
            exchanged,
            PATIENCE_MS,
            () => `${received} came, ${sent} before`,
          );
          sent += BURST;
        }
        writes += racing.writes;
      } finally {
        await racing.stop();
      }
      const drops = await sw.vsctl('get', 'Interface', VICTIM, 'statistics');
      t.log(
        `${writes} words written, ${sent} frames between the neighbours, ${junk} from the racing rings, ${connects} connects`,
      );
      t.regex(drops, /rx_bad_descriptor=[1-9]/);
      t.true(junk > 0 && writes > 100_000);
      await recovers(sw);
    });
  });
}
