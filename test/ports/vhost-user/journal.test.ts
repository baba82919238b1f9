/** A data plane that dies at any step of a burst: the next one delivers each frame once to each receiver. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close } from '#contract/os.ts';
import type { WorkerPort } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { Extras } from '#ports/vhost-user/extras.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { type InflightName, makeArea, nameOf } from '#ports/vhost-user/inflight.ts';
import { WorkerJournal } from '#ports/vhost-user/journal.ts';
import { Journal } from '#ports/vhost-user/journal-file.ts';
import { Ring, startPlace } from '#ports/vhost-user/ring.ts';
import { STATE_CURSOR, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';
import { Driver } from './driver.ts';
import { batch } from './test-port.ts';

const list = Int32Array.from({ length: 32 }, (_, i) => i);
const FRAMES = 20;
const STEPS = ['copied', 'decided', 'first shown', 'both shown', 'given back', 'done'];

class Guest {
  readonly driver: Driver;
  readonly name: InflightName;
  port: WorkerPort | undefined;

  constructor(portNo: number, journal: Journal) {
    this.driver = new Driver(portNo);
    const fd = makeArea();
    this.name = nameOf(fd, 0, 4096, portNo, journal.name);
    if (nameOf(fd, 0, 4096, portNo, journal.name).low !== this.name.low) throw new Error('the name of an area changes');
    close(fd);
  }

  /** A data plane takes the guest's rings over, as it finds them. */
  attach(journal: Journal): void {
    const { attachment, state } = this.driver;
    const memory = new GuestMemory(attachment.regions, attachment.portNo);
    for (const place of attachment.rings) {
      const at = startPlace(new Ring(place.index), place, memory.buffers, false, { file: journal, name: this.name });
      new Int32Array(state)[place.index * STATE_WORDS + STATE_CURSOR] = at.place;
    }
    memory.close();
    const inflight = { ...this.name, fd: journal.fd };
    const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
    const wanted: VhostUserAttachment = { ...attachment, inflight };
    this.port = vhostPort(wanted, { worker: 0, workers: 1, counters, batch }, undefined);
  }
}

/** One burst of a sender to two receivers, as far as step `last`. */
function burst([from, ...to]: readonly Guest[], last: number): number {
  const rx = from!.port!.rx[0]!;
  const n = rx.poll(batch);
  for (const { port } of to) port!.tx!.push(batch, list, n);
  batch.copy();
  const steps = [
    () => batch.journal!.decide(),
    () => to[0]!.port!.tx!.publish(),
    () => to[1]!.port!.tx!.publish(),
    () => rx.complete(),
    () => batch.journal!.done(),
  ];
  for (const step of steps.slice(0, last)) step();
  batch.clear();
  return n;
}

for (const [last, name] of STEPS.entries()) {
  test.serial(`killed when a burst is ${name}: every frame arrives once`, (t) => {
    const dir = scratchDir('rwj');
    const path = join(dir, 'journal');
    let journal = new Journal(path);
    const guests = [1, 2, 3].map((portNo) => new Guest(portNo, journal));
    try {
      for (const guest of guests) guest.attach(journal);
      t.true(batch.journal instanceof WorkerJournal);
      for (let i = 0; i < 2 * FRAMES; i++) {
        guests[0]!.driver.send(new Uint8Array(400).fill(i));
        for (const { driver } of guests.slice(1)) driver.post(2048);
      }
      // A whole burst before, so that the rings do not stand where they began.
      burst(guests, STEPS.length - 1);
      const died = burst(guests, last);
      t.is(died, 2 * FRAMES - 32);
      // Nothing of the worker is left but what lies in shared memory; another life opens the file, and dies at once.
      batch.journal = undefined;
      for (const { port } of guests) port!.close();
      batch.journal = undefined;
      new Journal(path);
      journal = new Journal(path);
      for (const guest of guests) guest.attach(journal);
      while (burst(guests, STEPS.length - 1) > 0);
      for (const { driver } of guests.slice(1)) {
        t.deepEqual(
          driver.receive().map(({ frame }) => frame[0]),
          Array.from({ length: 2 * FRAMES }, (_, i) => i),
        );
      }
      t.is(guests[0]!.driver.txRing.takeUsed().length, 2 * FRAMES);
    } finally {
      for (const { port, driver } of guests) {
        port?.close();
        driver.close();
      }
      removeScratchDir(dir);
    }
    t.is(batch.journal, undefined);
  });
}

test('a decision is applied only to the ring that it names, and where that still stands', (t) => {
  const dir = scratchDir('rwj');
  const driver = new Driver(1);
  try {
    const journal = new Journal(join(dir, 'journal'));
    const state = new Int32Array(16);
    const words = new Int32Array(4096);
    const worker = new WorkerJournal(words);
    const ring = { low: 1, high: 2, ring: 0, state, queue: { next: 3 } };
    worker.add(ring);
    worker.decide();
    t.deepEqual([...words.subarray(0, 13)], [1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 0]);
    worker.done();
    t.is(words[0], 0);
    worker.remove(ring);
    t.true(worker.empty);
    t.is(journal.decided({ low: 1, high: 2 }, 0), undefined);
    journal.forget({ low: 1, high: 2 }, 0);
  } finally {
    driver.close();
    removeScratchDir(dir);
  }
});

test('an area that another journal knew gets another name', (t) => {
  const fd = makeArea();
  const [one, two] = [
    { low: 1, high: 2 },
    { low: 1, high: 3 },
  ];
  const name = nameOf(fd, 0, 4096, 1, one);
  t.deepEqual(nameOf(fd, 0, 4096, 1, one), name);
  const other = nameOf(fd, 0, 4096, 1, two);
  t.notDeepEqual(other, name);
  t.notDeepEqual(nameOf(fd, 0, 4096, 1, one), name, 'what the first had decided is void for ever');
  t.throws(() => nameOf(fd, 0, 16, 1, one), { instanceOf: RangeError });
  close(fd);
});

test('a journal of another version says nothing', (t) => {
  const dir = scratchDir('rwj');
  const path = join(dir, 'journal');
  writeFileSync(path, Buffer.alloc(1 << 16, 7));
  const journal = new Journal(path);
  t.is(journal.decided({ low: 0x07070707, high: 0x07070707 }, 7), undefined);
  const { name } = journal;
  journal.close();
  t.deepEqual(new Journal(path).name, name);
  removeScratchDir(dir);
});

test('where a front end wants frames only, queues are used as they are', (t) => {
  const { attachment, ...driver } = new Driver(1);
  const memory = new GuestMemory(attachment.regions, 1);
  const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
  const extras = new Extras(attachment, { worker: 0, workers: 1, counters, batch }, memory);
  const queue = { portNo: 1, queue: 0, kickFd: -1, poll: () => 0, complete() {}, arm: () => false, disarm() {} };
  t.is(extras.rx(queue, attachment.rings[1]!), queue);
  t.is(batch.copyLogs.length, 0);
  t.is(batch.journal, undefined);
  extras.close();
  memory.close();
  close(driver.fd);
});
