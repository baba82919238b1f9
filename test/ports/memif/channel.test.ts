import test from 'ava';
import { accept, close, eventfd, unixConnect, unixListen } from '#contract/os.ts';
import { Channel, printable } from '#ports/memif/channel.ts';
import * as wire from '#ports/memif/wire.ts';
import { until } from '../../support/process.ts';
import { Control, newPath } from './control.ts';

/** A client's channel, and the socket of its server. */
function pair(handler: ConstructorParameters<typeof Channel>[2]): {
  channel: Channel;
  peer: Control;
  ends: [string, boolean][];
} {
  const path = newPath();
  const listener = unixListen(path, { packets: true });
  const peer = new Control(unixConnect(path, { packets: true }));
  const ends: [string, boolean][] = [];
  const channel = new Channel(accept(listener), 'client', handler, (...end) => void ends.push(end));
  close(listener);
  return { channel, peer, ends };
}

test('messages are obeyed one after the other, however long each takes', async (t) => {
  const seen: string[] = [];
  const { channel, peer } = pair(async (_, bytes) => {
    const { name } = wire.CONNECT_LAYOUT.decode(bytes, 2);
    seen.push(`${name} begins`);
    await new Promise((resolve) => setImmediate(resolve));
    seen.push(`${name} ends`);
  });
  for (const name of ['a', 'b', 'c']) peer.send(wire.encodeConnect(name));
  await until('all', () => seen.length === 6);
  t.deepEqual(seen, ['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
  channel.end('');
  peer.close();
});

test('a peer that does not read gets all of it later, in order, with the descriptors', async (t) => {
  const { channel, peer } = pair(() => {});
  const event = eventfd();
  for (let i = 0; i < 1500; i++) channel.send(wire.encodeConnected(String(i)), i % 100 === 0 ? event : -1);
  for (let i = 0; i < 1500; i++) t.is(wire.CONNECT_LAYOUT.decode((await peer.receive())!, 2).name, String(i));
  t.is(peer.kept.length, 15);
  channel.end('enough');
  t.is(await peer.refusal(), 'enough');
  peer.close();
  close(event);
});

test('an end is told once, with what was said about it', async (t) => {
  const failing = pair(() => {
    throw new Error('no');
  });
  failing.peer.send(wire.encodeConnect(''));
  t.is(await failing.peer.refusal(), 'no');
  failing.channel.end('again');
  t.deepEqual(failing.ends, [['no', false]]);
  const leaving = pair(() => {});
  leaving.peer.send(wire.encodeDisconnect('bye'));
  leaving.peer.close();
  await until('the end', () => leaving.ends.length > 0);
  t.deepEqual(leaving.ends, [['the peer disconnected: bye', true]]);
  const closing = pair(() => {});
  closing.peer.close();
  closing.channel.probe();
  t.deepEqual(closing.ends, [['', false]]);
  t.false(closing.channel.open);
  failing.peer.close();
});

test('what a peer says is shown without control characters', (t) => {
  t.is(printable('a\n\x1b[31mb\x7fü'), 'a??[31mb??');
});
