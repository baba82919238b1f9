/**
 * The data plane over the contract: requests on the socket (datapath-requests.ts), megaflows and upcalls on the lanes
 * (datapath-lanes.ts). When the connection is lost the process is reached again, started anew if it died; `connected` then
 * tells what it holds.
 */
import { isDeepStrictEqual } from 'node:util';
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, WORKER_COUNTERS } from '#contract/catalogue.ts';
import { Channel } from '#contract/channel.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';
import {
  CONTRACT_VERSION,
  decodeReply,
  type FlowMessage,
  type FromDatapath,
  type PortMessage,
  type RequestBodies,
  type RequestName,
} from '#contract/messages.ts';
import { close } from '#contract/os.ts';
import { RequestError } from './api.ts';
import type {
  Datapath,
  DatapathEvents,
  DatapathPort,
  DatapathPortConfig,
  InstalledMegaflow,
  Megaflow,
  MegaflowStats,
  PmdInfo,
  PortStatistics,
  UpcallAnswer,
} from './datapath.ts';
import { DatapathLanes } from './datapath-lanes.ts';
import { DatapathRequests } from './datapath-requests.ts';

const UNANSWERED: UpcallAnswer = { actions: undefined };
const START_ATTEMPTS = 40;
const START_EVERY_MS = 50;

export interface DatapathLink {
  /** A connected socket of the data process; called again after a loss. */
  reach(): Promise<number>;
  /** What the data plane is to obey; undefined while that is not known yet. */
  options?(): Readonly<Record<string, string>> | undefined;
  log(level: 'info' | 'warn', text: string): void;
}

/** What another data plane is to go on with. */
interface Left {
  readonly pid: number;
  /** Names of ports that were up. */
  readonly ports: string[];
  /** Descriptors of lanes. */
  readonly lanes: readonly number[];
}

export class DatapathClient implements Datapath {
  readonly #link: DatapathLink;
  #events: DatapathEvents | undefined;
  #channel: Channel | undefined;
  readonly #requests = new DatapathRequests();
  readonly #lanes = new DatapathLanes((upcall) => this.#events?.upcall(upcall) ?? UNANSWERED);
  readonly #ports = new Map<number, DatapathPort>();
  #stopped = false;
  /** Why the data plane turned this connection away, where it said so. */
  #refusal = '';
  #hello: { pid: number } | undefined;
  /** Of a data plane whose connection was lost. */
  #left: Left | undefined;
  /** Numbers that its ports had, by name: what waits in its lanes came in by them. */
  readonly #numbers = new Map<string, number>();

  constructor(link: DatapathLink) {
    this.#link = link;
  }

  get connected(): boolean {
    return this.#hello !== undefined;
  }

  /** Process id of the data plane; 0 while there is none. */
  get pid(): number {
    return this.#hello?.pid ?? 0;
  }

  listen(events: DatapathEvents): void {
    this.#events = events;
  }

  /**
   * Reaches the data plane for the first time. One that has not yet noticed the end of the control plane before is asked
   * again for some seconds.
   * @throws Error when it cannot be started, speaks another version, or another control plane stays attached.
   */
  async start(): Promise<void> {
    for (let left = START_ATTEMPTS; !this.#hello; left--) {
      try {
        await this.#connect();
      } catch (error) {
        this.#channel?.close('gave up');
        if (left === 0 || this.#refusal === '') throw error;
        await new Promise((resolve) => setTimeout(resolve, START_EVERY_MS));
      }
    }
  }

  /** Leaves the data plane as it is, forwarding on. */
  detach(): void {
    this.#stopped = true;
    this.#channel?.close('detached');
    this.#lanes.close();
    for (const fd of this.#left?.lanes ?? []) close(fd);
    this.#left = undefined;
  }

  /** Ends the data plane, then detaches. */
  async exit(): Promise<void> {
    this.#stopped = true;
    await this.#request('exit', {}).catch(() => undefined);
    this.detach();
  }

  async #connect(): Promise<void> {
    const fd = await this.#link.reach();
    this.#lanes.begin();
    this.#refusal = '';
    const channel = new Channel(fd, {
      frame: (bytes, fds) => this.#frame(bytes, fds),
      closed: (reason) => this.#lost(channel, reason),
    });
    this.#channel = channel;
    const { hello } = await this.#request('hello', { version: CONTRACT_VERSION });
    if (!hello) throw new Error('the data plane answered hello with something else');
    await this.#giveOptions(hello.options);
    await this.#resume(hello.pid);
    const dumped = await this.#request('dumpFlows', {});
    const flows = (dumped.flows?.flows ?? []).map(fromMessage);
    this.#lanes.hold(flows);
    this.#ports.clear();
    for (const port of hello.ports) this.#ports.set(port.config.portNo, toPort(port));
    this.#hello = { pid: hello.pid };
    this.#events?.connected([...this.#ports.values()], flows);
    this.#lanes.start();
  }

  /** Before any port is added: other workers would take over what waits in the ones so far. */
  async #giveOptions(obeyed: Readonly<Record<string, string>>): Promise<void> {
    const wanted = this.#link.options?.();
    if (wanted === undefined || isDeepStrictEqual({ ...wanted }, { ...obeyed })) return;
    await this.#request('setOptions', { options: { ...wanted } }).catch((error: Error) =>
      this.#link.log('warn', `the data plane refuses the stored options: ${error.message}`),
    );
  }

  /** One that died is gone on with; one that lives has all that it had. */
  async #resume(pid: number): Promise<void> {
    const left = this.#left;
    if (!left) return;
    this.#left = undefined;
    try {
      const { ports, lanes } = left;
      if (pid !== left.pid) await this.#request('resume', { ports, lanes: lanes.length }, lanes);
    } catch (error) {
      this.#link.log('warn', `the data plane does not go on with the packets that waited: ${(error as Error).message}`);
    } finally {
      for (const fd of left.lanes) close(fd);
    }
  }

  #lost(channel: Channel, reason: string): void {
    if (this.#channel !== channel) return;
    this.#channel = undefined;
    const lanes = this.#lanes.drop();
    if (this.#hello && !this.#stopped) {
      const ports = [...this.#ports.values()].filter(({ linkUp }) => linkUp).map(({ name }) => name);
      this.#left = { pid: this.#hello.pid, ports, lanes };
      this.#numbers.clear();
      for (const { name, portNo } of this.#ports.values()) this.#numbers.set(name, portNo);
    } else for (const fd of lanes) close(fd);
    const was = this.#hello !== undefined;
    this.#hello = undefined;
    const why = this.#refusal ? refused(this.#refusal) : notRunning();
    this.#requests.rejectAll(why);
    if (was) this.#events?.disconnected();
    if (this.#stopped) return;
    this.#link.log('warn', `lost the data plane: ${reason}`);
    if (was) void this.#reconnect();
  }

  async #reconnect(): Promise<void> {
    for (let wait = 50; !this.#stopped && !this.#hello; wait = Math.min(wait * 2, 2000)) {
      try {
        await this.#connect();
      } catch (error) {
        this.#channel?.close('gave up');
        this.#link.log('warn', `data plane: ${(error as Error).message}; again in ${wait} ms`);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }

  #frame(bytes: Uint8Array, fds: number[]): void {
    let message: FromDatapath;
    try {
      message = decodeReply(bytes);
    } catch {
      this.#channel?.close('a frame that is no contract message');
      return;
    }
    const count = message.hello?.lanes.count ?? message.lanesChanged?.count;
    if (count !== undefined && fds.length === 1 + count * 2) this.#lanes.take(fds);
    else for (const fd of fds) close(fd);
    if (message.portStatus) {
      const port = toPort(message.portStatus);
      this.#ports.set(port.portNo, port);
      this.#events?.portStatus(port);
    }
    if (message.id === 0 && message.error) this.#refusal = message.error.message;
    this.#requests.settle(message);
  }

  #request<N extends RequestName>(name: N, body: RequestBodies[N], fds: readonly number[] = []): Promise<FromDatapath> {
    const channel = this.#channel;
    return channel?.open ? this.#requests.send(channel, name, body, fds) : Promise.reject(notRunning());
  }

  putFlow(flow: Megaflow): number {
    return this.#lanes.putFlow(flow);
  }

  setFlow(id: number, flow: Megaflow): void {
    this.#lanes.setFlow(id, flow);
  }

  deleteFlow(id: number, gone?: (final: MegaflowStats) => void): void {
    this.#lanes.deleteFlow(id, gone);
  }

  flushFlows(): void {
    this.#lanes.flushFlows();
  }

  barrier(): Promise<void> {
    return this.#lanes.barrier();
  }

  flowStats(id: number, out: MegaflowStats): void {
    this.#lanes.flowStats(id, out);
  }

  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void {
    this.#lanes.execute(inPort, frame, actions);
  }

  async addPort(config: DatapathPortConfig): Promise<number> {
    const before = this.#numbers.get(config.name) ?? 0;
    this.#numbers.delete(config.name);
    const number = this.#ports.has(before) ? 0 : before;
    const wanted = {
      portNo: number,
      name: config.name,
      type: config.type,
      options: { ...config.options },
      mtu: config.mtu,
    };
    const { portNumber } = await this.#request('addPort', wanted);
    const portNo = portNumber!.portNo;
    if (!this.#ports.has(portNo))
      this.#ports.set(portNo, { ...config, portNo, state: 'waiting-socket', lastError: '', linkUp: false, facts: {} });
    return portNo;
  }

  async setPort(portNo: number, config: DatapathPortConfig): Promise<void> {
    await this.#request('setPort', {
      portNo,
      name: config.name,
      type: config.type,
      options: { ...config.options },
      mtu: config.mtu,
    });
    const old = this.#ports.get(portNo);
    if (old) this.#ports.set(portNo, { ...old, ...config });
  }

  async deletePort(portNo: number): Promise<void> {
    await this.#request('deletePort', { portNo });
    this.#ports.delete(portNo);
  }

  ports(): readonly DatapathPort[] {
    return [...this.#ports.values()];
  }

  portStatistics(portNo: number): PortStatistics {
    const sum = (slot: number): number => this.#lanes.portCounter(portNo, slot);
    const counters = Object.fromEntries(PORT_COUNTERS.map(({ name }, slot) => [name, sum(slot)]));
    const drops = DROP_REASONS.map(({ name }, reason) => [name, sum(DROP_BASE + reason)] as const);
    return {
      counters: counters as PortStatistics['counters'],
      drops: Object.fromEntries(drops.filter(([, packets]) => packets > 0)),
    };
  }

  async pmds(): Promise<readonly PmdInfo[]> {
    const { pmds } = await this.#request('getPmds', {});
    return (pmds?.pmds ?? []).map((pmd) => {
      const counter = (slot: number): number => this.#lanes.workerCounter(pmd.worker, slot);
      const counters = Object.fromEntries(WORKER_COUNTERS.map(({ name }, slot) => [name, counter(slot)]));
      return {
        ...pmd,
        asleep: this.#lanes.isAsleep(pmd.worker),
        rxqs: pmd.rxqs.map((q) => ({ ...q, usage: q.usage < 0 ? Number.NaN : q.usage })),
        counters: counters as PmdInfo['counters'],
      };
    });
  }

  clearPmdCounters(): void {
    this.#request('clearPmdCounters', {}).catch(() => undefined);
  }

  async setOptions(options: Readonly<Record<string, string>>): Promise<void> {
    await this.#request('setOptions', { options: { ...options } });
  }
}

const notRunning = (): RequestError =>
  new RequestError('no_datapath', 'the data plane is not running', {
    status: 503,
    hint: 'it is being restarted; try again',
  });

const refused = (reason: string): RequestError =>
  new RequestError('busy', `the data plane refuses: ${reason}`, { status: 503, hint: 'stop the other control plane' });

const toPort = ({ config, state, lastError, linkUp, facts }: PortMessage): DatapathPort => ({
  ...config,
  state,
  lastError,
  linkUp,
  facts,
});

const fromMessage = ({ id, words, actions }: FlowMessage): InstalledMegaflow => {
  const key = new Uint32Array(KEY_WORDS);
  const mask = new Uint32Array(KEY_WORDS);
  for (let i = 0; i + 2 < words.length; i += 3) {
    key[words[i]!] = words[i + 1]!;
    mask[words[i]!] = words[i + 2]!;
  }
  return { id, key, mask, actions: Uint32Array.from(actions) };
};
