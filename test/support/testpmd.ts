/**
 * dpdk-testpmd as the guest at the other end of vhost-user or memif sockets: DPDK's own drivers, in one process, no VM.
 *
 * It runs unprivileged and without hugepages: plain memory from a memfd (`--no-huge`), which the switch maps like any
 * guest's. Its interactive prompt is driven over a pipe; `stdbuf -oL` is needed since it would otherwise buffer its
 * output. Options and commands: "Testpmd Application User Guide" and "Virtio PMD / virtio-user" of DPDK 22.11.
 *
 * A device of role `server` listens on its socket and makes testpmd wait at start until the switch has connected;
 * one of role `client` needs the switch's socket to exist already.
 */
import { Child, PATIENCE_MS, sleep, until, which } from './process.ts';
import {
  type ForwardTotals,
  type PortStats,
  parseForwardTotals,
  parseLinks,
  parsePortStats,
  parseQueueStats,
  type QueueStats,
} from './testpmd-output.ts';

export interface VirtioUser {
  kind?: 'virtio-user';
  path: string;
  /** Who listens on the socket: testpmd (`server`) or the switch (`client`, the default). */
  role?: 'client' | 'server';
  /** Queue pairs of the device; default: those of testpmd. */
  queues?: number;
  /** Descriptors per ring, a power of two. */
  queueSize?: number;
  mac?: string;
  mrgRxbuf?: boolean;
  inOrder?: boolean;
  packedVq?: boolean;
  vectorized?: boolean;
}

/** The back end's side, DPDK's `net_vhost`: stands in for a switch where the harness itself is tested. */
export interface Vhost {
  kind: 'vhost';
  path: string;
  role?: 'client' | 'server';
  queues?: number;
}

/** DPDK's `net_memif`. A server makes the socket, a client needs it to be there; the client makes rings and buffers. */
export interface Memif {
  kind: 'memif';
  path: string;
  role: 'client' | 'server';
  id?: number;
  secret?: string;
  /** Of a client: bytes of a buffer, and log2 of the descriptors of a ring. */
  bufferSize?: number;
  log2RingSize?: number;
}

export type Device = VirtioUser | Vhost | Memif;

export type ForwardMode = 'io' | 'mac' | 'macswap' | 'flowgen' | 'rxonly' | 'txonly' | 'icmpecho';

export interface TestpmdOptions {
  devices: Device[];
  forward?: ForwardMode;
  /** Rx/tx queue pairs per port. */
  queues?: number;
  /** CPU of the one forwarding lcore; the main lcore floats and sleeps at the prompt. */
  core?: number;
  /** `paired` sends what came in on port 0 out on port 1, `loop` sends it back where it came from. */
  topology?: 'paired' | 'loop';
  /** Bytes of a generated frame, without FCS. */
  packetLength?: number;
  /** Distinct destination addresses that `flowgen` cycles through. */
  flowgenFlows?: number;
  /** Destination MAC of frames generated on port i. */
  peerMacs?: string[];
  /** MiB of packet memory. */
  memory?: number;
  mbufs?: number;
  /** Take hugepages (they must be reserved already) instead of plain memory. */
  hugepages?: boolean;
  /** Bits of vector registers that drivers may use; DPDK's own choice is 256. */
  simdBits?: number;
  /** Such as `pmd.net.virtio.init:info`; what is logged can be read in {@link Testpmd.log}. */
  logLevel?: string;
  startTimeoutMs?: number;
}

const PROMPT = 'testpmd> ';

/** Undefined when testpmd can run here, else the reason why not, for the title of a skipped test. */
export function unavailable(): string | undefined {
  if (process.platform !== 'linux') return 'testpmd runs on Linux only';
  for (const program of ['dpdk-testpmd', 'stdbuf']) if (!which(program)) return `${program} is not installed`;
  return undefined;
}

export const available = (): boolean => unavailable() === undefined;

const memifArgument = (device: Memif, index: number): string =>
  `net_memif${index},role=${device.role},id=${device.id ?? 0},socket=${device.path},socket-abstract=no` +
  `,bsize=${device.bufferSize ?? 2048},rsize=${device.log2RingSize ?? 10},zero-copy=no` +
  (device.secret ? `,secret=${device.secret}` : '');

function deviceArgument(device: Device, index: number, queues: number): string {
  const flag = (name: string, value: boolean | undefined) => (value === undefined ? '' : `,${name}=${value ? 1 : 0}`);
  if (device.kind === 'memif') return memifArgument(device, index);
  const count = device.queues ?? queues;
  if (device.kind === 'vhost') {
    return `net_vhost${index},iface=${device.path},queues=${count}${flag('client', device.role === 'client')}`;
  }
  return (
    `net_virtio_user${index},path=${device.path},server=${device.role === 'server' ? 1 : 0},queues=${count}` +
    `,queue_size=${device.queueSize ?? 1024}` +
    (device.mac ? `,mac=${device.mac}` : '') +
    flag('mrg_rxbuf', device.mrgRxbuf) +
    flag('in_order', device.inOrder) +
    flag('packed_vq', device.packedVq) +
    flag('vectorized', device.vectorized)
  );
}

/** The arguments of dpdk-testpmd for some options; `id` keeps the files of several DPDK processes apart. */
export function testpmdArguments(options: TestpmdOptions, id: string): string[] {
  const queues = options.queues ?? 1;
  const memory = options.hugepages
    ? ['--in-memory', '--single-file-segments']
    : ['--no-huge', '--single-file-segments', '--no-shconf', `--file-prefix=${id}`];
  const peers = (options.peerMacs ?? []).map((mac, port) => `--eth-peer=${port},${mac}`);
  return [
    '--lcores',
    `0@0-${Math.max(1, options.core ?? 0)},1@${options.core ?? 0}`,
    '--main-lcore',
    '0',
    '--no-pci',
    '--no-telemetry',
    ...memory,
    ...(options.simdBits ? [`--force-max-simd-bitwidth=${options.simdBits}`] : []),
    ...(options.logLevel ? [`--log-level=${options.logLevel}`] : []),
    '-m',
    String(options.memory ?? 256),
    ...options.devices.flatMap((device, index) => ['--vdev', deviceArgument(device, index, queues)]),
    '--',
    '-i',
    `--rxq=${queues}`,
    `--txq=${queues}`,
    '--nb-cores=1',
    `--total-num-mbufs=${options.mbufs ?? 32_768}`,
    `--forward-mode=${options.forward ?? 'io'}`,
    `--port-topology=${options.topology ?? 'paired'}`,
    ...(options.packetLength ? [`--txpkts=${options.packetLength}`] : []),
    ...(options.flowgenFlows ? [`--flowgen-flows=${options.flowgenFlows}`] : []),
    ...peers,
  ];
}

let started = 0;

export class Testpmd {
  readonly child: Child;

  private constructor(child: Child) {
    this.child = child;
  }

  /** Starts testpmd and waits for its prompt: every device is set up, and connected where testpmd is the client. */
  static async start(options: TestpmdOptions): Promise<Testpmd> {
    const reason = unavailable();
    if (reason) throw new Error(reason);
    const id = `rw${process.pid}-${started++}`;
    const args = ['-oL', which('dpdk-testpmd')!, ...testpmdArguments(options, id)];
    const child = new Child('stdbuf', args, { name: 'dpdk-testpmd', errorsApart: true });
    const testpmd = new Testpmd(child);
    try {
      await child.waitFor(/testpmd> /, 'the prompt of testpmd', options.startTimeoutMs ?? PATIENCE_MS);
    } catch (error) {
      await child.stop('SIGKILL');
      throw error;
    }
    return testpmd;
  }

  /** What DPDK logged, the last of it. */
  get log(): string {
    return this.child.errors + this.child.outputSince(0);
  }

  /** Counters of each queue of every port since start or {@link clearQueueStats}. */
  async queueStats(): Promise<QueueStats[]> {
    return parseQueueStats(await this.command('show port xstats all'));
  }

  async clearQueueStats(): Promise<void> {
    await this.command('clear port xstats all');
  }

  /** Types one command and gives what it printed. */
  async command(text: string, timeoutMs = PATIENCE_MS): Promise<string> {
    const mark = this.child.mark;
    this.child.write(`${text}\n`);
    const output = await this.child.waitFor(/\ntestpmd> /, `testpmd to answer '${text}'`, timeoutMs, mark);
    return output.slice(output.indexOf('\n') + 1, output.lastIndexOf(PROMPT));
  }

  /**
   * Starts forwarding. `txFirst` sends that many bursts of 32 frames from every port beforehand, which is what gives
   * a closed loop its packets.
   */
  async startForwarding(txFirst = 0): Promise<void> {
    await this.command(txFirst > 0 ? `start tx_first ${txFirst}` : 'start');
  }

  /** Stops forwarding; gives the sums over all ports since the start. */
  async stopForwarding(): Promise<ForwardTotals> {
    return parseForwardTotals(await this.command('stop'));
  }

  /** Counters of every port since start or {@link clearPortStats}; rates are since the last call. */
  async portStats(): Promise<PortStats[]> {
    return parsePortStats(await this.command('show port stats all'));
  }

  async clearPortStats(): Promise<void> {
    await this.command('clear port stats all');
  }

  /** Waits until every port (or the ports named) reports its link up. */
  async waitLinkUp(timeoutMs = PATIENCE_MS, ports?: number[]): Promise<void> {
    await this.#waitLink('up', timeoutMs, ports);
  }

  async waitLinkDown(timeoutMs = PATIENCE_MS, ports?: number[]): Promise<void> {
    await this.#waitLink('down', timeoutMs, ports);
  }

  async #waitLink(state: 'up' | 'down', timeoutMs: number, ports: number[] | undefined): Promise<void> {
    const check = async () => {
      const links = parseLinks(await this.command('show port summary all'));
      const wanted = ports ? links.filter((_, index) => ports.includes(index)) : links;
      return wanted.length > 0 && wanted.every((link) => link === state);
    };
    await until(`the links of testpmd to be ${state}`, check, timeoutMs, () => this.child.tail());
  }

  /**
   * Starts forwarding with frames circulating in every direction. A switch may lose the first frames while it still
   * takes up a port just connected (OVS reconfigures in the background), so it starts again until every port receives.
   */
  async closeLoop(bursts: number, timeoutMs = PATIENCE_MS): Promise<void> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      await this.startForwarding(bursts);
      await this.portStats();
      await sleep(150);
      const stats = await this.portStats();
      if (stats.every((port) => port.rxPps > 0)) return;
      await this.stopForwarding();
      if (performance.now() > end) {
        throw new Error(`waited ${timeoutMs} ms for frames on every port of testpmd\n${this.child.tail()}`);
      }
    }
  }

  /**
   * Waits until `port` has received `packets` in all; gives the counters of all ports.
   */
  async waitReceived(port: number, packets: number, timeoutMs = PATIENCE_MS): Promise<PortStats[]> {
    const check = async () => {
      const stats = await this.portStats();
      return (stats[port]?.rxPackets ?? 0) >= packets && stats;
    };
    return until(`port ${port} of testpmd to receive ${packets} packets`, check, timeoutMs, () => this.child.tail());
  }

  /** Leaves in order: rings are stopped and sockets closed as a guest's driver does at shutdown. */
  async quit(timeoutMs = 10_000): Promise<void> {
    if (this.child.exit) return;
    this.child.write('quit\n');
    await this.child.waitExit(timeoutMs).catch(() => this.child.stop('SIGKILL'));
  }

  /** Dies at once, as a crashed guest does. */
  async kill(): Promise<void> {
    await this.child.stop('SIGKILL');
  }
}
