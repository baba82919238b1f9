import test from 'ava';
import type { Channel } from '#contract/channel.ts';
import type { FromDatapath } from '#contract/messages.ts';
import { DatapathRequests } from '#ofproto/datapath-requests.ts';

const channel = { send: () => undefined } as unknown as Channel;
const reply = (message: object): FromDatapath => message as FromDatapath;
const flow = (id: number) => ({ id, words: [], actions: [] });

test('replies go to their requests in any order; what nobody asked for is passed over', async (t) => {
  const requests = new DatapathRequests();
  const first = requests.send(channel, 'getPmds', {});
  const second = requests.send(channel, 'clearPmdCounters', {});
  requests.settle(reply({ id: 99, done: {} }));
  requests.settle(reply({ id: 2, done: {} }));
  requests.settle(reply({ id: 1, pmds: { pmds: [] } }));
  t.like(await first, { id: 1, pmds: { pmds: [] } });
  t.like(await second, { id: 2 });
});

test('a long reply is put together from its parts', async (t) => {
  const requests = new DatapathRequests();
  const dump = requests.send(channel, 'dumpFlows', {});
  requests.settle(reply({ id: 1, flows: { flows: [flow(1), flow(2)], more: true } }));
  requests.settle(reply({ id: 1, flows: { flows: [flow(3)], more: false } }));
  t.deepEqual(
    (await dump).flows!.flows.map(({ id }) => id),
    [1, 2, 3],
  );
});

test('an error rejects its request alone, the end of the connection rejects all', async (t) => {
  const requests = new DatapathRequests();
  const refused = requests.send(channel, 'getPmds', {});
  const lost = requests.send(channel, 'getPmds', {});
  requests.settle(reply({ id: 1, error: { code: 'exists', message: 'there is one' } }));
  t.like(await t.throwsAsync(refused, { message: 'there is one' }), { code: 'exists', status: 409 });
  requests.rejectAll(new Error('gone'));
  await t.throwsAsync(lost, { message: 'gone' });
});
