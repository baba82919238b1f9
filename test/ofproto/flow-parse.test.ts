import test from 'ava';
import type { FlowCommand } from '#ofproto/api.ts';
import { RequestError } from '#ofproto/api.ts';
import { ALL_TABLES, ANY_GROUP, DEFAULT_PRIORITY, parseFlowFilter, parseFlowMod } from '#ofproto/flow-parse.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import { OFPP_NONE } from '#ofproto/ofp-port.ts';
import { portNames, refusal } from './golden.ts';

const add = (text: string) => parseFlowMod('add', text, portNames);
const errorOf = (command: FlowCommand, text: string) => refusal(() => parseFlowMod(command, text, portNames));

test('flow keys are read, statistics are ignored', (t) => {
  const flow = add(
    'table=5,cookie=0x10,priority=3,idle_timeout=5,hard_timeout=10,importance=3,send_flow_rem,check_overlap,' +
      'duration=1.5s,n_packets=3,n_bytes=5,idle_age=4,hard_age=5,reset_counts,no_packet_counts,no_byte_counts,ip,actions=drop',
  );
  t.like(flow, {
    table: 5,
    newCookie: 16n,
    cookieMask: 0n,
    priority: 3,
    idleTimeout: 5,
    hardTimeout: 10,
    importance: 3,
  });
  t.deepEqual(
    [...flow.flags],
    ['send_flow_rem', 'check_overlap', 'reset_counts', 'no_packet_counts', 'no_byte_counts'],
  );
  t.is(formatMatch(flow.match), 'ip');
});

test('what a flow does not name has its default', (t) => {
  const flow = add('actions=drop');
  t.like(flow, {
    table: 0,
    newCookie: 0n,
    priority: DEFAULT_PRIORITY,
    idleTimeout: 0,
    hardTimeout: 0,
    outPort: OFPP_NONE,
    outGroup: ANY_GROUP,
  });
  t.deepEqual([...flow.actions], []);
  t.like(parseFlowMod('modify', 'actions=1'), { table: ALL_TABLES, newCookie: undefined });
  t.like(parseFlowMod('delete', ''), { table: ALL_TABLES, cookieMask: 0n });
});

test('a dump line of its own tool is a valid flow', (t) => {
  const flow = add(
    ' cookie=0x5, duration=0.113s, table=3, n_packets=0, n_bytes=0, idle_timeout=5, idle_age=0, priority=7,udp actions=output:1',
  );
  t.like(flow, { table: 3, priority: 7, idleTimeout: 5, newCookie: 5n });
});

test('filters select by cookie, port and group', (t) => {
  const filter = parseFlowFilter('table=3,cookie=0x12/0xf,out_port=p2,out_group=7,tcp', portNames);
  t.like(filter, { table: 3, cookie: 2n, cookieMask: 15n, outPort: 2, outGroup: 7 });
  t.is(parseFlowFilter('cookie=1/-1').cookieMask, 2n ** 64n - 1n);
  t.is(parseFlowFilter('priority=5', portNames, true).priority, 5);
});

for (const [command, text, message] of [
  ['add', 'priority=70000,actions=1', 'invalid priority "70000"'],
  ['add', 'priority=abc,actions=1', 'invalid priority "abc"'],
  ['add', 'priority=-1,actions=1', 'invalid priority "-1"'],
  ['add', 'idle_timeout=70000,actions=1', 'invalid idle_timeout "70000"'],
  ['add', 'table=256,actions=1', 'unknown table "256"'],
  ['add', 'table=254,actions=1', 'unknown table "254"'],
  ['add', 'cookie=abc,actions=1', 'invalid numeric format abc'],
  ['add', 'cookie=1/1,actions=1', 'flow additions cannot use a cookie mask'],
  ['add', 'out_port=1,actions=1', 'unknown keyword out_port'],
  ['add', 'in_port=1', 'must specify an action'],
  ['add', 'foo=5,actions=1', 'unknown keyword foo'],
  ['add', 'foo,actions=1', 'unknown keyword foo'],
  ['add', 'priority=5,priority=6,actions=1', 'priority is given twice'],
  ['delete', 'priority=5', 'unknown keyword priority'],
  ['delete', 'actions=1', 'unknown keyword actions'],
  ['delete', 'cookie=1', 'cannot set cookie'],
  ['add', 'table=3,actions=goto_table:3', 'actions are invalid with specified match (OFPBIC_BAD_TABLE_ID)'],
  ['add', 'dl_vlan=4096,actions=1', '4096: value too large for 12-bit field dl_vlan'],
  ['add', 'ip,nw_tos=33,actions=1', 'nw_tos=33 has ECN bits'],
  ['add', 'tp_dst=80,actions=1', 'tp_dst needs tcp, udp or sctp (tcp6, udp6 or sctp6) in the match'],
  ['add', 'udp,tcp_dst=80,actions=1', 'tcp_dst needs tcp or tcp6 in the match'],
  ['add', 'tcp,ip_frag=later,tp_dst=80,actions=1', 'tp_dst needs tcp or tcp6 without ip_frag=later in the match'],
  ['add', 'ip,nw_src=1.2.3.4,nw_src=1.2.3.5,actions=1', 'nw_src is given twice'],
  ['add', 'ip,arp,actions=1', 'arp contradicts what the match says before'],
  ['add', 'ip,nw_ttl=010,actions=1', '010: bad syntax for nw_ttl value'],
  ['add', 'ip,nw_src=256.1.1.1,actions=1', '256.1.1.1: invalid IP address'],
  ['add', 'vlan_vid=5,actions=1', 'vlan_vid=5 lacks the "present" bit 0x1000'],
  ['add', 'ct_state=+new,actions=1', 'ct_state is not supported yet'],
  ['add', 'actions=learn(table=1)', 'learn is not supported yet'],
  ['add', 'actions=set_queue:1', 'set_queue is not supported yet: ports have no queues'],
  ['add', 'actions=mod_nw_dst:1.2.3.4', 'actions are invalid with specified match (OFPBAC_MATCH_INCONSISTENT)'],
  ['add', 'actions=output(port=1,max_len=100', 'unbalanced parentheses in "output(port=1,max_len=100"'],
  ['add', `actions=${'1,'.repeat(1025)}`, 'more than 1024 actions'],
  ['add', `actions=${'1,'.repeat(40_000)}`, 'text of 80000 characters, at most 65536 are allowed'],
] as const) {
  test(`${command} of ${text.slice(0, 60)} is refused: ${message}`, (t) => t.is(errorOf(command, text), message));
}

test('errors carry a code, the field and a hint', (t) => {
  const error = t.throws(() => add('ip,nw_tos=33,actions=1'), { instanceOf: RequestError })!;
  t.like(error, { code: 'bad_value', field: 'nw_tos', hint: 'nw_tos=32,nw_ecn=1', status: 400 });
  t.like(
    t.throws(() => add('actions=dec_ttl')),
    { code: 'OFPBAC_MATCH_INCONSISTENT', hint: 'dec_ttl needs ip or ipv6 in the match' },
  );
});

test('a tag that an action pushes satisfies what follows', (t) => {
  t.notThrows(() => add('actions=push_vlan:0x8100,set_field:4101->vlan_vid,1'));
  t.notThrows(() => add('actions=mod_vlan_vid:5,set_field:3->vlan_pcp'));
  t.throws(() => add('dl_vlan=5,actions=strip_vlan,set_field:3->vlan_pcp'));
});
