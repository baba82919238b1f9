/**
 * The packet while its translation goes on: what actions made of it, what the datapath program has done so far, and which
 * bits of the packet as received had a say in it.
 *
 * `flow` is the key as the pipeline sees it, `base` the key that a packet has after the program emitted so far. Edits change
 * `flow` only; an output first emits what turns `base` into `flow`. So an edit that nothing is sent after costs nothing.
 *
 * A bit is "looked at" when the translation depends on its value in the packet as received; the megaflow matches exactly
 * those. A bit that an action wrote (`written`) no longer comes from the packet, and looking at it costs nothing. When the
 * written value may happen to be the packet's own, the program sets it nonetheless: comparing would mean looking.
 */
import { clone, decTtl, drop, MAX_ACTION_WORDS, output, set, tunnelPop } from '#contract/actions.ts';
import {
  KEY_WORDS,
  VLAN_PRESENT,
  W_DL_MIX,
  W_NW_MISC,
  W_SHA_THA,
  W_TP,
  W_VLAN,
  W_VLAN_INNER,
} from '#contract/flow-key.ts';
import { WORDS } from './subtable.ts';
import { type SavedStacks, type SavedTags, TagStack } from './tag-stack.ts';

/** The packet that another was made of. */
export interface OuterPacket {
  readonly flow: Uint32Array;
  readonly base: Uint32Array;
  readonly written: Uint32Array;
  readonly committed: Uint32Array;
  readonly touched: number;
  readonly clean: boolean;
  readonly stacks: SavedStacks;
}

export interface SavedFlow {
  readonly flow: Uint32Array;
  readonly written: Uint32Array;
  readonly tags: SavedTags;
}

/** Bits of all fields in a word that some of `bits` belong to. */
const fieldsAt = (word: number, bits: number): number => {
  const parts = word === W_NW_MISC ? [0xff000000, 0x00ff0000] : HALVED.includes(word) ? [0xffff0000, 0xffff] : [-1];
  return parts.reduce((all, part) => ((bits & part) === 0 ? all : all | part), 0);
};

/** Words of two fields. */
const HALVED = [W_DL_MIX, W_TP, W_SHA_THA];

/** Bit of a key word in `edited`; the words of the tunnel share the last. */
export const editedBit = (word: number): number => 1 << Math.min(word, 31);

/** Bits of the words that are part of the packet. */
const PACKET_WORDS = 0x7ffffffc;

const lowestBit = (bits: number): number => 31 - Math.clz32(bits & -bits);

export class EditState {
  readonly flow = new Uint32Array(WORDS);
  /** Bits of the received packet that were looked at. */
  readonly wc = new Uint32Array(WORDS);
  readonly program: number[] = [];
  /** True once the program outputs. */
  outputs = 0;
  readonly #base = new Uint32Array(KEY_WORDS);
  readonly #written = new Uint32Array(WORDS);
  readonly #committed = new Uint32Array(KEY_WORDS);
  /** Bit w: packet word w was written, committed or decremented. */
  #touched = 0;
  /** No bit was written yet. */
  #clean = true;
  readonly #tags = new TagStack();
  readonly #looked = new Uint32Array(WORDS);
  /** Packets around this one, see `enter`. */
  #nested = 0;

  /** @param key WORDS words; copied. */
  reset(key: Uint32Array): void {
    this.flow.set(key);
    this.wc.fill(0);
    this.program.length = 0;
    this.outputs = 0;
    this.#nested = 0;
    if (!this.#clean || this.#touched !== 0) {
      this.#written.fill(0);
      this.#committed.fill(0);
    }
    for (let w = 0; w < KEY_WORDS; w++) this.#base[w] = key[w]!;
    this.#touched = 0;
    this.#clean = true;
    this.#tags.reset();
  }

  /** Where a lookup may note what it looked at; hand it to `sawLooked` afterwards. */
  lookBuffer(): Uint32Array {
    if (this.#clean) return this.wc;
    this.#looked.fill(0);
    return this.#looked;
  }

  sawLooked(): void {
    if (this.#clean) return;
    const looked = this.#looked;
    for (let w = 0; w < WORDS; w++) if (looked[w] !== 0) this.look(w, looked[w]!);
  }

  /** Notes that bits of a word of `flow` matter. */
  look(word: number, bits: number): void {
    if (this.#clean) this.wc[word]! |= bits;
    else if (!this.#tags.known || (word !== W_VLAN && word !== W_VLAN_INNER))
      this.wc[word]! |= bits & ~this.#written[word]!;
    else this.#tags.look(word, bits, this.wc);
  }

  /** `editedBit` of each key word of `flow` that is not wholly as received. */
  get edited(): number {
    if (this.#nested > 0) return -1;
    return this.#touched | (this.#tags.known ? (1 << W_VLAN) | (1 << W_VLAN_INNER) : 0);
  }

  isWritten(word: number, bits: number): boolean {
    return (this.#written[word]! & bits) === bits;
  }

  /** Sets bits of a word to a value that is the same for every packet of the megaflow. */
  write(word: number, value: number, mask: number): void {
    if (word === W_VLAN) {
      this.#knowTags();
      this.#tags.write(value, mask);
      this.#tags.show(this.flow);
      return;
    }
    this.#clean = false;
    this.flow[word] = (this.flow[word]! & ~mask) | value;
    this.#written[word]! |= mask;
    if (word < KEY_WORDS) this.#touched |= editedBit(word);
  }

  // Tags

  #knowTags(): void {
    if (this.#tags.known) return;
    this.#clean = false;
    this.#tags.learn(this.flow, this.wc);
  }

  hasTag(): boolean {
    this.look(W_VLAN, VLAN_PRESENT);
    return (this.flow[W_VLAN]! & VLAN_PRESENT) !== 0;
  }

  /** @returns false when the packet has more tags than can be kept. */
  pushTag(tpid: number, tci: number): boolean {
    this.#knowTags();
    if (!this.#tags.push(tpid, tci)) return false;
    this.#tags.show(this.flow);
    return true;
  }

  popTag(): void {
    this.#knowTags();
    this.#tags.pop();
    this.#tags.show(this.flow);
  }

  saveTags(): SavedTags {
    this.#knowTags();
    return this.#tags.save();
  }

  restoreTags(saved: SavedTags): void {
    this.#knowTags();
    this.#tags.restore(saved);
    this.#tags.show(this.flow);
  }

  save(): SavedFlow {
    return {
      flow: this.flow.slice(),
      written: this.#written.slice(),
      tags: this.#tags.known ? this.#tags.save() : [],
    };
  }

  /** Makes `flow` what it was; the program keeps what it did, and will undo it where it matters. */
  restore(saved: SavedFlow): void {
    this.flow.set(saved.flow);
    this.#written.set(saved.written);
    // Where tags came to be known since, they are those of the packet as received.
    if (this.#tags.known && saved.tags.length === 0) this.#tags.restoreReceived(this.flow);
    else this.#tags.restore(saved.tags);
  }

  /**
   * Goes on with another packet, which the program has just made of this one (an encapsulation): nothing of it is the
   * received packet's. The program must be committed. @returns what `leave` needs to go back.
   */
  enter(key: Uint32Array): OuterPacket {
    const outer = {
      flow: this.flow.slice(),
      base: this.#base.slice(),
      written: this.#written.slice(),
      committed: this.#committed.slice(),
      touched: this.#touched,
      clean: this.#clean,
      stacks: this.#tags.enter(),
    };
    this.flow.set(key);
    this.#base.set(key.subarray(0, KEY_WORDS));
    this.#written.fill(0xffffffff);
    this.#committed.fill(0xffffffff);
    this.#touched = 0;
    this.#clean = false;
    this.#nested++;
    return outer;
  }

  leave(outer: OuterPacket): void {
    this.flow.set(outer.flow);
    this.#base.set(outer.base);
    this.#written.set(outer.written);
    this.#committed.set(outer.committed);
    this.#touched = outer.touched;
    this.#clean = outer.clean;
    this.#tags.leave(outer.stacks);
    this.#nested--;
  }

  // Program

  /** Begins a part of the program that works on a copy of the packet. @returns its place, or -1 when the program is full. */
  openClone(): number {
    return this.commit() && this.#emit(clone(0)) ? this.program.length - 2 : -1;
  }

  /** Ends the part; without an output in it, it is taken away again. @param outputs as many as there were before it. */
  closeClone(at: number, outputs: number): void {
    if (this.outputs === outputs) this.program.length = at;
    else this.program[at + 1] = this.program.length - at - 2;
  }

  /** @returns false when the program is full. */
  encapsulate(words: number[]): boolean {
    return this.#emit(words);
  }

  /** Sends the packet into a tunnel of this switch, at its end. @returns false when the program is full. */
  decapsulate(dpPort: number, kind: number): boolean {
    if (!this.commit()) return false;
    this.outputs++;
    return this.#emit(tunnelPop(dpPort, kind));
  }

  #emit(words: number[]): boolean {
    if (this.program.length + words.length > MAX_ACTION_WORDS) return false;
    for (const word of words) this.program.push(word);
    return true;
  }

  #commitWord(word: number): boolean {
    const written = this.#written[word]!;
    const committed = this.#committed[word]!;
    const undo = committed & ~written;
    this.wc[word]! |= undo;
    const differs = this.#base[word]! ^ this.flow[word]!;
    const bits = (written & ~committed & ~(this.wc[word]! & ~differs)) | (committed & differs);
    this.#committed[word] = (committed & ~undo) | (bits & written);
    if (bits === 0) return true;
    this.#base[word] = (this.#base[word]! & ~bits) | (this.flow[word]! & bits);
    // Bits of the same field that are known anyhow go along: a whole field reads better than some of its bits.
    const known = this.wc[word]! | this.#committed[word]!;
    return this.#emit(set(word, this.flow[word]!, bits | (known & fieldsAt(word, bits))));
  }

  /** Emits what turns the packet into `flow`. @returns false when the program is full. */
  commit(): boolean {
    let fits = true;
    for (let left = this.#touched & PACKET_WORDS; left !== 0; left &= left - 1)
      fits = this.#commitWord(lowestBit(left)) && fits;
    if (this.#tags.known) fits = this.#tags.commit(this.wc, (words) => this.#emit(words)) && fits;
    return fits;
  }

  /** @returns false when the program is full. */
  output(dpPort: number): boolean {
    if (!this.commit()) return false;
    this.outputs++;
    return this.#emit(output(dpPort));
  }

  /**
   * Decrements the TTL of whatever packet comes. `flow` follows with this packet's own, so that a later look at it, which
   * then fixes the TTL as received, sees the right value. @returns false when the program is full.
   */
  decTtl(): boolean {
    if (!this.commit() || !this.#emit(decTtl())) return false;
    for (const row of [this.flow, this.#base]) {
      const ttl = ((row[W_NW_MISC]! >>> 16) - 1) & 0xff;
      row[W_NW_MISC] = (row[W_NW_MISC]! & ~0x00ff0000) | (ttl << 16);
    }
    this.#clean = false;
    this.#touched |= 1 << W_NW_MISC;
    return true;
  }

  /** Replaces the program by a counted drop; `reason` 0: by none, which is the flow's own drop. */
  dropAll(reason: number): void {
    this.program.length = 0;
    this.outputs = 0;
    if (reason !== 0) this.#emit(drop(reason));
  }
}
