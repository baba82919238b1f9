import { readdirSync } from 'node:fs';
import test from 'ava';
import { close, eventfd, eventfdDrain, eventfdSignal, recvWithFds, socketPair, Watcher } from '#contract/os.ts';
import { Client } from '#ports/ivshmem/client.ts';
import { Pools } from '#ports/ivshmem/registry.ts';
import { MESSAGE_BYTES } from '#ports/ivshmem/wire.ts';
import { until } from '../../support/process.ts';

const descriptors = (): number => readdirSync('/proc/self/fd').length;

test('a client gets eventfds of its own, is rung on all of them, and leaves none open', async (t) => {
  const pools = new Pools();
  // What the event loop needs for watching stays open.
  const watcher = new Watcher(() => undefined);
  const [one, other] = socketPair();
  watcher.add(one);
  watcher.close();
  close(one);
  close(other);
  const seat = pools.join(
    'iv0',
    { name: 'p', size: 4 << 20, bufferBytes: undefined, backing: undefined, isolated: false },
    1,
    async () => undefined,
  );
  const [server, remote] = socketPair();
  // The first signal of a thread opens a descriptor that it keeps.
  const first = eventfd();
  eventfdSignal(first);
  close(first);
  const before = descriptors();
  let ended: string | undefined;
  const client = new Client(server, seat, 3, (reason) => {
    ended = reason;
  });
  t.is(client.pid, String(process.pid));
  t.is(new Set([...client.bells, ...client.calls]).size, 6);
  t.is(seat.shared.guests[seat.slot]!.peer.vectors, client.calls);
  // Version, id, memory, three vectors of the switch; then its own.
  const own: number[] = [];
  const bytes = Buffer.alloc(MESSAGE_BYTES);
  const fds = new Int32Array(2);
  for (let i = 0; i < 9; i++) {
    await until('a message', () => recvWithFds(remote, bytes, 0, MESSAGE_BYTES, fds) === MESSAGE_BYTES);
    if (fds[0] === 0) continue;
    if (i < 6) close(fds[1]!);
    else own.push(fds[1]!);
  }
  client.wake();
  t.deepEqual(own.map(eventfdDrain), [1, 1, 1]);
  for (const fd of own) close(fd);
  client.end('enough');
  t.is(ended, 'enough');
  client.close();
  t.is(seat.shared.guests[seat.slot], undefined);
  // The server's end of the pair is closed too.
  t.is(descriptors(), before - 1);
  close(remote);
  seat.leave();
  t.is(pools.size, 0);
});
