/**
 * The VLAN tags of a packet in translation: what actions made of them, and what the program has made of them so far. Both are
 * stacks of cells with identities, innermost first: the program pops and pushes only above the innermost cells that both
 * share, and a changed tag that stays is set in place.
 */
import { popVlan, pushVlan, set } from '#contract/actions.ts';
import { VLAN_PRESENT, W_VLAN, W_VLAN_INNER } from '#contract/flow-key.ts';

const MAX_TAGS = 8;

/** One tag: TPID and TCI as in the key words, which of its bits are constants, and the key word it came in by. */
interface Tag {
  readonly id: number;
  /** W_VLAN or W_VLAN_INNER for a tag of the packet, -1 for one pushed. */
  readonly origin: number;
  value: number;
  written: number;
}

/** Tags of a flow, to be put back later. */
export type SavedTags = readonly Tag[];

/** Both stacks, to be put back later. */
export interface SavedStacks {
  readonly known: boolean;
  readonly tags: Tag[];
  readonly base: Tag[];
}

const copies = (tags: readonly Tag[]): Tag[] => tags.map((tag) => ({ ...tag }));

export class TagStack {
  /** False: nothing has touched the tags, and the key's two words tell all that matters. */
  known = false;
  #tags: Tag[] = [];
  #base: Tag[] = [];
  #nextId = 1;

  reset(): void {
    if (!this.known) return;
    this.#tags = [];
    this.#base = [];
    this.known = false;
  }

  /** Takes the tags of the packet as received from its key. @param wc bits that were looked at; added to. */
  learn(flow: Uint32Array, wc: Uint32Array): void {
    this.known = true;
    wc[W_VLAN]! |= VLAN_PRESENT;
    if ((flow[W_VLAN]! & VLAN_PRESENT) === 0) return;
    wc[W_VLAN_INNER]! |= VLAN_PRESENT;
    for (const origin of [W_VLAN_INNER, W_VLAN]) {
      const value = flow[origin]!;
      if ((value & VLAN_PRESENT) === 0) continue;
      const id = this.#nextId++;
      this.#tags.push({ id, origin, value, written: 0 });
      this.#base.push({ id, origin, value, written: 0 });
    }
  }

  /** Writes the two outermost tags into a key. */
  show(flow: Uint32Array): void {
    const depth = this.#tags.length;
    flow[W_VLAN] = depth > 0 ? this.#tags[depth - 1]!.value : 0;
    flow[W_VLAN_INNER] = depth > 1 ? this.#tags[depth - 2]!.value : 0;
  }

  /** Notes in `wc` that bits of W_VLAN or W_VLAN_INNER of the flow matter. */
  look(word: number, bits: number, wc: Uint32Array): void {
    const tag = this.#tags[this.#tags.length - (word === W_VLAN ? 1 : 2)];
    if (tag !== undefined && tag.origin >= 0) wc[tag.origin]! |= bits & ~tag.written;
  }

  /** @returns false when there are more tags than can be kept. */
  push(tpid: number, tci: number): boolean {
    if (this.#tags.length >= MAX_TAGS) return false;
    const value = ((tpid << 16) | (tci & 0xffff) | VLAN_PRESENT) >>> 0;
    this.#tags.push({ id: this.#nextId++, origin: -1, value, written: -1 });
    return true;
  }

  pop(): void {
    this.#tags.pop();
  }

  /** Sets bits of the outermost tag; pushes or pops one as VLAN_PRESENT says. */
  write(value: number, mask: number): void {
    const tag = this.#tags[this.#tags.length - 1];
    if (tag === undefined) {
      if ((value & mask & VLAN_PRESENT) !== 0) this.push(0x8100, value & mask);
      return;
    }
    if ((mask & VLAN_PRESENT) !== 0 && (value & VLAN_PRESENT) === 0) {
      this.pop();
      return;
    }
    const bits = mask & ~VLAN_PRESENT;
    tag.value = ((tag.value & ~bits) | (value & bits)) >>> 0;
    tag.written |= bits;
  }

  save(): SavedTags {
    return copies(this.#tags);
  }

  restore(saved: SavedTags): void {
    this.#tags = copies(saved);
  }

  /** The tags are those of the packet as received again, which `flow` holds. */
  restoreReceived(flow: Uint32Array): void {
    this.#tags = [];
    for (const origin of [W_VLAN_INNER, W_VLAN]) {
      const own = flow[origin]!;
      if ((own & VLAN_PRESENT) === 0) continue;
      const id = this.#base.find((tag) => tag.origin === origin)?.id ?? this.#nextId++;
      this.#tags.push({ id, origin, value: own, written: 0 });
    }
  }

  /** Goes on with a packet without tags. @returns what `leave` needs to go back. */
  enter(): SavedStacks {
    const outer = { known: this.known, tags: this.#tags, base: this.#base };
    this.known = true;
    this.#tags = [];
    this.#base = [];
    return outer;
  }

  leave(outer: SavedStacks): void {
    this.known = outer.known;
    this.#tags = outer.tags;
    this.#base = outer.base;
  }

  /** Emits what makes the packet's tags those of the flow. @returns false when the program is full. */
  commit(wc: Uint32Array, emit: (words: number[]) => boolean): boolean {
    const tags = this.#tags;
    const base = this.#base;
    let common = 0;
    while (common < tags.length && common < base.length && tags[common]!.id === base[common]!.id) common++;
    let fits = true;
    while (base.length > common) {
      base.pop();
      fits &&= emit(popVlan());
    }
    if (common > 0) {
      const tag = tags[common - 1]!;
      const own = base[common - 1]!;
      const undo = own.written & ~tag.written;
      if (tag.origin >= 0) wc[tag.origin]! |= undo;
      const differs = own.value ^ tag.value;
      const known = tag.origin >= 0 ? wc[tag.origin]! : -1;
      const bits = (tag.written & ~own.written & ~(known & ~differs)) | (own.written & differs);
      own.written = (own.written & ~undo) | (bits & tag.written);
      own.value = ((own.value & ~bits) | (tag.value & bits)) >>> 0;
      if (bits !== 0) fits &&= emit(set(W_VLAN, tag.value, bits));
    }
    for (let i = common; i < tags.length; i++) {
      const tag = tags[i]!;
      if (tag.origin >= 0) wc[tag.origin]! |= ~tag.written;
      base.push({ id: tag.id, origin: tag.origin, value: tag.value, written: -1 });
      fits &&= emit(pushVlan(tag.value >>> 16, tag.value & 0xffff));
    }
    return fits;
  }
}
