/** Commands of rw-appctl with answers of the API made up. */
import test from 'ava';
import { type AppContext, ServerError } from '#mgmt/cli/appctl/context.ts';
import { datapathCommands } from '#mgmt/cli/appctl/datapath.ts';
import { ofprotoCommands } from '#mgmt/cli/appctl/ofproto.ts';
import { ApiError, type Client } from '#mgmt/cli/client.ts';
import { Output } from '#mgmt/cli/options.ts';

async function run(name: string, args: string[], answers: Record<string, unknown>): Promise<string> {
  const call = async (method: string, path: string): Promise<unknown> => {
    const answer = answers[`${method} ${path}`];
    if (answer instanceof Error) throw answer;
    return answer ?? {};
  };
  const get = (path: string): Promise<unknown> => call('GET', path);
  const client = { call, get, list: get } as unknown as Client;
  const out = new Output();
  const context: AppContext = { client, out, args, json: false, bridge: async () => ({}) };
  await { ...datapathCommands, ...ofprotoCommands }[name]!.run(context);
  return out.take();
}

const counters = {
  rx_packets: 100,
  recirculated: 0,
  simple_hits: 0,
  emc_hits: 80,
  megaflow_hits: 18,
  megaflow_lookups: 27,
  upcalls: 2,
  lost: 0,
  tx_packets: 96,
  tx_batches: 3,
  busy_cycles: 4000,
  idle_cycles: 6000,
};
const pmd = (core: number, usage: number) => ({
  worker: 0,
  core,
  numa: 0,
  isolated: true,
  counters,
  rxqs: [
    { portName: 'b', queue: 1, enabled: false, usage, why: '' },
    { portName: 'a', queue: 0, enabled: true, usage, why: '' },
  ],
});

test('pmd-stats-show tells hits, lookups, batches and cycles', async (t) => {
  const text = await run('dpif-netdev/pmd-stats-show', ['-pmd', '3'], {
    'GET /v1/datapath/pmd': { pmds: [pmd(3, 0.1), pmd(4, 0.1)] },
  });
  t.is(
    text,
    `pmd thread numa_id 0 core_id 3:
  packets received: 100
  packet recirculations: 0
  avg. datapath passes per packet: 1.00
  phwol hits: 0
  mfex opt hits: 0
  simple match hits: 0
  emc hits: 80
  smc hits: 0
  megaflow hits: 18
  avg. subtable lookups per megaflow hit: 1.50
  miss with success upcall: 2
  miss with failed upcall: 0
  avg. packets per output batch: 32.00
  idle cycles: 6000 (60.00%)
  processing cycles: 4000 (40.00%)
  avg cycles per packet: 100.00 (10000/100)
  avg processing cycles per packet: 40.00 (4000/100)
`,
  );
});

test('pmd-rxq-show sorts queues and tells usage and overhead', async (t) => {
  t.is(
    await run('dpif-netdev/pmd-rxq-show', [], { 'GET /v1/datapath/pmd': { pmds: [pmd(1, 0.15)] } }),
    `Displaying last 60 seconds pmd usage %
pmd thread numa_id 0 core_id 1:
  isolated : true
  port: a                 queue-id:  0 (enabled)   pmd usage: 15 %
  port: b                 queue-id:  1 (disabled)  pmd usage: 15 %
  overhead: 10 %
`,
  );
});

test('datapath flows tell their age and TCP flags', async (t) => {
  const flow = { id: 258, match: 'in_port(1)', actions: '', packets: 1, bytes: 60, used: -1, tcpFlags: 0x12 };
  const answers = { 'GET /v1/datapath/flows': [flow] };
  t.regex(
    await run('dpctl/dump-flows', [], answers),
    /^in_port\(1\), packets:1, bytes:60, used:never, flags:S\., actions:drop$/m,
  );
  t.regex(await run('dpctl/dump-flows', ['-m'], answers), /^ufid:00000000-0000-4000-8000-000000000102, /m);
  await t.throwsAsync(run('dpctl/dump-flows', ['pmd=1'], answers), { instanceOf: ServerError });
  await t.throwsAsync(run('dpctl/dump-flows', ['other'], answers), { message: /datapath not found/ });
});

test('a trace of one argument is a datapath flow, an error is told with its text', async (t) => {
  const trace = { 'POST /v1/trace': { text: 'Flow: x' } };
  t.is(await run('ofproto/trace', ['in_port(1),eth()'], trace), 'Flow: x\n');
  t.is(await run('ofproto/trace', ['br0', 'in_port=1'], trace), 'Flow: x\n');
  const error = new ApiError(400, { code: 'unknown_keyword', field: '', message: 'unknown keyword a', hint: '' });
  await t.throwsAsync(run('ofproto/trace', ['br0', 'a'], { 'POST /v1/trace': error }), {
    message: 'Bad openflow flow syntax: a: unknown field a',
  });
});
