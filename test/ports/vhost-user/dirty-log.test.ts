/** The dirty log of a migration against a naive oracle: which pages of guest memory have other bytes than before. */
import test from 'ava';
import fc from 'fast-check';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, map, memfd, release } from '#contract/os.ts';
import type { WorkerPort } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { DirtyLog } from '#ports/vhost-user/dirty-log.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { LoggedRx, LoggedTx } from '#ports/vhost-user/logged.ts';
import { Driver, GUEST_BASE, MEMORY_BYTES } from './driver.ts';
import { batch, TestPort } from './test-port.ts';

const PAGE = 4096;
const LOG_BYTES = Math.ceil((GUEST_BASE + MEMORY_BYTES) / PAGE / 8);
const list = Int32Array.from({ length: 32 }, (_, i) => i);

/** A guest under migration, and what the test sees of its log. */
class Migrating {
  readonly driver: Driver;
  readonly fd = memfd('log', LOG_BYTES + PAGE);
  readonly bits: Uint8Array;
  readonly port: WorkerPort;
  /** Pages of the rings' used parts, as page numbers of the driver's memory. */
  readonly used = new Set<number>();

  constructor(packed: boolean, eventIdx: boolean) {
    this.driver = new Driver(2, { packed, rx: { eventIdx }, tx: { mergeable: true } });
    if (packed) this.driver.startAt(0);
    this.bits = new Uint8Array(map(this.fd, PAGE, LOG_BYTES, { write: true, owner: 0 }));
    const rings = this.driver.attachment.rings.map((ring) => ({
      ...ring,
      log: { usedAt: GUEST_BASE + ring.usedOffset, descriptorsAt: GUEST_BASE + ring.descriptorOffset },
    }));
    for (const { descriptorOffset, usedOffset, size } of rings) {
      const [from, bytes] = packed ? [descriptorOffset, 16 * size + 8] : [usedOffset, 8 * size + 6];
      for (let at = from; at < from + bytes; at += 8) this.used.add(Math.floor(at / PAGE));
    }
    const log = { fd: this.fd, offset: PAGE, size: LOG_BYTES };
    const attachment: VhostUserAttachment = { ...this.driver.attachment, rings, log, logAll: true };
    const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
    this.port = vhostPort(attachment, { worker: 0, workers: 1, counters, batch }, undefined);
  }

  /** Marked pages of the driver's memory. @throws Error for one outside. */
  marked(): Set<number> {
    const found = new Set<number>();
    this.bits.forEach((byte, i) => {
      for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) found.add(i * 8 + bit - GUEST_BASE / PAGE);
    });
    for (const page of found) if (page < 0 || page >= MEMORY_BYTES / PAGE) throw new Error(`page ${page} is marked`);
    return found;
  }

  close(): void {
    this.port.close();
    this.driver.close();
    release(this.bits.buffer as ArrayBuffer);
    close(this.fd);
  }
}

const changed = (before: Buffer, after: Buffer): Set<number> => {
  const pages = new Set<number>();
  for (let page = 0; page < before.length / PAGE; page++) {
    const at = page * PAGE;
    if (before.compare(after, at, at + PAGE, at, at + PAGE) !== 0) pages.add(page);
  }
  return pages;
};

const shape = fc.record({
  cuts: fc.array(fc.integer({ min: 1, max: 8000 }), { maxLength: 4 }),
  indirect: fc.boolean(),
});
const sorted = <T extends { cuts: readonly number[] }>(s: T): T => ({
  ...s,
  cuts: [...new Set(s.cuts)].sort((a, b) => a - b),
});

for (const packed of [false, true]) {
  test(`every page of a receiver that changed is marked, and no other (${packed ? 'packed' : 'split'} rings)`, (t) => {
    const burst = fc.record({
      eventIdx: fc.boolean(),
      frames: fc.array(fc.integer({ min: 60, max: 1514 }), { minLength: 1, maxLength: 32 }),
      posts: fc.array(fc.tuple(fc.integer({ min: 64, max: 9000 }), shape), { minLength: 1, maxLength: 60 }),
    });
    fc.assert(
      fc.property(burst, ({ eventIdx, frames, posts }) => {
        const sender = new TestPort(1, { packed });
        const guest = new Migrating(packed, eventIdx);
        try {
          for (const [bytes, s] of posts) guest.driver.post(bytes, sorted(s));
          frames.forEach((length, i) => {
            sender.driver.send(Uint8Array.from({ length }, (_, k) => 1 + ((i * 31 + k) % 127)));
          });
          guest.bits.fill(0);
          const before = Buffer.from(guest.driver.bytes);
          const rx = sender.port.rx[0]!;
          const n = rx.poll(batch);
          guest.port.tx!.push(batch, list, n);
          batch.copy();
          guest.port.tx!.publish();
          rx.complete();
          batch.clear();
          const pages = changed(before, guest.driver.bytes);
          const marked = guest.marked();
          for (const page of pages) t.true(marked.has(page), `page ${page} changed and is not marked`);
          for (const page of marked)
            t.true(pages.has(page) || guest.used.has(page), `page ${page} is marked for nothing`);
        } finally {
          guest.close();
          sender.close();
        }
      }),
      { numRuns: 30 },
    );
    t.pass();
  });

  test(`a sender under migration has its used ring marked, and nothing else (${packed ? 'packed' : 'split'} rings)`, (t) => {
    for (const eventIdx of [false, true]) {
      const guest = new Migrating(packed, eventIdx);
      const receiver = new TestPort(1, { packed });
      for (let i = 0; i < 20; i++) {
        receiver.driver.post(2048);
        guest.driver.send(new Uint8Array(300).fill(i));
      }
      const rx = guest.port.rx[0]!;
      t.true(rx instanceof LoggedRx && guest.port.tx instanceof LoggedTx);
      guest.bits.fill(0);
      const before = Buffer.from(guest.driver.bytes);
      const n = rx.poll(batch);
      t.is(n, 20);
      receiver.port.tx!.push(batch, list, n);
      batch.copy();
      receiver.port.tx!.publish();
      rx.complete();
      batch.clear();
      rx.arm();
      rx.disarm();
      const marked = guest.marked();
      for (const page of changed(before, guest.driver.bytes)) t.true(marked.has(page));
      for (const page of marked) t.true(guest.used.has(page));
      guest.close();
      receiver.close();
      t.is(batch.copyLogs.length, 0);
    }
  });
}

test('used entries are marked around the end of a ring; what lies behind the log is left out', (t) => {
  const driver = new Driver(3);
  const memory = new GuestMemory(driver.attachment.regions, 3);
  const fd = memfd('log', PAGE);
  const buffer = map(fd, 0, 4, { write: true, owner: 0 });
  const log = new DirtyLog(buffer, memory);
  log.mark(0, 1);
  log.mark(PAGE * 8 - 1, 2);
  log.mark(PAGE * 31, 10 * PAGE);
  log.mark(2 ** 50, 100);
  t.deepEqual([...new Uint8Array(buffer)], [0x81, 1, 0, 0x80]);
  const state = new Int32Array(16);
  const inner = { portNo: 1, queue: 0, shared: false, lock: () => true, unlock() {}, push: () => 0, publish() {} };
  // Entries 1000 to 1023 lie in the second page and, by four bytes, in the third; 0 to 9 and the index in the first.
  const ring = { packed: false, size: 1024, eventIdx: false, usedAt: PAGE * 16, descriptorsAt: 0, state };
  new Uint8Array(buffer).fill(0);
  state[0] = 1000;
  const tx = new LoggedTx({ ...inner, publish: () => void (state[0] = 1034) }, log, ring);
  tx.publish();
  t.deepEqual([...new Uint8Array(buffer)], [0, 0, 7, 0]);
  release(buffer);
  memory.close();
  driver.close();
  close(fd);
});
