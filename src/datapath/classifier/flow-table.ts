/**
 * The megaflow table of one worker: flows by id, subtables by port and mask, programs.
 *
 * Changed by FLOW_PUT, FLOW_DELETE and FLOW_FLUSH between bursts, on the worker's own thread; read by lookups
 * (classifier/lookup.ts, cache/match-cache.ts). Memory grows with the highest flow id and the number of flows.
 *
 * Two flows of a port may overlap while the control plane exchanges them; a packet then hits either.
 */
import { KEY_WORDS, W_IN_PORT, W_RECIRC_ID } from '#contract/flow-key.ts';
import { MAX_FLOWS, MAX_PORTS } from '#contract/lane.ts';
import { Programs } from '../actions/program.ts';
import type { FlowStats } from './flow-stats.ts';
import { hashFinish, hashWord } from './hash.ts';
import { PortFlows } from './port-flows.ts';
import { Subtable } from './subtable.ts';

/** A flow as it was put. */
export interface FlowRecord {
  readonly id: number;
  /** KEY_WORDS words; lies within `mask`. */
  readonly key: Uint32Array;
  readonly mask: Uint32Array;
  /** Contract action words. */
  readonly program: Uint32Array;
}

const FIRST_IDS = 1024;
/** Rows that one burst moves over for each table that grows. */
const DRAIN_ROWS = 32;

export class FlowTable {
  readonly stats: FlowStats;
  readonly programs = new Programs();
  /** Flows of in_port p; undefined: none. */
  readonly ports: (PortFlows | undefined)[] = new Array(MAX_PORTS).fill(undefined);
  /** By index; undefined: free index. */
  readonly subtables: (Subtable | undefined)[] = [];
  /** Index of a flow's subtable, or -1: no such flow. */
  subtableOf = new Int32Array(FIRST_IDS).fill(-1);
  /** Where its entry is (see Subtable). */
  home = new Int32Array(FIRST_IDS);
  /** Flows installed. */
  count = 0;
  /** Subtables. */
  masks = 0;
  /** Subtables that are growing. */
  readonly growing: Subtable[] = [];
  readonly #byMask = new Map<number, Subtable[]>();
  readonly #free: number[] = [];
  /** Where the sweep is: subtable index and row. */
  #sweepIndex = 0;
  #sweepRow = 0;
  readonly #key = new Uint32Array(KEY_WORDS);
  readonly #mask = new Uint32Array(KEY_WORDS);

  constructor(stats: FlowStats) {
    this.stats = stats;
  }

  /**
   * Installs or replaces a flow: n triples (key word, value, mask) at words[at..], program at words[at + 3n .. + m].
   * A flow of another id with the same match gives way to this one.
   * @throws RangeError for an id, port or key word out of range or a mask that does not cover in_port.
   */
  put(id: number, words: ArrayLike<number>, at: number, n: number, m: number): void {
    if (!(id >= 0 && id < MAX_FLOWS)) throw new RangeError(`flow id ${id}`);
    const key = this.#key.fill(0);
    const mask = this.#mask.fill(0);
    for (let i = at; i < at + 3 * n; i += 3) {
      const word = words[i]!;
      if (word >= KEY_WORDS) throw new RangeError(`flow ${id} matches key word ${word}`);
      mask[word] = words[i + 2]!;
      key[word] = words[i + 1]! & words[i + 2]!;
    }
    const port = key[W_IN_PORT]!;
    if (mask[W_IN_PORT] !== 0xffffffff || port >= MAX_PORTS) throw new RangeError(`flow ${id} must match one in_port`);
    this.#reserve(id);
    // The new program is taken before the old one is let go: the same words stay shared.
    const verdict = this.programs.add(words, at + 3 * n, m);
    const subtable = this.#subtable(port, key, mask);
    const before = this.subtableOf[id]!;
    if (before < 0) this.stats.reset(id);
    else if (!(before === subtable.index && subtable.hasKey(id, key))) this.#take(id, subtable);
    const growing = subtable.draining;
    const previous = subtable.insert(id, key, verdict);
    // Found anew by the next burst.
    this.ports[port]!.untouched = false;
    if (previous >= 0) {
      this.programs.release(subtable.replacedVerdict);
      this.subtableOf[previous] = -1;
    } else {
      this.count++;
    }
    this.subtableOf[id] = subtable.index;
    if (!growing && subtable.draining) this.#grows(subtable);
  }

  /** Takes a flow out. @returns false when there is none of that id. */
  delete(id: number): boolean {
    const index = id >= 0 && id < this.subtableOf.length ? this.subtableOf[id]! : -1;
    if (index < 0) return false;
    this.#take(id, undefined);
    return true;
  }

  /** Takes all flows out. */
  flush(): void {
    this.sweepAll();
    this.ports.fill(undefined);
    this.subtables.length = 0;
    this.growing.length = 0;
    this.#free.length = 0;
    this.#byMask.clear();
    this.subtableOf = new Int32Array(FIRST_IDS).fill(-1);
    this.home = new Int32Array(FIRST_IDS);
    this.programs.clear();
    this.count = 0;
    this.masks = 0;
  }

  /** All flows, for adoption by a control plane that starts again. */
  *dump(): Generator<FlowRecord> {
    for (let id = 0; id < this.subtableOf.length; id++) {
      const record = this.get(id);
      if (record !== undefined) yield record;
    }
  }

  /** One flow as it was put. */
  get(id: number): FlowRecord | undefined {
    const index = id >= 0 && id < this.subtableOf.length ? this.subtableOf[id]! : -1;
    if (index < 0) return undefined;
    const subtable = this.subtables[index]!;
    const key = new Uint32Array(KEY_WORDS);
    subtable.readKey(id, key);
    key[W_IN_PORT] = subtable.port;
    return { id, key, mask: subtable.mask.slice(), program: this.programs.wordsOf(subtable.verdict(id)).slice() };
  }

  /** Moves tables that grow a little further; once a burst. */
  drain(): void {
    const list = this.growing;
    for (let i = list.length - 1; i >= 0; i--) {
      list[i]!.drain(DRAIN_ROWS);
      if (!list[i]!.draining) {
        list[i] = list[list.length - 1]!;
        list.length--;
      }
    }
  }

  /** Takes out a flow that is there; its subtable goes when it is empty, unless it is `keep`. */
  #take(id: number, keep: Subtable | undefined): void {
    const subtable = this.subtables[this.subtableOf[id]!]!;
    const growing = subtable.draining;
    this.programs.release(subtable.remove(id));
    this.subtableOf[id] = -1;
    this.count--;
    if (subtable.count === 0 && subtable !== keep) this.#dropSubtable(subtable);
    else if (!growing && subtable.draining) this.#grows(subtable);
  }

  /** Carries statistics of up to about `rows` rows over to the lane. @returns true when it has been through all. */
  sweep(rows: number): boolean {
    const list = this.subtables;
    for (let left = rows; left > 0; left -= rows >> 2) {
      if (this.#sweepIndex >= list.length) {
        this.#sweepIndex = 0;
        this.#sweepRow = 0;
        return true;
      }
      const subtable = list[this.#sweepIndex];
      if (subtable === undefined || (!subtable.touched && this.#sweepRow === 0) || this.#sweepRow > subtable.rowMask) {
        this.#sweepIndex++;
        this.#sweepRow = 0;
      } else {
        subtable.touched = subtable.draining;
        subtable.sweep(this.#sweepRow, rows >> 2);
        this.#sweepRow += rows >> 2;
      }
    }
    return false;
  }

  /** Brings the lane's statistics wholly up to date. */
  sweepAll(): void {
    for (let i = 0; i < this.subtables.length; i++) {
      const subtable = this.subtables[i];
      if (subtable === undefined) continue;
      subtable.drain(subtable.oldRowMask);
      if (subtable.touched) subtable.sweep(0, subtable.rowMask + 1);
      subtable.touched = false;
    }
    this.#sweepIndex = 0;
    this.#sweepRow = 0;
  }

  #grows(subtable: Subtable): void {
    if (!this.growing.includes(subtable)) this.growing.push(subtable);
  }

  #reserve(id: number): void {
    if (id < this.home.length) return;
    const size = Math.min(MAX_FLOWS, 2 ** Math.ceil(Math.log2(id + 1)));
    const home = new Int32Array(size);
    home.set(this.home);
    this.home = home;
    const subtableOf = new Int32Array(size).fill(-1);
    subtableOf.set(this.subtableOf);
    this.subtableOf = subtableOf;
  }

  #subtable(port: number, key: Uint32Array, mask: Uint32Array): Subtable {
    let hash = port;
    for (let word = 0; word < KEY_WORDS; word++) hash = hashWord(hash, mask[word]!);
    // A packet enters with recirc_id 0, so asking for 0 compares nothing; those who ask for more keep a table of their own.
    const recirculated = key[W_RECIRC_ID] !== 0;
    hash = hashFinish(recirculated ? ~hash : hash);
    let list = this.#byMask.get(hash);
    if (list === undefined) this.#byMask.set(hash, (list = []));
    for (const subtable of list) {
      const asks = subtable.words.includes(W_RECIRC_ID) && subtable.bits[subtable.words.indexOf(W_RECIRC_ID)] !== 0;
      if (subtable.port === port && asks === recirculated && subtable.mask.every((bits, i) => bits === mask[i])) {
        return subtable;
      }
    }
    const compared = mask.slice();
    if (!recirculated) compared[W_RECIRC_ID] = 0;
    const index = this.#free.pop() ?? this.subtables.length;
    const subtable = new Subtable(port, index, mask.slice(), compared, this);
    this.subtables[index] = subtable;
    list.push(subtable);
    let flows = this.ports[port];
    if (flows === undefined) this.ports[port] = flows = new PortFlows(port);
    flows.add(subtable);
    this.masks++;
    return subtable;
  }

  #dropSubtable(subtable: Subtable): void {
    this.subtables[subtable.index] = undefined;
    this.#free.push(subtable.index);
    for (const [hash, list] of this.#byMask) {
      const at = list.indexOf(subtable);
      if (at < 0) continue;
      list.splice(at, 1);
      if (list.length === 0) this.#byMask.delete(hash);
      break;
    }
    const growing = this.growing.indexOf(subtable);
    if (growing >= 0) this.growing.splice(growing, 1);
    const flows = this.ports[subtable.port]!;
    flows.remove(subtable);
    if (flows.subtables.length === 0) this.ports[subtable.port] = undefined;
    this.masks--;
  }
}
