/**
 * The IOMMU of one connection, in the main thread (vhost-user.rst, "IOMMU support"): obeys the front end's messages about
 * the device IOTLB, and asks it for translations that workers or rings lack.
 *
 * Taking a translation away has three steps before it is acknowledged: rings that lie there are paused, the rows go, and no
 * worker is inside a burst any more that may have seen them.
 */
import { close, eventfd, eventfdDrain, eventfdSignal, Watcher } from '#contract/os.ts';
import { findUserAddress, type Place, type Region } from './guest-memory.ts';
import { Iotlb, type Translation } from './iotlb.ts';
import {
  ASKED,
  INSIDE,
  IOTLB_PAGE,
  keyOf,
  MAX_ASKS,
  MAX_IOTLB_WORKERS,
  MAX_REFUSED,
  PAUSED,
  TAKEN,
} from './iotlb-shared.ts';
import { type Ring, type RingPart, ringParts } from './ring.ts';
import type { Piece } from './ring-windows.ts';
import type { RingPlace } from './vring.ts';
import * as wire from './wire.ts';

/** Addresses are exact doubles below. */
const LIMIT = 2 ** 52;
/** Questions without an answer, at most; what is wanted beyond is asked for again by whoever wants it. */
const MAX_PENDING = 1024;
/** After so long without an answer a question counts as refused. */
const PATIENCE_MS = 5000;
/** So long does a refusal count. */
const REFUSED_MS = 100;
/** An address may be mapped between its question and the answer: it is refused when two answers so near each other say so. */
const AGAIN_MS = 1000;

/** What the attachment of a port behind an IOMMU has more. */
export interface IommuParts {
  readonly iommu?: { readonly shared: SharedArrayBuffer; readonly missFd: number };
}

/** Sends a request of the back end; `done` is called when it is answered. `busy`: the front end has to answer others first. */
export type Requester = (payload: Uint8Array, done: () => void) => 'sent' | 'busy' | 'gone';

const permissionOf = (key: number): number => key % 4;
const addressOf = (key: number): number => Math.floor(key / 4) * IOTLB_PAGE;

export class Iommu {
  readonly #iotlb = new Iotlb();
  readonly #missFd = eventfd();
  readonly #watcher: Watcher;
  readonly #request: Requester;
  readonly #packed: boolean;
  /** Keys asked for, and when. */
  readonly #pending = new Map<number, number>();
  /** Keys that wait for room on the channel. */
  readonly #queue = new Set<number>();
  /** Keys whose last answer brought no translation, and when. */
  readonly #denied = new Map<number, number>();
  /** Keys refused, and when. */
  readonly #refused = new Map<number, number>();
  /** Where rings lay when their addresses were last translated. */
  readonly #places = new Map<Ring, { part: string; place: RingPlace }>();
  /** Rings that have no translation now. */
  readonly #waiting = new Set<Ring>();
  #misses = 0;
  #updates = 0;
  #invalidations = 0;
  #refusals = 0;
  #unanswered = 0;

  /** @param packed the rings are packed. */
  constructor(request: Requester, packed: boolean) {
    this.#request = request;
    this.#packed = packed;
    this.#watcher = new Watcher(() => this.#take(), { unref: true });
    this.#watcher.add(this.#missFd);
  }

  parts(): IommuParts {
    return { iommu: { shared: this.#iotlb.shared.buffer, missFd: this.#missFd } };
  }

  facts(): Record<string, string> {
    return {
      iotlb_entries: String(this.#iotlb.size),
      iotlb_misses: String(this.#misses),
      iotlb_updates: String(this.#updates),
      iotlb_invalidations: String(this.#invalidations),
      iotlb_evictions: String(this.#iotlb.evicted),
      iotlb_refused_messages: String(this.#refusals),
      iotlb_refused_misses: String(this.#unanswered),
    };
  }

  /** Rings whose addresses have no translation are tried again when one comes. */
  get waiting(): boolean {
    return this.#waiting.size > 0;
  }

  /**
   * Obeys a message of the front end, as far as rows go. @returns false for one that makes no sense; nothing has changed.
   * @param rings those that may be in use.
   */
  async obey(message: wire.IotlbMessage, regions: readonly Region[], rings: readonly Ring[]): Promise<boolean> {
    const done =
      message.type === wire.IOTLB_UPDATE
        ? await this.#update(message, regions, rings)
        : message.type === wire.IOTLB_INVALIDATE && (await this.#invalidate(message, rings));
    if (!done) this.#refusals++;
    return done;
  }

  /** Takes all translations away: the memory that they name is about to change. */
  async clear(rings: readonly Ring[]): Promise<void> {
    await this.#drop(0, LIMIT, rings);
  }

  /** Where the part of a ring lies, or why that is not known; then it has been asked for. */
  find(part: RingPart, regions: readonly Region[]): Place | string {
    const { name, bytes, permission } = part;
    const where = `${name} at 0x${part.at.toString(16)}`;
    if (part.at >= BigInt(LIMIT - bytes)) return `${where} is no address`;
    const start = Number(part.at);
    const from = Math.floor(start / IOTLB_PAGE) * IOTLB_PAGE;
    const to = Math.ceil((start + bytes) / IOTLB_PAGE) * IOTLB_PAGE;
    const rows: Translation[] = [];
    for (let at = start; at < start + bytes; at = rows.at(-1)!.end) {
      const row = this.#iotlb.find(at);
      if (!row || (row.permission & permission) !== permission) {
        for (const bit of [wire.IOTLB_READ, wire.IOTLB_WRITE]) if (permission & bit) this.#ask(keyOf(at, bit));
        return `${where} has no translation yet`;
      }
      rows.push(row);
    }
    const pieces = rows.map((row): Piece => {
      const [iova, end] = [Math.max(from, row.start), Math.min(to, row.end)];
      const offset = row.offset + (iova - row.start);
      const { fd, mmapOffset, guestAddress } = regions[row.region]!;
      return { fd, mmapOffset: mmapOffset + offset, size: end - iova, iova, guestAddress: guestAddress + offset };
    });
    const first = rows[0]!;
    const offset = first.offset + (start - first.start);
    const together = rows.every((r) => r.region === first.region && r.offset - r.start === first.offset - first.start);
    if (together) return { region: first.region, offset, pieces };
    // What is mapped page by page must come in whole pages.
    const whole = pieces.every(
      (p) => p.iova % IOTLB_PAGE === 0 && p.mmapOffset % IOTLB_PAGE === 0 && p.size % IOTLB_PAGE === 0,
    );
    return whole ? { region: -1, offset: start - from, pieces } : `${where} lies scattered over parts of pages`;
  }

  /**
   * Takes note of where a ring lies, or of why it is nowhere. @returns where to have it: with `keep` a ring whose translation
   * has gone stays with the workers, paused, as long as its addresses are the same.
   */
  place(ring: Ring, place: RingPlace | string, keep: boolean): RingPlace | string {
    const part = JSON.stringify([ring.size, ring.addresses], (_, v) => (typeof v === 'bigint' ? String(v) : v));
    if (typeof place !== 'string') {
      this.#places.set(ring, { part, place });
      this.#waiting.delete(ring);
      return place;
    }
    this.#waiting.add(ring);
    const kept = this.#places.get(ring);
    if (!keep || kept?.part !== part) {
      this.#places.delete(ring);
      return place;
    }
    return { ...kept.place, kickFd: ring.kickFd, callFd: ring.callFd };
  }

  /** Workers have what `place` said: rings with a translation go on. */
  resume(): void {
    const { words } = this.#iotlb.shared;
    for (const [ring] of this.#places) {
      if (this.#waiting.has(ring) || Atomics.exchange(words, PAUSED + ring.index, 0) === 0) continue;
      if (ring.kickFd >= 0) eventfdSignal(ring.kickFd);
    }
  }

  /** Housekeeping, now and then: nothing waits for ever. */
  tidy(now = performance.now()): void {
    for (const [key, since] of this.#pending) if (now - since > PATIENCE_MS) this.#refuse(key);
    this.#send();
    for (const [key, since] of this.#denied) if (now - since > AGAIN_MS) this.#denied.delete(key);
    let forgotten = false;
    for (const [key, since] of this.#refused) {
      if (now - since <= REFUSED_MS) continue;
      this.#refused.delete(key);
      forgotten = true;
    }
    if (!forgotten) return;
    this.#showRefused();
    this.#iotlb.forget();
  }

  /** Workers have let go. */
  close(): void {
    this.#watcher.close();
    close(this.#missFd);
    this.#pending.clear();
    this.#denied.clear();
    this.#queue.clear();
  }

  async #update(
    { iova, size, userAddress, permission }: wire.IotlbMessage,
    regions: readonly Region[],
    rings: readonly Ring[],
  ): Promise<boolean> {
    const limit = BigInt(LIMIT);
    if (permission === 0 || permission > 3 || size === 0n || size > limit || iova > limit - size) return false;
    const place = findUserAddress(regions, userAddress, Number(size));
    if (!place) return false;
    const start = Number(iova);
    const entry = { start, end: start + Number(size), ...place, permission };
    this.#updates++;
    const before = this.#iotlb.find(start);
    const same =
      before?.region === entry.region &&
      before.offset - before.start === entry.offset - start &&
      before.permission === permission &&
      before.end >= entry.end;
    if (!same) {
      if (this.#iotlb.overlaps(entry.start, entry.end)) await this.#drop(entry.start, entry.end, rings);
      const parts = rings.flatMap((ring) => ringParts(ring, this.#packed));
      this.#iotlb.insert(entry, (row) => parts.some((part) => within(part, row.start, row.end)));
    }
    for (const keys of [this.#pending, this.#queue, this.#denied, this.#refused])
      for (const key of keys.keys())
        if (addressOf(key) < entry.end && addressOf(key) + IOTLB_PAGE > start && permissionOf(key) & permission)
          keys.delete(key);
    this.#showRefused();
    return true;
  }

  async #invalidate({ iova, size }: wire.IotlbMessage, rings: readonly Ring[]): Promise<boolean> {
    if (size === 0n || iova + size > 1n << 64n) return false;
    this.#invalidations++;
    const limit = BigInt(LIMIT);
    const end = iova + size;
    if (iova < limit) await this.#drop(Number(iova), Number(end < limit ? end : limit), rings);
    return true;
  }

  async #drop(start: number, end: number, rings: readonly Ring[]): Promise<void> {
    const { words } = this.#iotlb.shared;
    for (const ring of rings) {
      if (!ringParts(ring, this.#packed).some((part) => within(part, start, end))) continue;
      Atomics.store(words, PAUSED + ring.index, 1);
      this.#waiting.add(ring);
    }
    this.#iotlb.remove(start, end);
    this.#iotlb.forget();
    await this.#quiet();
  }

  /** Resolves when no worker is inside a burst that began before. */
  async #quiet(): Promise<void> {
    const { words } = this.#iotlb.shared;
    const inside: [word: number, seen: number][] = [];
    for (let word = INSIDE; word < INSIDE + MAX_IOTLB_WORKERS; word++) {
      const seen = Atomics.load(words, word);
      if (seen % 2 !== 0) inside.push([word, seen]);
    }
    for (const [word, seen] of inside) {
      while (Atomics.load(words, word) === seen) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Workers have questions. */
  #take(): void {
    eventfdDrain(this.#missFd);
    const { words, asks } = this.#iotlb.shared;
    for (let worker = 0; worker < MAX_IOTLB_WORKERS; worker++) {
      const head = Atomics.load(words, ASKED + worker);
      let tail = words[TAKEN + worker]!;
      for (; tail !== head; tail = (tail + 1) | 0) this.#ask(asks[worker * MAX_ASKS + (tail & (MAX_ASKS - 1))]!);
      Atomics.store(words, TAKEN + worker, tail);
    }
  }

  #ask(key: number): void {
    const row = this.#iotlb.find(addressOf(key));
    if (row && row.end >= addressOf(key) + IOTLB_PAGE && (row.permission & permissionOf(key)) !== 0) return;
    if (this.#pending.has(key) || this.#refused.has(key) || this.#pending.size + this.#queue.size >= MAX_PENDING)
      return;
    this.#queue.add(key);
    this.#send();
  }

  #send(): void {
    for (const key of this.#queue) {
      const message = { iova: BigInt(addressOf(key)), size: 0n, userAddress: 0n };
      const miss = { ...message, permission: permissionOf(key), type: wire.IOTLB_MISS };
      const sent = this.#request(wire.encodeIotlb(miss), () => this.#answered(key));
      if (sent === 'busy') return;
      this.#queue.delete(key);
      this.#pending.set(key, performance.now());
      if (sent === 'gone') this.#refuse(key);
      else this.#misses++;
    }
  }

  /** Its translation came before the answer, if there is one. */
  #answered(key: number): void {
    if (this.#pending.delete(key)) {
      if (this.#denied.has(key)) this.#refuse(key);
      else {
        this.#denied.set(key, performance.now());
        // Whoever still wants it asks again.
        this.#iotlb.forget();
      }
    }
    this.#send();
  }

  #refuse(key: number): void {
    this.#pending.delete(key);
    this.#denied.delete(key);
    this.#refused.set(key, performance.now());
    this.#unanswered++;
    if (this.#iotlb.find(addressOf(key))) {
      const message = { iova: BigInt(addressOf(key)), size: 0n, userAddress: 0n, permission: permissionOf(key) };
      this.#request(wire.encodeIotlb({ ...message, type: wire.IOTLB_ACCESS_FAIL }), () => undefined);
    }
    this.#showRefused();
  }

  /** Workers see the last few refusals. */
  #showRefused(): void {
    const { refused } = this.#iotlb.shared;
    const keys = [...this.#refused.keys()].slice(-MAX_REFUSED);
    this.#iotlb.change(() => {
      refused.fill(0);
      refused.set(keys);
    });
  }
}

const within = ({ at, bytes }: RingPart, start: number, end: number): boolean =>
  at < BigInt(end) && at + BigInt(bytes) > BigInt(start);
