// hot
/**
 * The way of a burst through the datapath, in order:
 *
 *   poll      rx queue → header windows in the scratch                                     (ports)
 *   classify  read what the port's flows ask for, find each packet's megaflow              (parse, cache, classifier)
 *   miss      packets without one go to the control plane, whole key read                  (onMiss)
 *   account   statistics of the flows that were hit
 *   act       run programs: edits in the scratch, outputs into lists                       (actions)
 *   transmit  push, copy, publish                                                          (outputs, ports)
 *   complete  give the source buffers back, clear the batch
 *
 * One pipeline per worker. In the steady state nothing is allocated.
 */
import { dropReason, workerCounter } from '#contract/catalogue.ts';
import { KEY_WORDS, W_IN_PORT, W_NW_MISC } from '#contract/flow-key.ts';
import { FLOW_ROW, type Lane } from '#contract/lane.ts';
import { VERDICT_DROP, VERDICT_EDITS, VERDICT_OUTPUT } from './actions/program.ts';
import { runProgram } from './actions/run.ts';
import { MatchCache } from './cache/match-cache.ts';
import { FlowTable } from './classifier/flow-table.ts';
import { Found, lookup } from './classifier/lookup.ts';
import type { PortFlows } from './classifier/port-flows.ts';
import { MAX_OUTPUTS, Outputs, type PortLookup } from './outputs.ts';
import { BURST, type PacketBatch } from './packet/batch.ts';
import type { RxQueue } from './packet/queues.ts';
import { NEED_ALL, NEED_NETWORK, NEED_NOTHING, NEED_TAGS } from './parse/need.ts';
import { parseBurst, parsePacket } from './parse/parse.ts';

const ROW = KEY_WORDS;
const MISC = W_NW_MISC;
const FLOW = FLOW_ROW;
const LIST = MAX_OUTPUTS;
const TAGS = NEED_TAGS;
const ALL = NEED_ALL;
const NETWORK = NEED_NETWORK;
const OUTPUT = VERDICT_OUTPUT;
const DROP = VERDICT_DROP;
const EDITS = VERDICT_EDITS;
const RX_PACKETS = workerCounter('rx_packets');
const SIMPLE_HITS = workerCounter('simple_hits');
const EMC_HITS = workerCounter('emc_hits');
const MEGAFLOW_HITS = workerCounter('megaflow_hits');
const MEGAFLOW_LOOKUPS = workerCounter('megaflow_lookups');
const MISSES = workerCounter('misses');
const UPCALLS = workerCounter('upcalls');
const LOST = workerCounter('lost');
const FLOWS = workerCounter('flows');
const MASKS = workerCounter('masks');
const UPCALL_UNANSWERED = dropReason('upcall_unanswered');

/** Bursts of a port between two rankings of its subtables. */
const RANK_EVERY = 512;

const addStats = (
  stats: Float64Array,
  row: number,
  packets: number,
  bytes: number,
  now: number,
  flags: number,
): void => {
  stats[row] = stats[row]! + packets;
  stats[row + 1] = stats[row + 1]! + bytes;
  stats[row + 2] = now;
  if (flags !== 0) stats[row + 3] = stats[row + 3]! | flags;
};

export interface PipelineEnv extends PortLookup {
  readonly batch: PacketBatch;
  /** Only its counters are written here. */
  readonly lane: Lane;
  /** clock[0]: milliseconds since the epoch, kept by the caller; an argument would be boxed once a burst. */
  readonly clock: Float64Array;
  /**
   * Hands a packet that no megaflow matched to the control plane; its key row is complete.
   * @returns 0 when it was queued, else the drop reason to count at its in_port.
   */
  onMiss(batch: PacketBatch, slot: number): number;
}

export class Pipeline {
  /** The megaflows; change them between bursts only, through `flowsChanged` for the gauges. */
  readonly flows = new FlowTable();
  readonly #env: PipelineEnv;
  readonly #batch: PacketBatch;
  readonly #worker: Float64Array;
  readonly #stats: Float64Array;
  readonly #outputs: Outputs;
  readonly #cache = new MatchCache();
  readonly #found = new Found();
  /** Slots that the match cache did not find. */
  readonly #uncached = new Int32Array(BURST);

  constructor(env: PipelineEnv) {
    this.#env = env;
    this.#batch = env.batch;
    this.#worker = env.lane.worker;
    this.#stats = env.lane.flows;
    this.#outputs = new Outputs(env.batch, env, env.lane.ports, env.lane.worker);
  }

  /** One burst from one rx queue. @returns its packets. */
  run(rx: RxQueue): number {
    const batch = this.#batch;
    const count = rx.poll(batch);
    if (count === 0) return 0;
    const worker = this.#worker;
    worker[RX_PACKETS] = worker[RX_PACKETS]! + count;
    const flows = this.flows.ports[batch.inPort];
    if (flows?.simple === true) {
      this.#shortCut(flows, count);
    } else {
      const misses = this.#classify(flows, count);
      if (misses > 0) this.#miss(misses);
      const need = flows === undefined ? NEED_NOTHING : flows.need;
      this.#account(count, (need & NETWORK) !== 0);
      this.#act(count, need);
    }
    this.#outputs.transmit();
    rx.complete();
    batch.clear();
    if (this.flows.growing.length > 0) this.flows.drain();
    return count;
  }

  /**
   * Runs the program words[from .. from + count - 1] on a packet of the batch: an answered upcall, a packet-out. Its
   * outputs wait for `flush`. The packet's slot is filled (see packet/place.ts), the batch's in_port set.
   */
  execute(slot: number, words: Uint32Array, from: number, count: number): void {
    const batch = this.#batch;
    parsePacket(batch, slot, ALL);
    const reason = runProgram(batch, slot, words, from, from + count, this.#outputs);
    if (reason !== 0) this.#outputs.drop(batch.inPort, reason, 1);
  }

  /** The control plane left the miss of `inPort` without an answer. */
  unanswered(inPort: number): void {
    this.#outputs.drop(inPort, UPCALL_UNANSWERED, 1);
  }

  /** Sends what `execute` put out and empties the batch. */
  flush(): void {
    this.#outputs.transmit();
    this.#batch.clear();
  }

  /** Brings the gauges up to date after flows were put or deleted. */
  flowsChanged(): void {
    this.#worker[FLOWS] = this.flows.count;
    this.#worker[MASKS] = this.flows.masks;
  }

  /** The port has one flow and it matches all of its packets: no header is read. */
  #shortCut(flows: PortFlows, count: number): void {
    const batch = this.#batch;
    const worker = this.#worker;
    const stats = this.#stats;
    const found = this.#found;
    const lengths = batch.length;
    found.pending[0] = 0;
    lookup(flows.subtables[0]!, batch.keys, found, 1);
    const id = found.id[0]!;
    const verdict = found.verdict[0]!;
    let bytes = 0;
    for (let slot = 0; slot < count; slot++) bytes += lengths[slot]!;
    const row = id * FLOW;
    stats[row] = stats[row]! + count;
    stats[row + 1] = stats[row + 1]! + bytes;
    stats[row + 2] = this.#env.clock[0]!;
    worker[SIMPLE_HITS] = worker[SIMPLE_HITS]! + count;
    if (verdict >>> 24 === OUTPUT) {
      const port = verdict & 0xffffff;
      const list = this.#outputs.touch(port);
      for (let slot = 0; slot < count; slot++) list[slot] = slot;
      this.#outputs.counts[port] = count;
      return;
    }
    for (let slot = 1; slot < count; slot++) {
      found.id[slot] = id;
      found.verdict[slot] = verdict;
    }
    this.#act(count, NEED_NOTHING);
  }

  /** Fills #found for slots 0..count-1. @returns packets without a megaflow; their slots are pending. */
  #classify(flows: PortFlows | undefined, count: number): number {
    const batch = this.#batch;
    const worker = this.#worker;
    const found = this.#found;
    const pending = found.pending;
    if (flows === undefined) {
      for (let slot = 0; slot < count; slot++) {
        found.id[slot] = -1;
        pending[slot] = slot;
      }
      return count;
    }
    const subtables = flows.subtables;
    parseBurst(batch, count, flows.need);
    for (let slot = 0; slot < count; slot++) pending[slot] = slot;
    let left = count;
    let uncached = 0;
    if (flows.cached) {
      left = this.#cache.lookup(this.flows, flows, batch.keys, found, left);
      uncached = left;
      for (let i = 0; i < left; i++) this.#uncached[i] = pending[i]!;
      worker[EMC_HITS] = worker[EMC_HITS]! + (count - left);
    }
    const searched = left;
    let searches = 0;
    for (let i = 0; i < subtables.length && left > 0; i++) {
      const before = left;
      left = lookup(subtables[i]!, batch.keys, found, left);
      searches += (before - left) * (i + 1);
    }
    worker[MEGAFLOW_HITS] = worker[MEGAFLOW_HITS]! + (searched - left);
    worker[MEGAFLOW_LOOKUPS] = worker[MEGAFLOW_LOOKUPS]! + searches;
    for (let i = 0; i < uncached; i++) {
      const slot = this.#uncached[i]!;
      if (found.id[slot]! >= 0) this.#cache.insert(slot, found.id[slot]!);
    }
    if (++flows.bursts >= RANK_EVERY) flows.rank();
    return left;
  }

  /** The pending slots of #found: their whole key is read, they go to the control plane. */
  #miss(misses: number): void {
    const batch = this.#batch;
    const worker = this.#worker;
    let lost = 0;
    for (let i = 0; i < misses; i++) {
      const slot = this.#found.pending[i]!;
      parsePacket(batch, slot, ALL);
      batch.keys[slot * ROW + W_IN_PORT] = batch.inPort;
      const reason = this.#env.onMiss(batch, slot);
      if (reason !== 0) {
        this.#outputs.drop(batch.inPort, reason, 1);
        lost++;
      }
    }
    worker[MISSES] = worker[MISSES]! + misses;
    worker[UPCALLS] = worker[UPCALLS]! + misses - lost;
    worker[LOST] = worker[LOST]! + lost;
  }

  /** Counts packets, bytes and time of the flows that were hit; TCP flags where the key has them. */
  #account(count: number, withTcpFlags: boolean): void {
    const batch = this.#batch;
    const stats = this.#stats;
    const ids = this.#found.id;
    const lengths = batch.length;
    const keys = batch.keys;
    const now = this.#env.clock[0]!;
    // Consecutive packets of one flow add up in locals: a sum that waits for its own store costs ten cycles a packet.
    let last = -1;
    let packets = 0;
    let bytes = 0;
    let flags = 0;
    for (let slot = 0; slot < count; slot++) {
      const id = ids[slot]!;
      if (id !== last) {
        if (last >= 0) addStats(stats, last * FLOW, packets, bytes, now, flags);
        last = id;
        packets = 0;
        bytes = 0;
        flags = 0;
      }
      packets++;
      bytes += lengths[slot]!;
      if (withTcpFlags) flags |= keys[slot * ROW + MISC]! & 0xfff;
    }
    if (last >= 0) addStats(stats, last * FLOW, packets, bytes, now, flags);
  }

  /** Runs the programs of the flows that were hit. */
  #act(count: number, need: number): void {
    const batch = this.#batch;
    const outputs = this.#outputs;
    const ids = this.#found.id;
    const verdicts = this.#found.verdict;
    const lists = outputs.lists;
    const counts = outputs.counts;
    // While packets leave by one port, its list and count stay in locals.
    let last = -1;
    let list = lists[0]!;
    let n = 0;
    for (let slot = 0; slot < count; slot++) {
      if (ids[slot]! < 0) continue;
      const verdict = verdicts[slot]!;
      const kind = verdict >>> 24;
      const operand = verdict & 0xffffff;
      if (kind === OUTPUT && operand === last && n < LIST) {
        list[n++] = slot;
        continue;
      }
      if (last >= 0) counts[last] = n;
      last = -1;
      if (kind === OUTPUT) {
        outputs.add(operand, slot);
        last = operand;
        list = lists[operand]!;
        n = counts[operand]!;
      } else if (kind === DROP) {
        outputs.drop(batch.inPort, operand & 0xff, 1);
      } else {
        if (kind === EDITS && (need & NETWORK) === 0) parsePacket(batch, slot, NETWORK | TAGS);
        const code = this.flows.programs.code[operand]!;
        const reason = runProgram(batch, slot, code, 0, code.length, outputs);
        if (reason !== 0) outputs.drop(batch.inPort, reason, 1);
      }
    }
    if (last >= 0) counts[last] = n;
  }
}
