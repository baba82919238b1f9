// hot
/**
 * Packets out of tunnels are looked up anew, as received at their tunnel port, and acted upon. Packets that come out of a
 * tunnel inside a tunnel go round again, a bounded number of times.
 */
import { dropReason, workerCounter } from '#contract/catalogue.ts';
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import type { Lane } from '#contract/lane.ts';
import { VERDICT_DROP, VERDICT_EDITS, VERDICT_OUTPUT } from '../actions/program.ts';
import { runProgram } from '../actions/run.ts';
import type { FlowTable } from '../classifier/flow-table.ts';
import { lookupOne } from '../classifier/lookup-one.ts';
import type { Outputs } from '../outputs.ts';
import { type PacketBatch, SLOTS } from '../packet/batch.ts';
import { NEED_ALL, NEED_NETWORK, NEED_TAGS } from '../parse/need.ts';
import { parsePacket } from '../parse/parse.ts';
import type { Tunnels } from './tunnels.ts';

const ROW = KEY_WORDS;
const IN_PORT = W_IN_PORT;
const ALL = NEED_ALL;
const NETWORK = NEED_NETWORK;
const TAGS = NEED_TAGS;
const OUTPUT = VERDICT_OUTPUT;
const DROP = VERDICT_DROP;
const EDITS = VERDICT_EDITS;
const RECIRCULATED = workerCounter('recirculated');
const MEGAFLOW_HITS = workerCounter('megaflow_hits');
const MEGAFLOW_LOOKUPS = workerCounter('megaflow_lookups');
const MISSES = workerCounter('misses');
const UPCALLS = workerCounter('upcalls');
const LOST = workerCounter('lost');
const TOO_DEEP = dropReason('translation_error');
const parse = parsePacket;
const find = lookupOne;

/** Tunnels inside each other, at most (MAX_RECIRC_DEPTH of Open vSwitch). */
const MAX_ROUNDS = 6;

/** What a pipeline has of this. */
export interface RecirculationEnv {
  readonly batch: PacketBatch;
  readonly lane: Lane;
  onMiss(batch: PacketBatch, slot: number): number;
}

export class Recirculation {
  readonly #env: RecirculationEnv;
  readonly #worker: Float64Array;
  readonly #flows: FlowTable;
  readonly #outputs: Outputs;
  readonly #tunnels: Tunnels;
  readonly #slots = new Int32Array(SLOTS);
  readonly #ports = new Int32Array(SLOTS);

  constructor(env: RecirculationEnv, flows: FlowTable, outputs: Outputs, tunnels: Tunnels) {
    this.#env = env;
    this.#worker = env.lane.worker;
    this.#flows = flows;
    this.#outputs = outputs;
    this.#tunnels = tunnels;
  }

  /** Works off the packets that wait. The batch's in_port is as before afterwards. */
  run(): void {
    const batch = this.#env.batch;
    const tunnels = this.#tunnels;
    const worker = this.#worker;
    const slots = this.#slots;
    const ports = this.#ports;
    const inPort = batch.inPort;
    for (let round = 0; tunnels.waiting > 0; round++) {
      const count = tunnels.waiting;
      for (let i = 0; i < count; i++) {
        slots[i] = tunnels.slots[i]!;
        ports[i] = tunnels.ports[i]!;
      }
      tunnels.waiting = 0;
      worker[RECIRCULATED] = worker[RECIRCULATED]! + count;
      for (let i = 0; i < count; i++) {
        batch.inPort = ports[i]!;
        if (round < MAX_ROUNDS) this.#pass(slots[i]!);
        else this.#outputs.drop(batch.inPort, TOO_DEEP, 1);
      }
    }
    batch.inPort = inPort;
  }

  #pass(slot: number): void {
    const batch = this.#env.batch;
    const worker = this.#worker;
    const flows = this.#flows.ports[batch.inPort];
    if (flows === undefined) return this.#miss(slot);
    const need = flows.need;
    parse(batch, slot, need);
    const subtables = flows.subtables;
    const flags = (need & NETWORK) === 0 ? 0 : 0xfff;
    let verdict = 0;
    for (let i = 0; i < subtables.length && verdict === 0; i++) {
      verdict = find(subtables[i]!, batch, this.#flows.stats, slot, flags);
      worker[MEGAFLOW_LOOKUPS] = worker[MEGAFLOW_LOOKUPS]! + 1;
    }
    if (verdict === 0) return this.#miss(slot);
    worker[MEGAFLOW_HITS] = worker[MEGAFLOW_HITS]! + 1;
    this.#act(slot, verdict, need);
  }

  #act(slot: number, verdict: number, need: number): void {
    const batch = this.#env.batch;
    const outputs = this.#outputs;
    const kind = verdict >>> 24;
    const operand = verdict & 0xffffff;
    if (kind === OUTPUT) return outputs.add(operand, slot);
    if (kind === DROP) return outputs.drop(batch.inPort, operand & 0xff, 1);
    if (kind === EDITS && (need & NETWORK) === 0) parse(batch, slot, NETWORK | TAGS);
    const code = this.#flows.programs.code[operand]!;
    const reason = runProgram(batch, slot, code, 0, code.length, outputs, this.#tunnels);
    if (reason !== 0) outputs.drop(batch.inPort, reason, 1);
  }

  #miss(slot: number): void {
    const batch = this.#env.batch;
    const worker = this.#worker;
    parse(batch, slot, ALL);
    batch.keys[slot * ROW + IN_PORT] = batch.inPort;
    worker[MISSES] = worker[MISSES]! + 1;
    const reason = this.#env.onMiss(batch, slot);
    if (reason === 0) {
      worker[UPCALLS] = worker[UPCALLS]! + 1;
      return;
    }
    worker[LOST] = worker[LOST]! + 1;
    this.#outputs.drop(batch.inPort, reason, 1);
  }
}
