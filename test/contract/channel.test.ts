import { readFileSync } from 'node:fs';
import test from 'ava';
import { Channel } from '../../src/contract/channel.ts';
import { close, memfd, sendWithFds, socketPair } from '../../src/contract/os.ts';
import { until } from '../support/process.ts';

interface Got {
  frames: { bytes: Uint8Array; fds: number[] }[];
  closed: string[];
}

const pairOf = () => {
  const [a, b] = socketPair();
  const got: Got = { frames: [], closed: [] };
  const events = {
    frame: (bytes: Uint8Array, fds: number[]) => void got.frames.push({ bytes, fds }),
    closed: (reason: string) => void got.closed.push(reason),
  };
  return { near: a, got, far: new Channel(b, events) };
};

test('frames of any size arrive whole and in order', async (t) => {
  const { near, got, far } = pairOf();
  const sender = new Channel(near, { frame() {}, closed() {} });
  const sizes = [0, 1, 3, 4, 65_535, 65_536, 65_537, 3_000_000, 7];
  for (const size of sizes) sender.send(new Uint8Array(size).fill(size & 255));
  await until('the frames', () => got.frames.length === sizes.length);
  t.deepEqual(
    got.frames.map((f) => f.bytes.length),
    sizes,
  );
  t.true(got.frames.every((f) => f.bytes.every((b) => b === (f.bytes.length & 255))));
  sender.close();
  await until('the close', () => got.closed.length === 1);
  t.is(got.closed.length, 1);
  far.close();
  t.is(got.closed.length, 1);
});

test('descriptors come with their own frame', async (t) => {
  const { near, got, far } = pairOf();
  const sender = new Channel(near, { frame() {}, closed() {} });
  const fd = memfd('marker', 4096);
  sender.send(Uint8Array.of(1));
  sender.send(Uint8Array.of(2), [fd]);
  sender.send(Uint8Array.of(3));
  await until('the frames', () => got.frames.length === 3);
  t.deepEqual(
    got.frames.map((f) => f.fds.length),
    [0, 1, 0],
  );
  t.regex(readFileSync(`/proc/self/fdinfo/${got.frames[1]!.fds[0]!}`, 'utf8'), /flags/);
  close(got.frames[1]!.fds[0]!);
  close(fd);
  sender.close();
  far.close();
});

test('a frame length beyond the limit closes the connection', async (t) => {
  const { near, got } = pairOf();
  sendWithFds(near, Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0), 0, 8, null, 0);
  await until('the close', () => got.closed.length === 1);
  t.regex(got.closed[0]!, /at most/);
  close(near);
});

test('a peer that goes away in mid-frame is a close, not an error', async (t) => {
  const { near, got } = pairOf();
  sendWithFds(near, Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0, 1, 2), 0, 10, null, 0);
  close(near);
  await until('the close', () => got.closed.length === 1);
  t.is(got.frames.length, 0);
  t.deepEqual(got.closed, ['peer closed the connection']);
});
