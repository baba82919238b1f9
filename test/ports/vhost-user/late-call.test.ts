import test, { type ExecutionContext } from 'ava';
import { close, eventfd, eventfdDrain, sampleTsc, tscHz, tscSample } from '#contract/os.ts';
import { LONGEST_MICROS, QUIET_MICROS } from '#ports/vhost-user/late-call.ts';
import { EVENT_DESC } from '#ports/vhost-user/vring-packed.ts';
import { forward, TestPort } from './test-port.ts';

const SIZE = 64;
const FRAME = Buffer.alloc(60, 1);

/** A guest that sends, and one that receives; the clock stands still but for `later`. */
class Lab {
  readonly call = eventfd();
  readonly sender: TestPort;
  readonly receiver = new TestPort(2, { size: 256 });

  constructor(packed: boolean, eventIdx = false) {
    sampleTsc();
    const options = { size: SIZE, packed, rx: { eventIdx } };
    this.sender = new TestPort(1, options, 0, (attachment) => ({
      ...attachment,
      rings: attachment.rings.map((ring) => ({ ...ring, callFd: ring.index === 1 ? this.call : -1 })),
    }));
    while (this.receiver.driver.post(2048));
  }

  get rx() {
    return this.sender.port.rx[0]!;
  }

  send(frames: number): void {
    for (let i = 0; i < frames; i++) this.sender.driver.send(FRAME);
    forward(this.sender, this.receiver);
  }

  /** Time passes, and the ring is found empty. @returns calls since this was asked last. */
  later(micros: number): number {
    tscSample[0]! += (micros / 1e6) * tscHz();
    forward(this.sender, this.receiver);
    return this.calls();
  }

  calls(): number {
    return Math.max(0, eventfdDrain(this.call));
  }

  /** What a driver does that has seen `used` frames and wants to hear of the next. */
  wants(used: number): void {
    const ring = this.sender.driver.txRing;
    if (this.sender.attachment.packed) ring.view.setUint32(ring.availAt, used | (1 << 15) | (EVENT_DESC << 16), true);
    else ring.view.setUint16(ring.availAt + 4 + 2 * SIZE, used, true);
  }

  close(): void {
    this.sender.close();
    this.receiver.close();
    close(this.call);
  }
}

for (const packed of [false, true]) {
  const kind = packed ? 'packed' : 'split';
  const within = (eventIdx: boolean, what: (t: ExecutionContext, lab: Lab) => void) => (t: ExecutionContext) => {
    const lab = new Lab(packed, eventIdx);
    try {
      what(t, lab);
    } finally {
      lab.close();
    }
  };

  test(
    `${kind}: one call for the frames of several bursts, some time after the last`,
    within(false, (t, lab) => {
      lab.send(3);
      t.is(lab.later(QUIET_MICROS / 2), 0);
      lab.send(2);
      t.is(lab.later(QUIET_MICROS * 0.9), 0);
      t.is(lab.later(QUIET_MICROS * 0.2), 1);
      t.is(lab.later(LONGEST_MICROS * 2), 0, 'there is nothing more to tell');
      t.is(lab.sender.counts().calls, 1);
    }),
  );

  test(
    `${kind}: frames that keep coming put a call off for so long only`,
    within(false, (t, lab) => {
      const step = QUIET_MICROS / 2;
      let calls = 0;
      for (let micros = 0; micros <= LONGEST_MICROS; micros += step) {
        lab.send(1);
        calls += lab.later(step);
      }
      t.is(calls, 1);
    }),
  );

  test(
    `${kind}: a driver hears at once when half of its ring is done`,
    within(false, (t, lab) => {
      lab.send(SIZE / 2 - 1);
      t.is(lab.calls(), 0);
      lab.send(1);
      t.is(lab.calls(), 1);
    }),
  );

  test(
    `${kind}: no call where the driver has looked by then`,
    within(true, (t, lab) => {
      lab.wants(0);
      lab.send(3);
      lab.wants(3);
      t.is(lab.later(QUIET_MICROS * 1.1), 0);
      lab.send(1);
      t.is(lab.later(QUIET_MICROS * 1.1), 1);
    }),
  );

  test(
    `${kind}: a worker that goes to sleep, or polls the ring no more, calls before`,
    within(false, (t, lab) => {
      lab.send(1);
      t.false(lab.rx.arm());
      t.is(lab.calls(), 1);
      lab.rx.disarm();
      lab.send(1);
      lab.rx.rest!();
      t.is(lab.calls(), 1);
      t.is(lab.later(LONGEST_MICROS * 2), 0);
    }),
  );
}
