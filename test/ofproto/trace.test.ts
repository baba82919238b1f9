/** ofproto/trace beside the real one, line by line where both mean the same. */
import test from 'ava';
import { RequestError } from '#ofproto/api.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';
import type { Ovs } from '../support/ovs.ts';
import { startOvsDummy, unavailable } from '../support/ovs-dummy.ts';
import { readGolden } from './golden.ts';

const GROUPS = [
  'group_id=8,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_port:3,actions=output:3',
  'group_id=9,type=all,bucket=actions=output:3,bucket=actions=output:4',
  'group_id=10,type=indirect,bucket=actions=output:3',
];
const FLOWS_11 = ['priority=20,in_port=4,actions=write_actions(output:1),goto_table:3'];
const FLOWS = [
  'priority=10,ip,nw_dst=10.9.9.9,actions=mod_dl_dst:00:00:00:00:00:05,output:2',
  'priority=20,in_port=2,actions=resubmit(,1),output:3',
  'table=1,priority=5,tcp,actions=load:5->NXM_NX_REG0[],resubmit(,2),output:4',
  'table=2,tcp,reg0=5,actions=output:1',
  'priority=20,in_port=3,actions=NORMAL',
  'table=3,priority=0,actions=drop',
  'priority=30,in_port=1,tcp,tcp_dst=80,cookie=0x55,actions=mod_vlan_vid:10,output:2,output:3',
  'priority=32,in_port=1,udp,udp_dst=5,actions=output:1',
  'priority=33,in_port=1,udp,udp_dst=7,actions=group:8',
  'priority=33,in_port=1,udp,udp_dst=8,actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],mod_nw_tos:32,note:aa.bb,mod_nw_src:1.2.3.4,output:2',
  'priority=33,in_port=1,udp,udp_dst=9,actions=group:9,output:5',
  'priority=33,in_port=1,udp,udp_dst=10,actions=group:10',
  'priority=33,in_port=1,udp,udp_dst=11,actions=resubmit(3,0),output:99',
  'priority=33,in_port=1,udp,udp_dst=12,actions=FLOOD,IN_PORT',
  'priority=33,in_port=1,udp,udp_dst=13,actions=drop',
  'priority=34,in_port=5,dl_vlan=7,actions=strip_vlan,output:2,mod_vlan_vid:9,output:3',
];
const PACKETS = [
  'in_port=1,ip,dl_dst=00:00:00:00:00:01,nw_dst=10.9.9.9',
  'in_port=2,tcp,nw_ttl=64',
  'in_port=2,udp',
  'in_port=3,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02',
  'in_port=3,dl_src=00:00:00:00:00:01,dl_dst=01:80:c2:00:00:02',
  'in_port=3,dl_src=00:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff',
  'in_port=4,tcp',
  'in_port=1,tcp,tcp_dst=80',
  'in_port=1,tcp,tcp_dst=81,nw_src=1.2.3.4,nw_dst=5.6.7.8',
  'in_port=1,udp,udp_dst=5',
  'in_port=1,udp,udp_dst=7',
  'in_port=1,udp,dl_src=00:00:00:00:00:03,dl_dst=00:00:00:00:00:09,nw_src=9.9.9.9,udp_dst=8',
  'in_port=1,udp,udp_dst=9',
  'in_port=1,udp,udp_dst=10',
  'in_port=1,udp,udp_dst=11,dl_src=00:00:00:00:00:03',
  'in_port=1,udp,udp_dst=12',
  'in_port=1,udp,udp_dst=13',
  'in_port=5,dl_vlan=7,dl_src=00:00:00:00:00:03',
  'in_port=1,arp,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2',
  'in_port=1,icmp,icmp_type=8',
  'in_port=1,tcp6,ipv6_src=fd00::1,tcp_dst=22',
  'in_port=1,ip,nw_frag=later',
];

/**
 * What is to be the same: everything but the megaflow, which may be wider here, and the order of copies and the bridge's own
 * port (100) in the datapath actions.
 */
const comparable = (text: string): string =>
  text
    .trimEnd()
    .split('\n')
    .filter((line) => !line.startsWith('Megaflow:'))
    .map((line) => {
      const found = /^Datapath actions: (.*)$/.exec(line);
      if (!found) return line;
      const actions = found[1]!.split(/,(?![^(]*\))/).filter((action) => action !== '100');
      return `Datapath actions: ${/\(/.test(line) ? actions : actions.sort()}`;
    })
    .join('\n');

/** Golden files hold one line per text. */
const oneLine = (text: string): string => JSON.stringify(comparable(text));

async function ringway(): Promise<OfprotoRig> {
  const rig = await OfprotoRig.start([{}, {}, {}, {}, {}]);
  await rig.bridge.modifyGroups(GROUPS.map((group) => ({ command: 'add', group })));
  await rig.add(...FLOWS, ...FLOWS_11);
  return rig;
}

test('traces read as those that ovs-appctl printed', async (t) => {
  const rig = await ringway();
  const golden = readGolden('trace.txt');
  t.deepEqual(
    golden.map(({ input }) => input),
    PACKETS,
  );
  for (const { input, output } of golden) t.is(comparable(rig.bridge.trace(input).text), JSON.parse(output), input);
});

const reason = unavailable();
const live = reason === undefined ? test : test.skip;

live(`a real Open vSwitch prints what is recorded${reason ? ` (${reason})` : ''}`, async (t) => {
  const ovs = await startOvsDummy(5);
  try {
    await fill(ovs);
    for (const { input, output } of readGolden('trace.txt'))
      t.is(oneLine(await ovs.appctlOk('ofproto/trace', 'br0', input)), output, input);
  } finally {
    await ovs.stop();
  }
});

async function fill(ovs: Ovs): Promise<void> {
  for (const group of GROUPS) await ovs.ofctlOk(['-O', 'OpenFlow15', 'add-group', 'br0', group]);
  await ovs.ofctlOk(['-O', 'OpenFlow11', 'add-flows', 'br0', '-'], FLOWS_11.join('\n'));
  const grouped = FLOWS.filter((flow) => flow.includes('group:'));
  await ovs.ofctlOk(['-O', 'OpenFlow11', 'add-flows', 'br0', '-'], grouped.join('\n'));
  await ovs.ofctlOk(['add-flows', 'br0', '-'], FLOWS.filter((flow) => !grouped.includes(flow)).join('\n'));
}

test('a trace changes nothing: no station is learned, no counter moves', async (t) => {
  const rig = await ringway();
  const text = rig.bridge.trace('in_port=3,dl_src=00:00:00:00:00:01,dl_dst=00:00:00:00:00:02').text;
  t.false(text.includes('learned that'));
  t.deepEqual(rig.bridge.fdb(), []);
  t.is(rig.bridge.aggregate('').packets, 0);
  t.is(rig.datapath.flows.size, 0);
});

test('the megaflow of a trace is the one that a packet installs', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('priority=10,ip,nw_dst=10.0.0.0/8,actions=dec_ttl,2', 'priority=1,actions=2');
  t.is(
    rig.bridge.trace('in_port=1,tcp,nw_dst=10.1.1.1,nw_ttl=64').megaflow,
    'recirc_id=0,eth,ip,in_port=1,nw_dst=10.0.0.0/8',
  );
  t.is(rig.bridge.trace('in_port=1,tcp,nw_dst=10.1.1.1,nw_ttl=64').datapathActions, 'dec_ttl,2');
  rig.send('in_port=1,tcp,nw_dst=10.1.1.1,nw_ttl=64');
  t.deepEqual(rig.megaflows(), ['in_port(1),eth_type(0x0800),ipv4(dst=10.0.0.0/255.0.0.0) dec_ttl,2']);
});

test('a datapath key, as dpctl/dump-flows prints it, is traced as the flow that it is', async (t) => {
  const rig = await ringway();
  const key =
    'recirc_id(0),in_port(5),packet_type(ns=0,id=0),eth(src=00:00:00:00:00:03,dst=00:00:00:00:00:04),eth_type(0x8100),vlan(vid=7,pcp=0),encap(eth_type(0x0800),ipv4(src=1.2.3.4/255.0.0.0,dst=5.6.7.8,proto=6,tos=0x21,ttl=64,frag=no),tcp(src=1,dst=2))';
  const flow =
    'in_port=5,dl_src=00:00:00:00:00:03,dl_dst=00:00:00:00:00:04,dl_vlan=7,dl_vlan_pcp=0,tcp,nw_src=1.2.3.4,nw_dst=5.6.7.8,nw_tos=32,nw_ecn=1,nw_ttl=64,tcp_src=1,tcp_dst=2';
  t.is(rig.bridge.trace(key).text, rig.bridge.trace(flow).text);
  t.is(t.throws(() => rig.bridge.trace('in_port(99),eth()'), { instanceOf: RequestError }).code, 'no_such_port');
});

test('a flow without in_port, or with an unknown field, is refused', async (t) => {
  const rig = await ringway();
  t.is(t.throws(() => rig.bridge.trace('ip'), { instanceOf: RequestError }).code, 'missing_field');
  t.throws(() => rig.bridge.trace('in_port=1,bogus=3'), { instanceOf: RequestError });
});
