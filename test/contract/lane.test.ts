import test from 'ava';
import * as lane from '#contract/lane.ts';
import { mapAnonymous } from '#contract/os.ts';

const { Lane, LANE_BYTES } = lane;

test('the sections of a lane follow each other without overlap', (t) => {
  const made = new Lane(mapAnonymous(LANE_BYTES));
  const sections = [
    [0, lane.LANE_HEADER_BYTES],
    [lane.LANE_UPCALL_AT, lane.UPCALL_RING_BYTES],
    [lane.LANE_COMMAND_AT, lane.COMMAND_RING_BYTES],
    ...[made.worker, made.ports, made.flows].map((view) => [view.byteOffset, view.byteLength]),
  ] as [number, number][];
  let end = 0;
  for (const [at, bytes] of sections) {
    t.is(at, end);
    t.is(at % 8, 0);
    end = at + bytes;
  }
  t.is(end, LANE_BYTES);
  t.is(made.ports.length % lane.MAX_PORTS, 0);
  t.is(made.flows.length, lane.MAX_FLOWS * lane.FLOW_ROW);
});

test('words that different threads write lie on cache lines of their own', (t) => {
  const shared = Object.entries(lane).filter(([name]) =>
    /^H_(UPCALL|CONTROL|COMMAND|WORKER_ASLEEP|BARRIER)/.test(name),
  );
  t.is(shared.length, 8);
  const lines = shared.map(([, word]) => Math.floor(((word as number) * 4) / 64));
  t.is(new Set(lines).size, lines.length);
  t.true(lines.every((line) => line > 0 && line < lane.LANE_HEADER_BYTES / 64));
});

test('rings are powers of two and hold several of the longest records', (t) => {
  for (const bytes of [lane.UPCALL_RING_BYTES, lane.COMMAND_RING_BYTES]) {
    t.is(bytes & (bytes - 1), 0);
    t.true(bytes >= 4 * lane.MAX_RECORD_BYTES);
  }
});

test('memory that is too small is refused', (t) => {
  t.throws(() => new Lane(new ArrayBuffer(LANE_BYTES - 8)), { instanceOf: RangeError, message: /needed/ });
});
