/**
 * The data plane over the contract: requests on the socket, megaflows and upcalls on the lanes.
 *
 * This side keeps a copy of every installed megaflow, by id: new lanes (another set of workers) are filled from it, and after
 * a restart of this process it is read back from the data plane. When the connection is lost the process is reached again,
 * started anew if it died; `connected` then tells what it holds.
 */
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, PORT_ROW, WORKER_COUNTERS } from '#contract/catalogue.ts';
import { Channel } from '#contract/channel.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';
import {
  FLOW_BYTES,
  FLOW_PACKETS,
  FLOW_ROW,
  FLOW_TCP_FLAGS,
  FLOW_USED,
  H_WORKER_ASLEEP,
  MAX_FLOWS,
} from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import {
  CONTRACT_VERSION,
  decodeReply,
  encodeRequest,
  type FlowMessage,
  type FromDatapath,
  type PortMessage,
  type RequestBodies,
  type RequestName,
} from '#contract/messages.ts';
import { close, eventfdDrain, Watcher } from '#contract/os.ts';
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
} from './datapath.ts';
import { FlowIds } from './flow-ids.ts';

/** Upcalls answered in one turn of the event loop, so that the API stays responsive under a storm. */
const UPCALLS_PER_TURN = 128;
const REQUEST_LIMIT_MS = 30_000;
const START_ATTEMPTS = 40;
const START_EVERY_MS = 50;

interface Waiting {
  resolve(message: FromDatapath): void;
  reject(error: Error): void;
  flows: FlowMessage[];
}

export interface DatapathLink {
  /** A connected socket of the data process; called again after a loss. */
  reach(): Promise<number>;
  log(level: 'info' | 'warn', text: string): void;
}

export class DatapathClient implements Datapath {
  readonly #link: DatapathLink;
  #events: DatapathEvents | undefined;
  #channel: Channel | undefined;
  #nextRequest = 1;
  readonly #waiting = new Map<number, Waiting>();
  #lanes: LaneClient[] = [];
  #doorbell = -1;
  readonly #bell = new Watcher((fd) => {
    eventfdDrain(fd);
    this.#pump();
  });
  readonly #ports = new Map<number, DatapathPort>();
  readonly #flows = new Map<number, Megaflow>();
  readonly #ids = new FlowIds(MAX_FLOWS);
  #barrier = 0;
  #retiring: { id: number; gone: ((final: MegaflowStats) => void) | undefined }[] = [];
  #pumping = false;
  #flushing = false;
  #stopped = false;
  /** Connections so far: an id given out under one means nothing under the next. */
  #epoch = 0;
  /** Why the data plane turned this connection away, where it said so. */
  #refusal = '';
  #hello: { pid: number } | undefined;

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
    this.#bell.close();
  }

  /** Ends the data plane, then detaches. */
  async exit(): Promise<void> {
    this.#stopped = true;
    await this.#request('exit', {}).catch(() => undefined);
    this.detach();
  }

  async #connect(): Promise<void> {
    const fd = await this.#link.reach();
    this.#epoch++;
    this.#refusal = '';
    const channel = new Channel(fd, {
      frame: (bytes, fds) => this.#frame(bytes, fds),
      closed: (reason) => this.#lost(channel, reason),
    });
    this.#channel = channel;
    const { hello } = await this.#request('hello', { version: CONTRACT_VERSION });
    if (!hello) throw new Error('the data plane answered hello with something else');
    const dumped = await this.#request('dumpFlows', {});
    this.#flows.clear();
    this.#ids.clear();
    const flows = (dumped.flows?.flows ?? []).map(fromMessage);
    for (const flow of flows) {
      this.#flows.set(flow.id, flow);
      this.#ids.reserve(flow.id);
    }
    this.#ports.clear();
    for (const port of hello.ports) this.#ports.set(port.config.portNo, toPort(port));
    this.#hello = { pid: hello.pid };
    this.#events?.connected([...this.#ports.values()], flows);
    this.#pump();
  }

  #lost(channel: Channel, reason: string): void {
    if (this.#channel !== channel) return;
    this.#channel = undefined;
    this.#useLanes([]);
    const was = this.#hello !== undefined;
    this.#hello = undefined;
    const why = this.#refusal ? refused(this.#refusal) : notRunning();
    for (const waiting of this.#waiting.values()) waiting.reject(why);
    this.#waiting.clear();
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
    if (count !== undefined && fds.length === 1 + count * 2) this.#takeLanes(fds);
    else for (const fd of fds) close(fd);
    if (message.portStatus) {
      const port = toPort(message.portStatus);
      this.#ports.set(port.portNo, port);
      this.#events?.portStatus(port);
    }
    if (message.id === 0 && message.error) this.#refusal = message.error.message;
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    if (message.flows) {
      for (const flow of message.flows.flows) waiting.flows.push(flow);
      if (message.flows.more) return;
      message.flows.flows = waiting.flows;
    }
    this.#waiting.delete(message.id);
    if (message.error) {
      const { code, message: text } = message.error;
      waiting.reject(new RequestError(code, text, { status: code === 'exists' ? 409 : 400 }));
    } else waiting.resolve(message);
  }

  #request<N extends RequestName>(name: N, body: RequestBodies[N]): Promise<FromDatapath> {
    const channel = this.#channel;
    if (!channel?.open) return Promise.reject(notRunning());
    const id = this.#nextRequest++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(
          new RequestError('timeout', `the data plane did not answer ${name} in ${REQUEST_LIMIT_MS} ms`, {
            status: 503,
          }),
        );
      }, REQUEST_LIMIT_MS);
      timer.unref();
      const done = <A>(act: (a: A) => void) => {
        return (a: A): void => {
          clearTimeout(timer);
          act(a);
        };
      };
      this.#waiting.set(id, { resolve: done(resolve), reject: done(reject), flows: [] });
      channel.send(encodeRequest({ id, [name]: body }));
    });
  }

  #takeLanes(fds: number[]): void {
    const lanes: LaneClient[] = [];
    for (let i = 1; i < fds.length; i += 2) lanes.push(new LaneClient(fds[i]!, fds[i + 1]!));
    this.#useLanes(lanes, fds[0]!);
    // After a hello the data plane tells what it holds. Later, new workers got their flows from old ones, and may have
    // missed what was put or deleted at that time.
    if (this.#hello) {
      for (const lane of lanes) {
        for (let id = 0; id < this.#ids.end; id++) if (!this.#flows.has(id)) lane.deleteFlow(id);
        for (const [id, f] of this.#flows) lane.putFlow(id, f.key, f.mask, f.actions);
      }
    }
    this.#flushSoon();
    this.#pump();
  }

  #useLanes(lanes: LaneClient[], doorbell = -1): void {
    for (const lane of this.#lanes) lane.close();
    if (this.#doorbell >= 0) {
      this.#bell.remove(this.#doorbell);
      close(this.#doorbell);
    }
    this.#lanes = lanes;
    this.#doorbell = doorbell;
    if (doorbell >= 0) this.#bell.add(doorbell);
  }

  /** Answers upcalls, a bounded number a turn; asks for the doorbell when there are none left. */
  #pump(): void {
    if (this.#pumping || !this.#hello) return;
    this.#pumping = true;
    const turn = (): void => {
      this.#pumping = false;
      let more = false;
      const share = Math.ceil(UPCALLS_PER_TURN / this.#lanes.length);
      for (const [worker, lane] of this.#lanes.entries()) {
        let left = share;
        for (let upcall = lane.next(); upcall; upcall = --left > 0 ? lane.next() : undefined) {
          const { seq, inPort, key, frame } = upcall;
          lane.reply(seq, this.#events?.upcall({ worker, inPort, key, frame }).actions);
        }
        lane.release();
        if (left === 0) more = true;
      }
      this.#flush();
      const idle = !more && this.#lanes.every((lane) => lane.sleep());
      if (idle || this.#pumping) return;
      this.#pumping = true;
      setImmediate(turn);
    };
    turn();
  }

  #flush(): void {
    let all = true;
    for (const lane of this.#lanes) all = lane.flush() && all;
    if (!all) this.#flushSoon();
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  putFlow(flow: Megaflow): number {
    const id = this.#ids.take();
    if (id >= 0) this.setFlow(id, flow);
    return id;
  }

  setFlow(id: number, flow: Megaflow): void {
    this.#flows.set(id, flow);
    for (const lane of this.#lanes) lane.putFlow(id, flow.key, flow.mask, flow.actions);
    this.#flushSoon();
  }

  deleteFlow(id: number, gone?: (final: MegaflowStats) => void): void {
    if (!this.#flows.delete(id)) return;
    for (const lane of this.#lanes) lane.deleteFlow(id);
    this.#retire(id, gone);
  }

  flushFlows(): void {
    for (const lane of this.#lanes) lane.flushFlows();
    for (const id of this.#flows.keys()) this.#retire(id, undefined);
    this.#flows.clear();
    this.#flushSoon();
  }

  /** After a barrier nobody counts on these ids: their slots are set to 0 and serve again. */
  #retire(id: number, gone: ((final: MegaflowStats) => void) | undefined): void {
    this.#retiring.push({ id, gone });
    if (this.#retiring.length > 1) return;
    setImmediate(() => {
      const batch = this.#retiring;
      const epoch = this.#epoch;
      this.#retiring = [];
      this.barrier().then(
        () => {
          for (const { id, gone } of batch) {
            if (gone) {
              const final = { packets: 0, bytes: 0, used: 0, tcpFlags: 0 };
              this.flowStats(id, final);
              gone(final);
            }
            if (epoch !== this.#epoch) continue;
            for (const { lane } of this.#lanes) lane.flows.fill(0, id * FLOW_ROW, (id + 1) * FLOW_ROW);
            this.#ids.free(id);
          }
        },
        () => undefined,
      );
    });
  }

  async barrier(): Promise<void> {
    this.#barrier = (this.#barrier + 1) | 0;
    const seq = this.#barrier;
    const lanes = this.#lanes;
    for (const lane of lanes) lane.barrier(seq);
    for (let turn = 0; ; turn++) {
      this.#flush();
      if (lanes !== this.#lanes) return lanes.length > 0 && this.#lanes.length > 0 ? this.barrier() : undefined;
      if (lanes.every((lane) => lane.passed(seq))) return;
      await new Promise((resolve) => (turn < 64 ? setImmediate(resolve) : setTimeout(resolve, 1)));
    }
  }

  flowStats(id: number, out: MegaflowStats): void {
    out.packets = 0;
    out.bytes = 0;
    out.used = 0;
    out.tcpFlags = 0;
    const at = id * FLOW_ROW;
    for (const { lane } of this.#lanes) {
      const rows = lane.flows;
      out.packets += rows[at + FLOW_PACKETS]!;
      out.bytes += rows[at + FLOW_BYTES]!;
      if (rows[at + FLOW_USED]! > out.used) out.used = rows[at + FLOW_USED]!;
      out.tcpFlags |= rows[at + FLOW_TCP_FLAGS]!;
    }
  }

  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void {
    this.#lanes[0]?.execute(inPort, frame, actions);
    this.#flushSoon();
  }

  async addPort(config: DatapathPortConfig): Promise<number> {
    const wanted = { portNo: 0, name: config.name, type: config.type, options: { ...config.options }, mtu: config.mtu };
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
    const base = portNo * PORT_ROW;
    const sum = (slot: number): number => this.#lanes.reduce((total, { lane }) => total + lane.ports[base + slot]!, 0);
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
      const lane = this.#lanes[pmd.worker]?.lane;
      const counters = Object.fromEntries(WORKER_COUNTERS.map(({ name }, slot) => [name, lane?.worker[slot] ?? 0]));
      return {
        ...pmd,
        asleep: lane?.header[H_WORKER_ASLEEP] === 1,
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
