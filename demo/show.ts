/** The show itself: guests on a switch, samples of both, and what the keys do. */
import type { Api } from './api.ts';
import { Guest } from './guests.ts';
import { Sampler, type Snapshot } from './sampler.ts';
import { BRIDGE, type DemoSwitch } from './switch.ts';
import { count, type Stage } from './view.ts';

export interface ShowOptions {
  /** Frames per second of each stream; 0 = as fast as it goes. */
  readonly rate: number;
  /** Bytes of the frames of the first and of the second guest. */
  readonly frameBytes: readonly [number, number];
  readonly ringSize: number;
}

export const DEFAULT_SHOW: ShowOptions = { rate: 0, frameBytes: [64, 1500], ringSize: 1024 };

/** How long the drop rule stands, and how long the switch does without its control plane. */
const DROP_MS = 2000;
const HEADLESS_MS = 4000;
/** Matches the stream of the first guest; above all else. */
const DROP_FLOW = 'priority=65000,udp,nw_src=10.0.0.1,tp_dst=5001';

/** What the whole run came to; printed by `--json`. */
export interface Summary {
  seconds: number;
  delivered: { packets: number; bytes: number; averageMpps: number; peakMpps: number };
  ping: Snapshot['ping'];
  stream: Snapshot['stream'];
  caches: Snapshot['caches'];
  pmds: Snapshot['pmds'];
  megaflows: number;
  drops: Snapshot['drops'];
  controlPlaneKills: number;
}

export class Show {
  readonly guests: readonly [Guest, Guest];
  readonly #switch: DemoSwitch;
  readonly #sampler: Sampler;
  readonly #api: Api;
  #control: Stage['control'] = 'up';
  #dropRule = false;
  #message = '';
  #kills = 0;
  #busy: Promise<void> = Promise.resolve();

  constructor(target: DemoSwitch, options: ShowOptions) {
    this.#switch = target;
    this.#api = target.api;
    const guest = (i: 0 | 1): Guest =>
      new Guest({
        name: `guest-${'ab'[i]}`,
        port: { path: target.sockets[i], ringSize: options.ringSize, retryMs: 50, timeoutMs: 2 ** 31 - 1 },
        mac: `02:00:00:00:00:0${i + 1}`,
        ip: `10.0.0.${i + 1}`,
        peer: `10.0.0.${2 - i}`,
        frameBytes: options.frameBytes[i],
        rate: options.rate,
        pingsPerSecond: 100,
      });
    this.guests = [guest(0), guest(1)];
    this.#sampler = new Sampler(this.guests, target.api);
  }

  get stage(): Stage {
    return {
      control: this.#control,
      dropRule: this.#dropRule,
      streaming: this.guests.some((guest) => guest.streaming),
      message: this.#message,
    };
  }

  sample(): Promise<Snapshot> {
    return this.#sampler.take();
  }

  setStreams(on: boolean): void {
    for (const guest of this.guests) guest.streaming = on;
    this.#message = on ? 'streams on' : 'streams off: an idle PMD goes to sleep, pings wake it';
  }

  /** Acts on a key. @returns false when it means to quit. */
  key(key: string): boolean {
    if (key === 'q' || key === '\x03' || key === '\x04') return false;
    if (key === 's') this.setStreams(!this.stage.streaming);
    if (key === 'd' && !this.#dropRule && this.#control === 'up') this.#run(this.dropForAWhile());
    if (key === 'k' && this.#control === 'up') this.#run(this.killForAWhile());
    return true;
  }

  /** Installs a flow that drops the first guest's stream, and takes it away again. */
  async dropForAWhile(ms = DROP_MS): Promise<void> {
    this.#dropRule = true;
    const [, receiver] = this.guests;
    const before = receiver.counter('stream_lost');
    try {
      await this.#api.modifyFlow(BRIDGE, 'add', `${DROP_FLOW},actions=drop`);
      this.#message = `flow added: ${DROP_FLOW} actions=drop`;
      await pause(ms);
      await this.#api.modifyFlow(BRIDGE, 'delete_strict', DROP_FLOW);
      await pause(300);
      this.#message = `flow deleted: the stream is back, ${count(receiver.counter('stream_lost') - before)} frames were dropped`;
    } finally {
      this.#dropRule = false;
    }
  }

  /** Kills the control plane, lets traffic run on without one, and starts another, which adopts the data plane. */
  async killForAWhile(ms = HEADLESS_MS): Promise<void> {
    this.#kills++;
    const received = (): number => this.guests.reduce((sum, guest) => sum + guest.counter('stream_received'), 0);
    const lost = (): number => this.guests.reduce((sum, guest) => sum + guest.counter('stream_lost'), 0);
    const before = [received(), lost()] as const;
    const outcome = (): string =>
      `${count(received() - before[0])} frames delivered meanwhile, ${count(Math.max(0, lost() - before[1]))} lost`;
    await this.#switch.killControl();
    this.#control = 'killed';
    const end = performance.now() + ms;
    while (performance.now() < end) {
      this.#message = `control plane killed (SIGKILL): ${outcome()}`;
      await pause(100);
    }
    this.#control = 'starting';
    await this.#switch.startControl();
    this.#control = 'up';
    this.#message = `control plane back: ${outcome()}`;
  }

  async summary(): Promise<Summary> {
    const last = await this.sample();
    const sum = (name: 'rx_packets' | 'rx_bytes'): number =>
      this.guests.reduce((total, guest) => total + guest.counter(name), 0);
    const packets = sum('rx_packets');
    return {
      seconds: last.seconds,
      delivered: {
        packets,
        bytes: sum('rx_bytes'),
        averageMpps: packets / last.seconds / 1e6,
        peakMpps: last.peakMpps,
      },
      ping: last.ping,
      stream: last.stream,
      caches: last.caches,
      pmds: last.pmds,
      megaflows: last.megaflows.total,
      drops: last.drops,
      controlPlaneKills: this.#kills,
    };
  }

  async stop(): Promise<void> {
    await this.#busy;
    await Promise.all(this.guests.map((guest) => guest.stop()));
  }

  #run(work: Promise<void>): void {
    this.#busy = Promise.allSettled([
      this.#busy,
      work.catch((error: Error) => {
        this.#message = error.message;
      }),
    ]).then(() => undefined);
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
