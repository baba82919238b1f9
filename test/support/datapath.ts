/**
 * The real data process under test: bin/rw-datapathd in a directory of its own, a client of the contract, guests of
 * src/guest at its ports. Everything started here ends with `close`.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { output } from '#contract/actions.ts';
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import { unixConnect } from '#contract/os.ts';
import { openVirtioPort, type PortOptions, type VirtioPort } from '#guest/index.ts';
import type {
  DatapathEvents,
  DatapathPort,
  InstalledMegaflow,
  Megaflow,
  MegaflowStats,
  Upcall,
} from '#ofproto/datapath.ts';
import { DatapathClient } from '#ofproto/datapath-client.ts';
import { Child, PATIENCE_MS, removeScratchDir, scratchDir, until } from './process.ts';

const LAUNCHER = fileURLToPath(new URL('../../bin/rw-datapathd', import.meta.url));

export { PATIENCE_MS };

/** A client with what it was told. */
export class Control implements DatapathEvents {
  readonly client: DatapathClient;
  /** Every upcall, copied. */
  readonly upcalls: Upcall[] = [];
  readonly statuses: DatapathPort[] = [];
  readonly log: string[] = [];
  /** Ports and flows at the last `connected`. */
  ports: readonly DatapathPort[] = [];
  flows: readonly InstalledMegaflow[] = [];
  connections = 0;
  losses = 0;
  /** What misses are answered with. */
  answer: (upcall: Upcall) => number[] | undefined = () => undefined;

  constructor(socket: string) {
    this.client = new DatapathClient({
      reach: async () => unixConnect(socket),
      log: (_, text) => this.log.push(text),
    });
    this.client.listen(this);
  }

  upcall({ worker, inPort, key, frame }: Upcall): { actions: Uint32Array | undefined } {
    const copy = { worker, inPort, key: key.slice(), frame: frame.slice() };
    this.upcalls.push(copy);
    const words = this.answer(copy);
    return { actions: words && Uint32Array.from(words) };
  }

  portStatus(port: DatapathPort): void {
    this.statuses.push(port);
  }

  connected(ports: readonly DatapathPort[], flows: readonly InstalledMegaflow[]): void {
    this.connections++;
    this.ports = ports;
    this.flows = flows;
  }

  disconnected(): void {
    this.losses++;
  }

  /** Adds a vhost-user port that listens at <name>.sock of the run directory. */
  addPort(name: string, options: Record<string, string> = {}, type = 'vhost-user', mtu = 1500): Promise<number> {
    return this.client.addPort({ name, type, options, mtu });
  }

  port(portNo: number): DatapathPort | undefined {
    return this.client.ports().find((port) => port.portNo === portNo);
  }

  async waitUp(portNo: number): Promise<void> {
    await until(
      `port ${portNo} to be up`,
      () => this.port(portNo)?.state === 'up',
      PATIENCE_MS,
      () => JSON.stringify(this.port(portNo)),
    );
  }

  drops(portNo: number): Readonly<Record<string, number>> {
    return this.client.portStatistics(portNo).drops;
  }

  counter(portNo: number, name: 'rx_packets' | 'tx_packets' | 'rx_bytes' | 'tx_bytes'): number {
    return this.client.portStatistics(portNo).counters[name];
  }

  stats(id: number): MegaflowStats {
    const stats = { packets: 0, bytes: 0, used: 0, tcpFlags: 0 };
    this.client.flowStats(id, stats);
    return stats;
  }
}

/** A megaflow on in_port and further words. */
export function megaflow(
  inPort: number,
  actions: number[],
  match: Readonly<Record<number, readonly [value: number, mask: number]>> = {},
): Megaflow {
  const key = new Uint32Array(KEY_WORDS);
  const mask = new Uint32Array(KEY_WORDS);
  key[W_IN_PORT] = inPort;
  mask[W_IN_PORT] = 0xffffffff;
  for (const [word, [value, bits]] of Object.entries(match)) {
    key[Number(word)] = (value & bits) >>> 0;
    mask[Number(word)] = bits;
  }
  return { key, mask, actions: Uint32Array.from(actions) };
}

export class DataProcess {
  readonly rundir: string;
  child!: Child;
  readonly #ownsDir: boolean;
  readonly #controls: Control[] = [];
  readonly #guests: VirtioPort[] = [];

  private constructor(rundir: string, ownsDir: boolean) {
    this.rundir = rundir;
    this.#ownsDir = ownsDir;
  }

  /** Starts the process and waits until it answers. */
  static async start(rundir?: string): Promise<DataProcess> {
    const plane = new DataProcess(rundir ?? scratchDir('rwd'), rundir === undefined);
    await plane.restart();
    return plane;
  }

  /** Starts it (again). */
  async restart(): Promise<void> {
    this.child = new Child(LAUNCHER, ['--rundir', this.rundir], { name: 'rw-datapathd' });
    await this.child.waitFor(/data plane ready/, 'the data plane to be ready', PATIENCE_MS);
  }

  get socket(): string {
    return join(this.rundir, 'datapath.sock');
  }

  /** A client that has not been started. */
  newControl(): Control {
    const control = new Control(this.socket);
    this.#controls.push(control);
    return control;
  }

  async control(): Promise<Control> {
    const control = this.newControl();
    await control.client.start();
    return control;
  }

  /** Opens a guest at <name>.sock. */
  async guest(name: string, options: Partial<PortOptions> = {}): Promise<VirtioPort> {
    const path = join(this.rundir, `${name}.sock`);
    await until(`the socket of port ${name}`, () => existsSync(path), PATIENCE_MS);
    const guest = await openVirtioPort({ path, timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS, ...options });
    this.#guests.push(guest);
    return guest;
  }

  /** Ports of these names with a guest each, all up. */
  async pair(
    control: Control,
    names: readonly string[] = ['a', 'b'],
    options: Partial<PortOptions> = {},
  ): Promise<{ no: number; guest: VirtioPort }[]> {
    const made = [];
    for (const name of names) {
      const no = await control.addPort(name);
      const guest = await this.guest(name, options);
      await control.waitUp(no);
      made.push({ no, guest });
    }
    return made;
  }

  /** Descriptors and mappings that the process holds, and the CPU time it has taken, in clock ticks. */
  usage(): { fds: number; maps: number; ticks: number } {
    const proc = `/proc/${this.child.pid}`;
    const stat = readFileSync(`${proc}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return {
      fds: readdirSync(`${proc}/fd`).length,
      maps: readFileSync(`${proc}/maps`, 'utf8').split('\n').length,
      ticks: Number(fields[11]) + Number(fields[12]),
    };
  }

  /** Mappings of memfds whose name starts so: `virtio-port`, the memory of guests; `lane`. */
  mappings(memfd: string): number {
    return readFileSync(`/proc/${this.child.pid}/maps`, 'utf8').split(`memfd:${memfd}`).length - 1;
  }

  async close(): Promise<void> {
    for (const guest of this.#guests) await guest.close({ abrupt: true });
    for (const control of this.#controls) control.client.detach();
    await this.child.stop('SIGTERM', 20_000);
    if (this.#ownsDir) removeScratchDir(this.rundir);
  }
}

/** Runs `body` on a data process with a client; shows the process's last lines when it fails. */
export async function withDataPlane(body: (plane: DataProcess, control: Control) => Promise<void>): Promise<void> {
  const plane = await DataProcess.start();
  try {
    await body(plane, await plane.control());
  } catch (error) {
    (error as Error).message += `\n${plane.child.tail()}`;
    throw error;
  } finally {
    await plane.close();
  }
}

/** Takes what arrives at a guest until there are `count` frames; fewer after `timeoutMs`. */
export async function receive(guest: VirtioPort, count: number, timeoutMs = 20_000, queue = 0): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  const end = performance.now() + timeoutMs;
  while (frames.length < count && performance.now() < end) {
    const got = guest.queue(queue).receive();
    frames.push(...got);
    if (got.length === 0) await guest.queue(queue).readable(50);
  }
  return frames;
}

/** Sends all frames, waiting for room in the ring. */
export async function send(guest: VirtioPort, frames: readonly Uint8Array[], queue = 0): Promise<void> {
  let at = 0;
  await until(
    'room in the ring of the sender',
    () => {
      at += guest.queue(queue).send(frames.slice(at, at + 64));
      return at === frames.length;
    },
    PATIENCE_MS,
  );
}

/** Answers every miss by output to `port`. */
export const always = (port: number) => (): number[] => output(port);
