/**
 * A data plane for tests of ofproto: a list of megaflows searched one by one, programs run on keys, no rings, no waiting.
 *
 * It obeys what the contract says of statistics: a deleted megaflow's slot keeps its numbers until the id is used again, and
 * ids are used again, lowest first, once a barrier has passed.
 */
import {
  ACTION_CLONE,
  ACTION_DEC_TTL,
  ACTION_DROP,
  ACTION_OUTPUT,
  ACTION_POP_VLAN,
  ACTION_PUSH_VLAN,
  ACTION_SET,
  ACTION_TNL_POP,
  ACTION_TNL_PUSH,
  checkProgram,
  pushedHeader,
} from '#contract/actions.ts';
import { DROP_REASONS } from '#contract/catalogue.ts';
import { KEY_WORDS, VLAN_PRESENT, W_IN_PORT, W_NW_MISC, W_TUNNEL, W_VLAN, W_VLAN_INNER } from '#contract/flow-key.ts';
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
} from '#ofproto/datapath.ts';

export interface Output {
  readonly port: number;
  readonly key: Uint32Array;
  /** The header that the packet was wrapped in last; its key is then not told. */
  readonly header?: Uint8Array;
  /** The packet goes into the tunnel of this kind; `port` is the tunnel's. */
  readonly popped?: number;
}

/** What became of a packet: the frames that left, as `port:key words`, or the reason of its loss. */
export interface Verdict {
  /** Datapath port and the packet's key as it left, with 0 as in_port. */
  readonly outputs: readonly Output[];
  readonly drop: string;
  readonly upcall: boolean;
}

/** Runs a program on a packet, as the data plane would. */
export function runProgram(program: Uint32Array, packet: Uint32Array): Pick<Verdict, 'outputs' | 'drop'> {
  const problem = checkProgram(program, KEY_WORDS);
  if (problem !== undefined) throw new Error(problem);
  const key = packet.slice(0, KEY_WORDS);
  key[W_IN_PORT] = 0;
  key.fill(0, W_TUNNEL);
  const outputs: Output[] = [];
  const reason = runPart(program, key, undefined, outputs);
  return { outputs, drop: outputs.length === 0 ? reason : '' };
}

/** Runs a program or the part of a clone. @returns why nothing was output, if nothing was. */
function runPart(program: Uint32Array, key: Uint32Array, wrapped: Uint8Array | undefined, outputs: Output[]): string {
  let header = wrapped;
  const end = (reason: string): string => reason;
  // Tags below the two that a key shows.
  const hidden: number[] = [];
  for (let at = 0; at < program.length; at += program[at]! & 0xffff) {
    const a = program[at + 1]!;
    switch (program[at]! >>> 16) {
      case ACTION_OUTPUT:
        outputs.push({ port: a, key: key.slice(), ...(header ? { header } : {}) });
        break;
      case ACTION_CLONE:
        runPart(program.subarray(at + 2, at + 2 + a), key.slice(), header, outputs);
        at += a;
        break;
      case ACTION_TNL_PUSH:
        header = pushedHeader(program, at);
        key.fill(0);
        break;
      case ACTION_TNL_POP:
        outputs.push({ port: a, key: key.slice(), popped: program[at + 2]! });
        break;
      case ACTION_DROP:
        return end(DROP_REASONS[a]!.name);
      case ACTION_SET:
        key[a] = ((key[a]! & ~program[at + 3]!) | program[at + 2]!) >>> 0;
        break;
      case ACTION_PUSH_VLAN:
        if (key[W_VLAN_INNER] !== 0) hidden.push(key[W_VLAN_INNER]!);
        key[W_VLAN_INNER] = key[W_VLAN]!;
        key[W_VLAN] = (a | VLAN_PRESENT) >>> 0;
        break;
      case ACTION_POP_VLAN:
        key[W_VLAN] = key[W_VLAN_INNER]!;
        key[W_VLAN_INNER] = hidden.pop() ?? 0;
        break;
      case ACTION_DEC_TTL: {
        const ttl = (key[W_NW_MISC]! >>> 16) & 0xff;
        if (ttl <= 1) return end('ttl_exceeded');
        key[W_NW_MISC] = key[W_NW_MISC]! - 0x10000;
        break;
      }
    }
  }
  return end('flow_drop');
}

export class FakeDatapath implements Datapath {
  connected = true;
  readonly flows = new Map<number, Megaflow>();
  /** Megaflow ids by mask and masked key, only to be quick with many. */
  readonly #index = new Map<string, { mask: Uint32Array; words: number[]; ids: Map<string, number> }>();
  readonly stats = new Map<number, MegaflowStats>();
  readonly portMap = new Map<number, DatapathPort>();
  readonly drops = new Map<string, number>();
  #events: DatapathEvents | undefined;
  #freed: number[] = [];
  #free: number[] = [];
  #nextId = 0;
  now: () => number = Date.now;
  upcalls = 0;
  puts = 0;
  deletes = 0;
  /** Megaflows are not seen yet: every packet makes an upcall. */
  deaf = false;
  /** Fails addPort with this reason. */
  refusePort = '';

  listen(events: DatapathEvents): void {
    this.#events = events;
  }

  /** As if the control plane had just connected to what is here. */
  connect(events?: DatapathEvents): void {
    if (events !== undefined) this.#events = events;
    const flows: InstalledMegaflow[] = [...this.flows].map(([id, flow]) => ({ id, ...flow }));
    this.#events!.connected([...this.portMap.values()], flows);
  }

  /** As if the process had been started anew. */
  forget(): void {
    this.flows.clear();
    this.#index.clear();
    this.stats.clear();
    this.portMap.clear();
    this.#free = [];
    this.#freed = [];
    this.#nextId = 0;
  }

  /** Sends a packet in; `key` has the datapath port as in_port. */
  receive(key: Uint32Array, length = 64): Verdict {
    const [id] = this.deaf ? [] : this.matching(key);
    if (id !== undefined) {
      const stats = this.stats.get(id)!;
      stats.packets++;
      stats.bytes += length;
      stats.used = this.now();
      return this.#run(this.flows.get(id)!.actions, key, false);
    }
    this.upcalls++;
    const answer = this.#events!.upcall({ worker: 0, inPort: key[W_IN_PORT]!, key, frame: new Uint8Array(length) });
    if (answer.actions === undefined) return { outputs: [], drop: 'upcall_unanswered', upcall: true };
    return this.#run(answer.actions, key, true);
  }

  #run(program: Uint32Array, key: Uint32Array, upcall: boolean): Verdict {
    const { outputs, drop } = runProgram(program, key);
    if (drop !== '') this.drops.set(drop, (this.drops.get(drop) ?? 0) + 1);
    return { outputs, drop, upcall };
  }

  /** Ids of the megaflows that a packet falls into. */
  matching(key: Uint32Array): number[] {
    const found: number[] = [];
    for (const { mask, words, ids } of this.#index.values()) {
      const id = ids.get(maskedText(words, key, mask));
      if (id !== undefined) found.push(id);
    }
    return found;
  }

  #insert(id: number, flow: Megaflow): void {
    const name = flow.mask.join();
    let table = this.#index.get(name);
    if (table === undefined) {
      const words = [...flow.mask.keys()].filter((w) => flow.mask[w] !== 0);
      this.#index.set(name, (table = { mask: flow.mask, words, ids: new Map() }));
    }
    const text = maskedText(table.words, flow.key, flow.mask);
    const old = table.ids.get(text);
    if (old !== undefined && old !== id) throw new Error(`megaflow ${id} is installed already as ${old}`);
    table.ids.set(text, id);
    this.flows.set(id, flow);
  }

  #remove(id: number): void {
    const flow = this.flows.get(id);
    if (flow === undefined) throw new Error(`no megaflow ${id}`);
    const name = flow.mask.join();
    const table = this.#index.get(name)!;
    table.ids.delete(maskedText(table.words, flow.key, flow.mask));
    if (table.ids.size === 0) this.#index.delete(name);
    this.flows.delete(id);
  }

  putFlow(flow: Megaflow): number {
    check(flow);
    const id = this.#free.shift() ?? this.#nextId++;
    this.#insert(id, flow);
    this.stats.set(id, { packets: 0, bytes: 0, used: 0, tcpFlags: 0 });
    this.puts++;
    return id;
  }

  setFlow(id: number, flow: Megaflow): void {
    check(flow);
    this.#remove(id);
    this.#insert(id, flow);
  }

  deleteFlow(id: number): void {
    this.#remove(id);
    this.deletes++;
    this.#freed.push(id);
  }

  flushFlows(): void {
    this.#freed.push(...this.flows.keys());
    this.flows.clear();
    this.#index.clear();
  }

  async barrier(): Promise<void> {
    this.#free.push(...this.#freed);
    this.#free.sort((a, b) => a - b);
    this.#freed = [];
  }

  flowStats(id: number, out: MegaflowStats): void {
    Object.assign(out, this.stats.get(id) ?? { packets: 0, bytes: 0, used: 0, tcpFlags: 0 });
  }

  /** Packets that the control plane sent of itself. */
  readonly executed: { readonly frame: Uint8Array; readonly outputs: readonly Output[] }[] = [];

  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void {
    const key = new Uint32Array(KEY_WORDS);
    key[W_IN_PORT] = inPort;
    this.executed.push({ frame: frame.slice(), outputs: runProgram(actions, key).outputs });
  }

  async addPort(config: DatapathPortConfig): Promise<number> {
    if (this.refusePort !== '') throw new Error(this.refusePort);
    let portNo = 1;
    while (this.portMap.has(portNo)) portNo++;
    this.portMap.set(portNo, { ...config, portNo, state: 'up', lastError: '', linkUp: true, facts: {} });
    return portNo;
  }

  async setPort(portNo: number, config: DatapathPortConfig): Promise<void> {
    this.portMap.set(portNo, { ...this.portMap.get(portNo)!, ...config });
  }

  async deletePort(portNo: number): Promise<void> {
    this.portMap.delete(portNo);
  }

  /** Link of a port goes up or down. */
  setLink(portNo: number, linkUp: boolean): void {
    const port = { ...this.portMap.get(portNo)!, linkUp };
    this.portMap.set(portNo, port);
    this.#events!.portStatus(port);
  }

  ports(): readonly DatapathPort[] {
    return [...this.portMap.values()];
  }

  portStatistics(): PortStatistics {
    return { counters: {} as PortStatistics['counters'], drops: {} };
  }

  async pmds(): Promise<readonly PmdInfo[]> {
    return [];
  }

  clearPmdCounters(): void {}

  async setOptions(): Promise<void> {}
}

function maskedText(words: readonly number[], key: Uint32Array, mask: Uint32Array): string {
  let text = '';
  for (const w of words) text += `${key[w]! & mask[w]!},`;
  return text;
}

/** What the data plane takes for granted. */
function check({ key, mask, actions }: Megaflow): void {
  if (key.length !== KEY_WORDS || mask.length !== KEY_WORDS) throw new Error('megaflow of a wrong length');
  if (mask[W_IN_PORT] !== 0xffffffff) throw new Error('megaflow without in_port');
  for (let w = 0; w < KEY_WORDS; w++)
    if ((key[w]! & ~mask[w]!) !== 0) throw new Error(`word ${w} lies outside its mask`);
  const problem = checkProgram(actions, KEY_WORDS);
  if (problem !== undefined) throw new Error(problem);
}
