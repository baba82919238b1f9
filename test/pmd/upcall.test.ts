import test from 'ava';
import { output } from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { H_CONTROL_ASLEEP, UPCALL_RING_BYTES } from '#contract/lane.ts';
import { eventfdDrain, pollFds } from '#contract/os.ts';
import { eth, filler, packet } from '../support/packets.ts';
import { WorkerRig } from '../support/worker-rig.ts';

const frame = (length: number, seed = 0): Uint8Array => packet(eth({ type: 0x88b5 }), filler(length - 14, seed));
const rung = (fd: number): boolean => {
  const ready = pollFds(Int32Array.of(fd), 1, 0) > 0;
  eventfdDrain(fd);
  return ready;
};

test('misses arrive in order with number, in_port, key and whole frame', (t) => {
  const rig = new WorkerRig();
  const frames = [60, 14, 200, 1500, 9000].map(frame);
  rig.receive(...frames);
  for (const [i, wanted] of frames.entries()) {
    const upcall = rig.client.next()!;
    t.is(upcall.seq, i);
    t.is(upcall.inPort, 1);
    t.is(upcall.key[0], 1);
    t.is(upcall.key[7]! >>> 16, 0x88b5);
    t.is(Buffer.compare(upcall.frame, wanted), 0);
  }
  t.is(rig.client.next(), undefined);
});

test('the doorbell rings once per burst, and only for a control plane that sleeps', (t) => {
  const rig = new WorkerRig();
  rig.receive(frame(60));
  t.false(rung(rig.doorbell), 'it looks by itself');
  t.false(rig.client.sleep(), 'there is one to be read first');
  rig.client.next();
  rig.client.release();
  t.true(rig.client.sleep());
  rig.receive(frame(60), frame(60));
  t.true(rung(rig.doorbell));
  t.is(rig.lane.header[H_CONTROL_ASLEEP], 0);
  rig.receive(frame(60));
  t.false(rung(rig.doorbell));
});

test('without a control plane every miss is lost by name', (t) => {
  const rig = new WorkerRig();
  rig.upcalls.attach(-1);
  t.false(rig.upcalls.attached);
  rig.receive(frame(60), frame(60));
  t.is(rig.drops(1, 'no_control_plane'), 2);
  t.is(rig.client.next(), undefined);
});

test('a full ring loses further misses by name; room comes back with the answers', (t) => {
  const rig = new WorkerRig();
  const big = frame(60_000);
  const fit = Math.floor(UPCALL_RING_BYTES / (60_000 + 160));
  for (let i = 0; i < fit + 5; i++) rig.receive(big);
  t.is(rig.drops(1, 'upcall_ring_full'), 5);
  for (let upcall = rig.client.next(); upcall; upcall = rig.client.next())
    rig.client.reply(upcall.seq, Uint32Array.from(output(2)));
  rig.client.release();
  for (let turn = 0; turn < 3; turn++) rig.obey();
  t.is(rig.sent.length, fit);
  rig.receive(big);
  t.is(rig.drops(1, 'upcall_ring_full'), 5);
  t.truthy(rig.client.next());
});

test('what is unanswered when the control plane goes is told once, and the next one starts afresh', (t) => {
  const rig = new WorkerRig();
  rig.receive(frame(60, 1), frame(60, 2), frame(60, 3));
  rig.client.reply(rig.client.next()!.seq, Uint32Array.from(output(2)));
  rig.obey();
  const lost: number[] = [];
  rig.upcalls.forget((inPort) => lost.push(inPort));
  rig.upcalls.forget((inPort) => lost.push(inPort));
  t.deepEqual(lost, [1, 1]);
  t.is(rig.sent.length, 1);
});

test('another worker goes on with what one that stopped left unanswered, and loses by name what it has no room for', (t) => {
  const old = new WorkerRig();
  const frames = [60, 1500, 9000].map(frame);
  old.receive(...frames);
  const fresh = new WorkerRig();
  fresh.receive(frame(70));
  const lost: [number, number][] = [];
  fresh.upcalls.inherit(old.lane, (inPort, reason) => lost.push([inPort, reason]));
  for (const [seq, wanted] of [frame(70), ...frames].entries()) {
    const upcall = fresh.client.next()!;
    t.deepEqual([upcall.seq, upcall.inPort], [seq, 1]);
    t.is(Buffer.compare(upcall.frame, wanted), 0);
  }
  t.is(fresh.client.next(), undefined);
  t.deepEqual(lost, []);
  fresh.upcalls.attach(-1);
  fresh.upcalls.inherit(old.lane, (inPort, reason) => lost.push([inPort, reason]));
  t.deepEqual(
    lost,
    [1, 1, 1].map((inPort) => [inPort, dropReason('no_control_plane')]),
  );
});
