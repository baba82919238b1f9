/**
 * The megaflows that this control plane installed: what they depend on, who is credited with their packets, and indices to
 * find those that a change may concern.
 *
 * Megaflows with the same mask share a MaskClass, which finds an equal one by hash and shares the mask's array.
 */
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import type { Bridge } from './bridge.ts';
import type { Megaflow } from './datapath.ts';
import { mix } from './subtable.ts';
import type { Credit } from './table.ts';
import type { MacUse, Pipeline } from './translate.ts';

/** Programs kept for sharing. */
const MAX_SHARED_PROGRAMS = 16_384;

export class MaskClass {
  readonly mask: Uint32Array;
  readonly words: number[] = [];
  readonly masks: number[] = [];
  readonly hash: number;
  readonly flows = new Map<number, InstalledFlow>();
  count = 0;
  /** Megaflows of which some table saw words that actions had written. */
  edited = 0;

  constructor(mask: Uint32Array, hash: number) {
    this.mask = mask;
    this.hash = hash;
    for (let w = 0; w < KEY_WORDS; w++) {
      if (mask[w] === 0) continue;
      this.words.push(w);
      this.masks.push(mask[w]! | 0);
    }
  }

  /** Whether these masks have all bits of this one's, in_port apart. */
  isWithin(masks: Uint32Array): boolean {
    for (let i = 0; i < this.words.length; i++) {
      const w = this.words[i]!;
      if (w !== W_IN_PORT && (this.masks[i]! & ~masks[w]!) !== 0) return false;
    }
    return true;
  }

  keyHash(key: Uint32Array): number {
    let h = 0;
    for (let i = 0; i < this.words.length; i++) h = mix(h, key[this.words[i]!]! & this.masks[i]!);
    return h;
  }

  matches(flow: Megaflow, key: Uint32Array): boolean {
    for (let i = 0; i < this.words.length; i++) {
      const w = this.words[i]!;
      if (((flow.key[w]! ^ key[w]!) & this.masks[i]!) !== 0) return false;
    }
    return true;
  }
}

export class InstalledFlow {
  readonly id: number;
  readonly bridge: Bridge;
  /** OpenFlow in_port. */
  readonly ofport: number;
  readonly maskClass: MaskClass;
  readonly hash: number;
  /** Next of the same hash in the class. */
  next: InstalledFlow | undefined = undefined;
  flow: Megaflow;
  credits: readonly Credit[] = [];
  macs: readonly MacUse[] = [];
  tableBits = 0;
  usedGroups = false;
  editedWords = 0;
  /** Its packets are wrapped for a tunnel. */
  encapsulates = false;
  /** Bridges besides its own that its packets go through. */
  crossed: readonly Pipeline[] = [];
  /** As of the last look at the statistics. */
  packets = 0;
  bytes = 0;
  tcpFlags = 0;
  /** Last packet, ms; 0 = none yet. */
  used = 0;
  readonly created: number;
  installed = true;
  /** Number of the barrier after which its statistics are its own. */
  countsFrom = 0;

  constructor(
    id: number,
    bridge: Bridge,
    ofport: number,
    maskClass: MaskClass,
    hash: number,
    flow: Megaflow,
    now: number,
  ) {
    this.id = id;
    this.bridge = bridge;
    this.ofport = ofport;
    this.maskClass = maskClass;
    this.hash = hash;
    this.flow = flow;
    this.created = now;
  }

  /** Whether its packets go through a bridge. */
  visits(bridge: Pipeline): boolean {
    return this.bridge === bridge || this.crossed.includes(bridge);
  }
}

export class MegaflowTable {
  readonly byId = new Map<number, InstalledFlow>();
  readonly #classes = new Map<number, MaskClass[]>();
  readonly #programs = new Map<number, Uint32Array>();

  get size(): number {
    return this.byId.size;
  }

  *classes(): Iterable<MaskClass> {
    for (const list of this.#classes.values()) yield* list;
  }

  /** The class of a mask (its first KEY_WORDS words). */
  classOf(wc: Uint32Array): MaskClass {
    let h = 0;
    for (let w = 0; w < KEY_WORDS; w++) if (wc[w] !== 0) h = mix(mix(h, w), wc[w]!);
    let list = this.#classes.get(h);
    if (list === undefined) this.#classes.set(h, (list = []));
    search: for (const each of list) {
      for (let w = 0; w < KEY_WORDS; w++) if (each.mask[w] !== wc[w]) continue search;
      return each;
    }
    const made = new MaskClass(wc.slice(0, KEY_WORDS), h);
    list.push(made);
    return made;
  }

  /** The megaflow of this class that a datapath key falls into. */
  find(maskClass: MaskClass, hash: number, key: Uint32Array): InstalledFlow | undefined {
    let flow = maskClass.flows.get(hash);
    while (flow !== undefined && !maskClass.matches(flow.flow, key)) flow = flow.next;
    return flow;
  }

  add(flow: InstalledFlow): void {
    const { maskClass } = flow;
    flow.next = maskClass.flows.get(flow.hash);
    maskClass.flows.set(flow.hash, flow);
    if (maskClass.count++ === 0) {
      const list = this.#classes.get(maskClass.hash);
      if (list === undefined) this.#classes.set(maskClass.hash, [maskClass]);
      else if (!list.includes(maskClass)) list.push(maskClass);
    }
    this.byId.set(flow.id, flow);
  }

  remove(flow: InstalledFlow): void {
    const { maskClass } = flow;
    let at = maskClass.flows.get(flow.hash);
    if (at === flow) {
      if (flow.next === undefined) maskClass.flows.delete(flow.hash);
      else maskClass.flows.set(flow.hash, flow.next);
    } else {
      while (at !== undefined && at.next !== flow) at = at.next;
      if (at !== undefined) at.next = flow.next;
    }
    flow.next = undefined;
    flow.installed = false;
    if (flow.editedWords !== 0) maskClass.edited--;
    this.byId.delete(flow.id);
    if (--maskClass.count === 0) this.#forget(maskClass);
  }

  #forget(maskClass: MaskClass): void {
    const list = this.#classes.get(maskClass.hash);
    if (list === undefined) return;
    list.splice(list.indexOf(maskClass), 1);
    if (list.length === 0) this.#classes.delete(maskClass.hash);
  }

  /** A program as a typed array, shared by all megaflows that have the same. */
  program(words: readonly number[]): Uint32Array {
    let h = words.length;
    for (let i = 0; i < words.length; i++) h = mix(h, words[i]!);
    const known = this.#programs.get(h);
    if (known !== undefined && sameWords(known, words)) return known;
    if (this.#programs.size >= MAX_SHARED_PROGRAMS) this.#programs.clear();
    const made = Uint32Array.from(words);
    this.#programs.set(h, made);
    return made;
  }
}

export const sameWords = (a: ArrayLike<number>, b: ArrayLike<number>): boolean => {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
};
