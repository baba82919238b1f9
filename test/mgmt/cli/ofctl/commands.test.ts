/** Commands of rw-ofctl with a client that only notes what is asked: requests, layouts, errors. */
import test from 'ava';
import { ApiError, type Body, type Client, Fatal, Refusal } from '#mgmt/cli/client.ts';
import { bridgeName, type Context } from '#mgmt/cli/ofctl/context.ts';
import { type FlowMessage, isSortField, sortFlows } from '#mgmt/cli/ofctl/flow-format.ts';
import { flowCommands } from '#mgmt/cli/ofctl/flows.ts';
import { groupCommands } from '#mgmt/cli/ofctl/groups.ts';
import { describePort, type PortMessage, portStatistics } from '#mgmt/cli/ofctl/port-format.ts';
import { parseVersion, replyHeader } from '#mgmt/cli/ofctl/protocol.ts';
import { switchCommands } from '#mgmt/cli/ofctl/switch.ts';
import { Output } from '#mgmt/cli/options.ts';

const flow = (more: Partial<FlowMessage> = {}): FlowMessage => ({
  table: 0,
  priority: 32768,
  cookie: '0x0',
  duration: 1.5,
  idleTimeout: 0,
  hardTimeout: 0,
  importance: 0,
  flags: [],
  packets: 3,
  bytes: 180,
  idleAge: 1,
  hardAge: 1,
  match: '',
  actions: 'drop',
  ...more,
});

const port: PortMessage = {
  spec: { name: 'vhost0', config: ['down', 'no-flood'] },
  ofport: 7,
  mac: '02:00:00:00:00:01',
  linkUp: true,
  duration: 2,
  statistics: {
    counters: { rx_packets: 1, rx_bytes: 60, tx_packets: 2, tx_bytes: 120, kicks: 5 },
    drops: { tx_ring_full: 4, rx_short_frame: 1, flow_drop: 9 },
  },
};

/** Runs a command; `answer` stands for the API. @returns its requests and what it printed. */
async function run(
  name: string,
  args: string[],
  answer: (method: string, path: string) => unknown,
  options: Record<string, string> = {},
) {
  const requests: string[] = [];
  const call = async (method: string, path: string, body?: Body): Promise<unknown> => {
    requests.push([method, path, ...(body ? [String(body.bytes)] : [])].join(' '));
    return answer(method, path);
  };
  const list = async (path: string): Promise<unknown> => call('GET', path);
  const client = { call, list, get: (path: string) => call('GET', path) } as unknown as Client;
  const out = new Output();
  const context: Context = {
    client,
    out,
    args,
    json: false,
    version: parseVersion(options.protocols),
    options: new Map(Object.entries(options)),
  };
  const code = await { ...flowCommands, ...groupCommands, ...switchCommands }[name]!.run(context);
  return { requests, code, text: out.take() };
}

test('flows are sorted by a field as numbers and addresses, those without it last', (t) => {
  const flows = [
    flow({ match: 'ip,nw_dst=10.0.0.9' }),
    flow({ match: 'arp' }),
    flow({ match: 'ip,nw_dst=9.0.0.10/24' }),
    flow({ match: 'ip,nw_dst=10.0.0.10' }),
  ];
  sortFlows(flows, 'ip_dst', false);
  t.deepEqual(
    flows.map(({ match }) => match),
    ['ip,nw_dst=9.0.0.10/24', 'ip,nw_dst=10.0.0.9', 'ip,nw_dst=10.0.0.10', 'arp'],
  );
  sortFlows(flows, 'nw_dst', true);
  t.is(flows[3]!.match, 'arp');
  t.is(flows[0]!.match, 'ip,nw_dst=10.0.0.10');
  t.true(isSortField('reg15'));
  t.false(isSortField('reg16'));
});

test('the highest of several versions counts; an unknown one is refused', (t) => {
  t.is(parseVersion('OpenFlow10,openflow14').label, ' (OF1.4)');
  t.is(replyHeader(parseVersion('OpenFlow10'), 'FLOW', 4, true), 'NXST_FLOW reply (xid=0x4):');
  t.throws(() => parseVersion('OpenFlow9'), { message: 'Unknown OpenFlow version: "OpenFlow9"' });
});

test('a bridge goes by its name or the path of its socket', (t) => {
  t.is(bridgeName('br0'), 'br0');
  t.is(bridgeName('unix:/run/openvswitch/br0.mgmt'), 'br0');
  t.throws(() => bridgeName('tcp:127.0.0.1:6653'), { instanceOf: Fatal });
});

test('a port that is down shows it, statistics grow with the version', (t) => {
  t.deepEqual(describePort(port, parseVersion(undefined)).slice(0, 3), [
    ' 7(vhost0): addr:02:00:00:00:00:01',
    '     config:     PORT_DOWN NO_FLOOD',
    '     state:      LINK_DOWN',
  ]);
  t.deepEqual(portStatistics(port, parseVersion('OpenFlow14')), [
    '  port  7: rx pkts=1, bytes=60, drop=1, errs=0, frame=?, over=?, crc=?',
    '           tx pkts=2, bytes=120, drop=4, errs=0, coll=?',
    '           duration=2.000s',
    '           CUSTOM Statistics',
    '                      kicks=5, ovs_tx_failure_drops=4, rx_short_frame=1,',
    '                      flow_drop=9,',
  ]);
});

test('commands ask for one atomic change', async (t) => {
  const done = () => ({});
  t.deepEqual((await run('add-flow', ['br0', 'ip,actions=drop'], done)).requests, [
    'POST /v1/bridges/br0/flows?protocol=OpenFlow10 {"mods":[{"command":"add","flow":"ip,actions=drop"}]}',
  ]);
  t.deepEqual((await run('del-flows', ['br0'], done, { strict: '' })).requests, [
    'POST /v1/bridges/br0/flows?protocol=OpenFlow10 {"mods":[{"command":"delete_strict","flow":""}]}',
  ]);
  t.deepEqual((await run('mod-group', ['br0', 'group_id=1'], done, { 'may-create': '' })).requests, [
    'POST /v1/bridges/br0/groups {"mods":[{"command":"add_or_modify","group":"group_id=1"}]}',
  ]);
  const ports = (method: string) => (method === 'GET' ? [port] : {});
  t.deepEqual((await run('mod-port', ['br0', '7', 'up'], ports)).requests, [
    'GET /v1/bridges/br0/ports',
    'PATCH /v1/bridges/br0/ports/vhost0 {"name":"vhost0","config":["no-flood"]}',
  ]);
});

test('bucket ids are printed for 1.5 and the Nicira extension only', async (t) => {
  const groups = () => [{ groupId: 1, text: 'group_id=1,type=all,bucket=bucket_id:3,actions=output:1' }];
  t.is(
    (await run('dump-groups', ['br0'], groups, { protocols: 'OpenFlow13' })).text,
    'OFPST_GROUP_DESC reply (OF1.3) (xid=0x2):\n group_id=1,type=all,bucket=actions=output:1\n',
  );
  t.regex((await run('dump-groups', ['br0'], groups)).text, /bucket=bucket_id:3,actions/);
});

test("the switch's own refusals look like OpenFlow errors, others name the line", async (t) => {
  const refuse = (code: string, field: string) => (): never => {
    throw new ApiError(400, { code, field, message: 'm', hint: '' });
  };
  const error = await t.throwsAsync(
    run('add-flow', ['br0', 'actions=group:7'], refuse('OFPBAC_BAD_OUT_GROUP', 'mods[0].flow'), {
      protocols: 'OpenFlow13',
    }),
    { instanceOf: Refusal },
  );
  t.is(
    error!.message,
    'OFPT_ERROR (OF1.3) (xid=0x6): OFPBAC_BAD_OUT_GROUP\nOFPT_FLOW_MOD (OF1.3) (xid=0x6): ADD actions=group:7\n',
  );
  await t.throwsAsync(run('add-flow', ['br0', 'x'], refuse('no_such_bridge', '')), {
    message: 'br0 is not a bridge or a socket',
  });
  await t.throwsAsync(run('add-flows', ['br0', '/dev/null'], refuse('bad_value', 'line 3')), {
    message: '/dev/null:3: m',
  });
});
