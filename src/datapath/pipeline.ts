// hot
/**
 * The way of a burst through the datapath, in order:
 *
 *   poll      rx queue → header windows in the scratch                                     (ports)
 *   classify  read what the port's flows ask for, find and count each packet's megaflow    (parse, cache, classifier)
 *   miss      packets without one go to the control plane, whole key read                  (onMiss)
 *   act       run programs: edits in the scratch, outputs into lists                       (actions)
 *   again     packets that came out of a tunnel are classified and acted upon once more    (tunnel)
 *   transmit  push, copy, publish                                                          (outputs, ports)
 *   complete  give the source buffers back, clear the batch
 *
 * One pipeline per worker. In the steady state nothing is allocated.
 */
import { dropReason, workerCounter } from '#contract/catalogue.ts';
import { KEY_WORDS, W_IN_PORT, W_TUNNEL, W_TYPE } from '#contract/flow-key.ts';
import type { Lane } from '#contract/lane.ts';
import { VERDICT_DROP, VERDICT_EDITS, VERDICT_OUTPUT } from './actions/program.ts';
import { runProgram } from './actions/run.ts';
import { MatchCache } from './cache/match-cache.ts';
import { FlowStats } from './classifier/flow-stats.ts';
import { FlowTable } from './classifier/flow-table.ts';
import { foundId, foundVerdict, pendingSlots, runPackets } from './classifier/found.ts';
import { lookup } from './classifier/lookup.ts';
import type { PortFlows } from './classifier/port-flows.ts';
import { MAX_OUTPUTS, Outputs, type PortLookup } from './outputs.ts';
import { BURST, type BurstJournal, type PacketBatch, SLOTS } from './packet/batch.ts';
import type { RxQueue } from './packet/queues.ts';
import { NEED_ALL, NEED_NETWORK, NEED_NOTHING, NEED_TAGS } from './parse/need.ts';
import { parseBurst, parsePacket } from './parse/parse.ts';
import { findRuns, oneRun, singleRuns } from './parse/runs.ts';
import type { Finisher } from './tunnel/finisher.ts';
import { Recirculation } from './tunnel/recirculate.ts';
import { Tunnels } from './tunnel/tunnels.ts';

const ROW = KEY_WORDS;
const ids = foundId;
const verdicts = foundVerdict;
const pending = pendingSlots;
const runs = runPackets;
const TYPE = W_TYPE;
const TUNNEL = W_TUNNEL;
/** Slots for copies in use from which on they are freed before the next packet. */
const MANY_SLOTS = SLOTS >> 1;
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

/** Bursts that are not searched for runs after one that had few. */
const SCATTERED_BURSTS = 64;
/** Bursts of a port between two rankings of its subtables. */
const RANK_EVERY = 512;
/** Flow statistics reach the lane at least this often, in ms, while the worker runs. */
export const SWEEP_MS = 250;
/** Table rows swept a turn. */
const SWEEP_ROWS = 256;

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
  /** For packets that must be finished before they are wrapped. */
  readonly finisher: Finisher;
}

export class Pipeline {
  /** The megaflows; change them between bursts only, through `flowsChanged` for the gauges. */
  readonly flows: FlowTable;
  readonly #env: PipelineEnv;
  readonly #batch: PacketBatch;
  readonly #worker: Float64Array;
  readonly #stats: FlowStats;
  readonly #clock: Float64Array;
  /** clock[0] at which the next sweep begins. */
  readonly #nextSweep = new Float64Array(1);
  #sweeping = false;
  readonly #outputs: Outputs;
  readonly #tunnels: Tunnels;
  readonly #recirculation: Recirculation;
  readonly #cache = new MatchCache();
  /** Slots that the match cache did not find. */
  readonly #uncached = new Int32Array(BURST);

  constructor(env: PipelineEnv) {
    this.#env = env;
    this.#batch = env.batch;
    this.#worker = env.lane.worker;
    this.#stats = new FlowStats(env.lane.flows, env.clock);
    this.flows = new FlowTable(this.#stats);
    this.#clock = env.clock;
    this.#outputs = new Outputs(env.batch, env, env.lane.ports, env.lane.worker);
    this.#tunnels = new Tunnels(env.batch, env.finisher, env.lane.ports);
    this.#recirculation = new Recirculation(env, this.flows, this.#outputs, this.#tunnels);
  }

  /** One burst from one rx queue. @returns its packets. */
  run(rx: RxQueue): number {
    const batch = this.#batch;
    const flows = this.flows.ports[rx.portNo];
    // A frame left with its sender has its virtio-net header written in place, where no log of copies would see it.
    const count = rx.poll(batch, flows !== undefined && flows.untouched && batch.copyLogs.length === 0);
    if (count === 0) {
      this.#maintain();
      return 0;
    }
    const worker = this.#worker;
    worker[RX_PACKETS] = worker[RX_PACKETS]! + count;
    if (flows !== undefined && flows.simple) {
      this.#shortCut(flows, count);
    } else {
      const misses = this.#classify(flows, count);
      if (misses > 0) this.#miss(misses);
      const need = flows === undefined ? NEED_NOTHING : flows.need;
      this.#act(count, need);
    }
    if (this.#tunnels.waiting > 0) this.#recirculation.run();
    this.#outputs.transmit();
    rx.complete();
    if (batch.journal !== undefined) this.#done(batch.journal);
    batch.clear();
    this.#maintain();
    return count;
  }

  /**
   * Brings the lane's flow statistics up to date at once; else they are up to SWEEP_MS behind. For a worker that is about to
   * sleep longer than that, and where the control plane waits for exact numbers.
   */
  publishStats(): void {
    this.flows.sweepAll();
    this.#sweeping = false;
  }

  /** Small pieces of work that must be done some time, a little each turn. */
  #maintain(): void {
    const flows = this.flows;
    if (flows.growing.length > 0) flows.drain();
    if (this.#sweeping) {
      this.#sweeping = !flows.sweep(SWEEP_ROWS);
    } else if (this.#clock[0]! >= this.#nextSweep[0]!) {
      this.#nextSweep[0] = this.#clock[0]! + SWEEP_MS;
      this.#sweeping = true;
    }
  }

  /**
   * Runs the program words[from .. from + count - 1] on a packet of the batch: an answered upcall, a packet-out. Its
   * outputs wait for `flush`. The packet's slot is filled (see packet/place.ts), the batch's in_port set.
   */
  execute(slot: number, words: Uint32Array, from: number, count: number): void {
    const batch = this.#batch;
    parsePacket(batch, slot, ALL);
    const reason = runProgram(batch, slot, words, from, from + count, this.#outputs, this.#tunnels);
    if (reason !== 0) this.#outputs.drop(batch.inPort, reason, 1);
  }

  /** The control plane left the miss of `inPort` without an answer. */
  unanswered(inPort: number): void {
    this.lost(inPort, UPCALL_UNANSWERED);
  }

  /** A packet of `inPort` that lay outside of a batch is given up. */
  lost(inPort: number, reason: number): void {
    this.#outputs.drop(inPort, reason, 1);
  }

  /** Sends what `execute` put out and empties the batch. */
  flush(): void {
    if (this.#tunnels.waiting > 0) this.#recirculation.run();
    this.#outputs.transmit();
    if (this.#batch.journal !== undefined) this.#done(this.#batch.journal);
    this.#batch.clear();
  }

  /** Other workers may use the rings of this burst only when its decision about them is void. */
  #done(journal: BurstJournal): void {
    journal.done();
    this.#outputs.release();
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
    const lengths = batch.length;
    const subtable = flows.subtables[0]!;
    let bytes = 0;
    for (let slot = 0; slot < count; slot++) bytes += lengths[slot]!;
    oneRun(batch, count, bytes);
    lookup(subtable, batch, stats, 1, 0);
    const verdict = verdicts[0]!;
    worker[SIMPLE_HITS] = worker[SIMPLE_HITS]! + count;
    flows.untouched = verdict >>> 24 !== EDITS;
    if (verdict >>> 24 === OUTPUT) {
      const port = verdict & 0xffffff;
      const list = this.#outputs.touch(port);
      for (let slot = 0; slot < count; slot++) list[slot] = slot;
      this.#outputs.counts[port] = count;
      return;
    }
    this.#act(count, NEED_NOTHING);
  }

  /** Fills found.ts for the runs of slots 0..count-1. @returns runs without a megaflow; their leaders are pending. */
  #classify(flows: PortFlows | undefined, count: number): number {
    const batch = this.#batch;
    const worker = this.#worker;
    if (flows === undefined) {
      singleRuns(batch, count);
      for (let slot = 0; slot < count; slot++) ids[slot] = -1;
      return count;
    }
    let left = count;
    if (flows.scattered > 0) {
      flows.scattered--;
      singleRuns(batch, count);
    } else {
      left = findRuns(batch, count, flows.need, flows.union);
      if (left > count >> 1) flows.scattered = SCATTERED_BURSTS;
    }
    const subtables = flows.subtables;
    parseBurst(batch, left, flows.need, flows.words);
    const stats = this.#stats;
    const flags = (flows.need & NETWORK) === 0 ? 0 : 0xfff;
    let searched = count;
    let uncached = 0;
    if (flows.cached) {
      left = this.#cache.lookup(this.flows, flows, batch, left, flags);
      uncached = left;
      for (let i = 0; i < left; i++) this.#uncached[i] = pending[i]!;
      searched = pendingPackets(left);
      worker[EMC_HITS] = worker[EMC_HITS]! + (count - searched);
    }
    let missing = searched;
    let searches = 0;
    for (let i = 0; i < subtables.length && left > 0; i++) {
      left = lookup(subtables[i]!, batch, stats, left, flags);
      const after = pendingPackets(left);
      searches += (missing - after) * (i + 1);
      missing = after;
    }
    worker[MEGAFLOW_HITS] = worker[MEGAFLOW_HITS]! + (searched - missing);
    worker[MEGAFLOW_LOOKUPS] = worker[MEGAFLOW_LOOKUPS]! + searches;
    for (let i = 0; i < uncached; i++) {
      const slot = this.#uncached[i]!;
      if (ids[slot]! >= 0) this.#cache.insert(slot, ids[slot]!);
    }
    if (++flows.bursts >= RANK_EVERY) flows.rank();
    return left;
  }

  /** The packets of the pending runs: their whole keys are read, they go to the control plane. */
  #miss(pendingRuns: number): void {
    const batch = this.#batch;
    const worker = this.#worker;
    let misses = 0;
    let lost = 0;
    for (let i = 0; i < pendingRuns; i++) {
      const leader = pending[i]!;
      const end = leader + runs[leader]!;
      for (let slot = leader; slot < end; slot++) {
        parsePacket(batch, slot, ALL);
        batch.keys[slot * ROW + W_IN_PORT] = batch.inPort;
        batch.keys.fill(0, slot * ROW + TUNNEL, (slot + 1) * ROW);
        const reason = this.#env.onMiss(batch, slot);
        misses++;
        if (reason !== 0) {
          this.#outputs.drop(batch.inPort, reason, 1);
          lost++;
        }
      }
    }
    worker[MISSES] = worker[MISSES]! + misses;
    worker[UPCALLS] = worker[UPCALLS]! + misses - lost;
    worker[LOST] = worker[LOST]! + lost;
  }

  /** Runs the programs of the flows that were hit. */
  #act(count: number, need: number): void {
    const batch = this.#batch;
    const outputs = this.#outputs;
    const lists = outputs.lists;
    const counts = outputs.counts;
    // While packets leave by one port, its list and count stay in locals.
    let last = -1;
    let list = lists[0]!;
    let n = 0;
    let end = 0;
    for (let leader = 0; leader < count; leader = end) {
      end = leader + runs[leader]!;
      if (ids[leader]! < 0) continue;
      const verdict = verdicts[leader]!;
      const kind = verdict >>> 24;
      const operand = verdict & 0xffffff;
      if (kind === OUTPUT) {
        let slot = leader;
        if (operand === last && n < LIST) {
          list[n++] = slot++;
          if (slot === end) continue;
        }
        if (operand !== last) {
          if (last >= 0) counts[last] = n;
          outputs.add(operand, slot++);
          last = operand;
          list = lists[operand]!;
          n = counts[operand]!;
        }
        for (; slot < end && n < LIST; slot++) list[n++] = slot;
        if (slot === end) continue;
        counts[last] = n;
        for (; slot < end; slot++) outputs.add(operand, slot);
        n = counts[last]!;
        continue;
      }
      if (last >= 0) counts[last] = n;
      last = -1;
      if (kind === DROP) outputs.drop(batch.inPort, operand & 0xff, end - leader);
      else this.#runPrograms(leader, end, kind, operand, need);
    }
    if (last >= 0) counts[last] = n;
  }

  /** Runs a program on the packets of one run. */
  #runPrograms(leader: number, end: number, kind: number, operand: number, need: number): void {
    const batch = this.#batch;
    const outputs = this.#outputs;
    const code = this.flows.programs.code[operand]!;
    for (let slot = leader; slot < end; slot++) {
      if (batch.nextSlot > MANY_SLOTS && this.#tunnels.waiting === 0) {
        // What uses the slots for copies leaves, for the next packets to have them.
        outputs.part();
        batch.nextSlot = BURST;
      }
      if (kind === EDITS && (need & NETWORK) === 0) {
        parsePacket(batch, slot, NETWORK | TAGS);
      } else if (slot !== leader) {
        batch.l3[slot] = batch.l3[leader]!;
        batch.l4[slot] = batch.l4[leader]!;
        batch.keys[slot * ROW + TYPE] = batch.keys[leader * ROW + TYPE]!;
      }
      const reason = runProgram(batch, slot, code, 0, code.length, outputs, this.#tunnels);
      if (reason !== 0) outputs.drop(batch.inPort, reason, 1);
    }
  }
}

/** Packets of the runs pendingSlots[0..left-1]. */
const pendingPackets = (left: number): number => {
  let packets = 0;
  for (let i = 0; i < left; i++) packets += runs[pending[i]!]!;
  return packets;
};
