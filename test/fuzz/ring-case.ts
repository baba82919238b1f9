/** One case of rings: what is put into them, and what must hold when the bursts are over. */
import { GUEST_BASE, PAGE } from './arena.ts';
import { mutate } from './mutate.ts';
import type { Random } from './random.ts';
import { BUFFERS_AT, type Offer } from './ring.ts';
import { type RingRig, SENDER_CANARY, type Side, settleOffers } from './ring-rig.ts';

const HOSTILE = 0x5a;
const BURSTS = 3;
const MOST_FRAMES = 40;
/** Room for a header and a frame of 6000 bytes. */
const LONGEST = 6144;
const scratch = Buffer.alloc(MOST_FRAMES * LONGEST);

export interface Outcome {
  /** What the switch did wrong; empty: nothing. */
  readonly fault: string;
  readonly hostile: boolean;
  readonly broken: boolean;
  readonly packets: number;
}

/** IPv4 and TCP or UDP, or of no protocol; no byte of it is 0x80 or above. */
const fillFrame = (random: Random, frame: Buffer): void => {
  const bytes = frame.length;
  frame.fill(1 + random.below(100));
  for (let at = 14; at < bytes; at += 61) frame[at] = (at * 7) & 0x7f;
  frame.writeUInt16BE(random.pick([0x0800, 0x0800, 0x55, 0x0600]), 12);
  if (bytes < 34 || frame.readUInt16BE(12) !== 0x0800) return;
  frame[14] = random.once(16) ? 0x4f : 0x45;
  frame.writeUInt16BE(random.once(16) ? 0x7f7f : (bytes - 14) & 0x7f7f, 16);
  frame.writeUInt32BE(0, 18);
  frame[23] = random.pick([6, 17]);
  if (bytes >= 54) frame[46] = 0x50;
};

const lengthOf = (random: Random): number =>
  random.once(8) ? random.range(1514, 6000) : random.once(3) ? random.range(200, 1514) : random.range(14, 200);

const cut = (random: Random, bytes: number, most: number): number[] => {
  const pieces: number[] = [];
  let left = bytes;
  while (left > 1 && pieces.length < most - 1 && random.once(3)) {
    const take = random.once(2) ? Math.min(left - 1, random.pick([1, 10, 12, 14, 26])) : random.range(1, left - 1);
    pieces.push(take);
    left -= take;
  }
  pieces.push(left);
  return pieces;
};

const hostileHeader = (random: Random, header: Buffer): void => {
  header[0] = random.pick([0, 1, 1, 2, 3, 0x7f]);
  header[1] = random.pick([0, 1, 1, 3, 4, 5, 0x81, random.below(256)]);
  header.writeUInt16LE(random.pick([0, 54, 66, 0x7fff]), 2);
  header.writeUInt16LE(random.pick([0, 1, 536, 1460, 0x7fff]), 4);
  header.writeUInt16LE(random.pick([0, 14, 34, 34, 54, 0x7fff]), 6);
  header.writeUInt16LE(random.pick([0, 6, 16, 16, 0x7fff]), 8);
};

/** Puts bytes into the pieces of a chain. */
const write = (side: Side, pieces: readonly (readonly [number, number])[], bytes: Buffer): void => {
  let done = 0;
  for (const [at, length] of pieces)
    side.arena.stretches(at, length, (part, from, to) => {
      bytes.copy(part.live, from, done, done + to - from);
      done += to - from;
    });
};

/** The guest sends. @returns the frames, in order. */
function fillSender(random: Random, side: Side, honest: boolean): Buffer[] {
  const frames: Buffer[] = [];
  const header = side.plan.rx.headerBytes;
  const most = random.pick([1, 4, MOST_FRAMES]);
  for (let i = 0; i < most; i++) {
    const whole = scratch.subarray(i * LONGEST, i * LONGEST + header + lengthOf(random));
    const frame = whole.subarray(header);
    whole.fill(0, 0, header);
    fillFrame(random, frame);
    if (!honest && random.once(3)) hostileHeader(random, whole);
    const pieces = cut(random, whole.length, 6);
    if (!side.ring.add(random, pieces, random.once(4))) break;
    write(side, side.ring.chains.at(-1)!.pieces, whole);
    frames.push(frame);
  }
  return frames;
}

/** The guest offers buffers, at least as many as the switch has seen available before. @returns false: too few. */
function fillReceiver(random: Random, side: Side): boolean {
  const { ring, plan } = side;
  const { seen } = ring;
  const most = Math.max(seen, random.pick([1, 4, 40]));
  for (let i = 0; i < most; i++) {
    const owed = seen - ring.chains.length;
    const bytes = random.once(3) && plan.tx.mergeable ? random.range(12, 600) : random.pick([1526, 2048, 300]);
    const pieces = owed > 0 ? [64] : cut(random, bytes, 5);
    if (!ring.add(random, pieces, owed <= 0 && random.once(4))) return owed <= 0;
  }
  return true;
}

/** Memory that hostile descriptors offer to be read holds no canaries, so that finding some elsewhere means a leak. */
function uncover(side: Side, offer: Offer): void {
  for (const [at, bytes] of offer.read)
    side.arena.stretches(at, bytes, (part, from, to) => {
      const first = part === side.arena.parts[0] ? Math.max(from, PAGE + BUFFERS_AT) : from;
      if (first >= to || !part.live.subarray(first, to).includes(SENDER_CANARY)) return;
      part.live.fill(HOSTILE, first, to);
      part.shadow.fill(HOSTILE, first, to);
    });
}

/** Frames that the receiver finds, read as a driver does (virtio 1.2 section 5.1.6.4). */
function received(side: Side): Buffer[] {
  const { ring, plan } = side;
  const found: Buffer[] = [];
  const header = plan.tx.headerBytes;
  const packedDone = (i: number): boolean => {
    const flags = ring.view.getUint16(16 * ring.chains[i]!.entry + 14, true);
    return ((flags & 0x8080) === 0x8080) === ring.chains[i]!.wrap && (flags & 0x8080) % 0x8080 === 0;
  };
  const count = plan.packed ? ring.chains.length : (ring.usedIndex - ring.place) & 0xffff;
  const bufferOf = (i: number): Buffer => {
    const [id, bytes] = ring.used(i);
    if (id !== ring.chains[i]!.id) throw new Error(`buffer ${id} came back, ${ring.chains[i]!.id} was due`);
    const parts: Buffer[] = [];
    let left = bytes;
    for (const [at, length] of ring.chains[i]!.pieces)
      side.arena.stretches(at, Math.min(length, left), (part, from, to) => {
        parts.push(part.live.subarray(from, to));
        left -= to - from;
      });
    return Buffer.concat(parts);
  };
  for (let i = 0; i < count; ) {
    if (plan.packed && !packedDone(i)) break;
    const first = bufferOf(i++);
    const parts = [first.subarray(header)];
    if (plan.tx.mergeable && first.length >= 12)
      for (let more = first.readUInt16LE(10) - 1; more > 0; more--) parts.push(bufferOf(i++));
    if (first.length > 0) found.push(Buffer.concat(parts));
  }
  return found;
}

/** The log has every page that changed and none that may not have. */
function checkLog(side: Side, before: readonly Buffer[], offer: Offer): string {
  const first8 = GUEST_BASE / PAGE / 8;
  const log = side.log!.slice(first8);
  side.log!.fill(0, first8);
  const marked = (page: number): boolean => ((log[page >> 3]! >> (page & 7)) & 1) === 1;
  for (const [i, part] of side.arena.parts.entries()) {
    const first = (part.guestAddress - GUEST_BASE) / PAGE;
    for (let page = 0; page < part.bytes / PAGE; page++) {
      const from = (page + 1) * PAGE;
      const changed = part.live.compare(before[i]!, from, from + PAGE, from, from + PAGE) !== 0;
      if (changed && !marked(first + page)) return `page ${first + page} was written and is not in the log`;
      if (!marked(first + page) || first + page === 0) continue;
      const at = part.guestAddress + page * PAGE;
      if (!offer.write.some(([a, n]) => a < at + PAGE && a + n > at))
        return `page ${first + page} is in the log for nothing`;
    }
  }
  return '';
}

export class RingCase {
  readonly #random: Random;
  readonly #rig: RingRig;
  readonly told: string[] = [];
  /** The switch may have seen more available than the ring shows in the end. */
  #uncertain = false;

  constructor(random: Random, rig: RingRig) {
    this.#random = random;
    this.#rig = rig;
  }

  run(): Outcome {
    const random = this.#random;
    const { from, to } = this.#rig;
    const honest = random.once(3);
    const racing = !honest && random.once(4);
    this.#uncertain = racing;
    for (const side of [from, to]) {
      side.arena.clear();
      side.counters.fill(0);
      side.ring.begin(side.place);
    }
    const frames = fillSender(random, from, honest);
    if (!fillReceiver(random, to)) this.#reattach(to);
    for (const side of [from, to]) side.arena.settle();
    const mutations = honest ? 0 : random.range(1, 4);
    for (let i = 0; i < mutations; i++) this.#mutate(random.once(2) ? from : to, false);
    const read: Offer = { read: [], write: [], ofRings: false };
    const written: Offer = { read: [], write: [], ofRings: false };
    if (to.log) to.arena.remember();
    const placeBefore = from.place;
    let packets = 0;
    let sent = 0;
    let unlocked = true;
    for (let turn = 0; turn < BURSTS; turn++) {
      from.ring.offers(read);
      to.ring.offers(written);
      if (!honest) uncover(from, read);
      const [taken, delivered] = this.#rig.burst(() => {
        if (!racing || !random.once(2)) return;
        const side = random.once(2) ? from : to;
        this.#mutate(side, true);
        from.ring.offers(read);
        to.ring.offers(written);
        uncover(from, read);
      });
      if (delivered < 0) unlocked = false;
      packets += taken;
      sent += Math.max(0, delivered);
      if (taken === 0) break;
      if (taken > 32) return this.#end(`a burst of ${taken} packets`, honest, packets);
    }
    settleOffers(from, { ...read, write: [] });
    settleOffers(to, written);
    this.#uncertain ||= written.ofRings;
    let fault = unlocked ? '' : 'the lock of the shared queue was left held';
    fault ||= prefixed('sender: ', from.arena.check()) || prefixed('receiver: ', to.arena.check());
    if (!read.ofRings && to.arena.holds(SENDER_CANARY, 4, BUFFERS_AT))
      fault ||= 'bytes that were not offered were delivered';
    const { before } = to.arena;
    if (before) fault ||= checkLog(to, before, written);
    to.arena.before = undefined;
    if (!from.plan.packed && from.broken === 0) {
      const moved = (from.place - placeBefore) & 0xffff;
      if (moved !== from.packets + from.drops)
        fault ||= `${moved} chains came back, ${from.packets} packets and ${from.drops} drops were counted`;
      if (moved > from.plan.size * BURSTS) fault ||= `${moved} chains came back of a ring of ${from.plan.size}`;
    }
    if (packets !== sent + to.drops) fault ||= `${packets} packets: ${sent} sent, ${to.drops} dropped`;
    if (honest) fault ||= this.#checkHonest(frames, packets, sent);
    return this.#end(fault, honest, packets);
  }

  #checkHonest(frames: readonly Buffer[], packets: number, sent: number): string {
    const { from, to } = this.#rig;
    if (from.broken !== 0 || to.broken !== 0) return `honest rings were called broken: ${from.broken}, ${to.broken}`;
    const due = Math.min(frames.length, 32 * BURSTS);
    if (packets !== due) return `${packets} of ${due} honest frames were taken`;
    for (let i = 0; i < packets; i++) {
      const { id } = from.ring.chains[i]!;
      const [back] = from.ring.used(i);
      if (back !== id) return `the sender's chain ${back} came back, ${id} was due`;
    }
    try {
      const got = received(to);
      if (got.length !== sent) return `${got.length} frames arrived, ${sent} were sent`;
      let at = 0;
      for (const frame of got) {
        while (at < frames.length && !frames[at]!.equals(frame)) at++;
        if (at++ === frames.length) return 'a frame arrived that was not sent, or out of order';
      }
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  }

  #mutate(side: Side, running: boolean): void {
    const what = mutate(this.#random, side.ring, running);
    this.told.push(`${side === this.#rig.from ? 'sender' : 'receiver'}${running ? ', meanwhile' : ''}: ${what}`);
  }

  #reattach(side: Side): void {
    side.reattach();
    side.ring.seen = 0;
  }

  #end(fault: string, honest: boolean, packets: number): Outcome {
    const { from, to } = this.#rig;
    const broken = from.broken !== 0 || to.broken !== 0;
    to.ring.end(to.place);
    for (const side of [from, to]) if (side.broken !== 0 || (this.#uncertain && side === to)) this.#reattach(side);
    if (fault) this.#rig.discard();
    return { fault, hostile: !honest, broken, packets };
  }
}

const prefixed = (prefix: string, text: string): string => (text ? prefix + text : '');
