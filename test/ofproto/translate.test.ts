import test from 'ava';
import { decTtl, output, popVlan, set } from '#contract/actions.ts';
import { W_VLAN } from '#contract/flow-key.ts';
import type { Megaflow } from '#ofproto/datapath.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';

/** Megaflow and datapath actions of a packet, by trace. */
const told = (rig: OfprotoRig, packet: string): string => {
  const { megaflow, datapathActions } = rig.bridge.trace(packet);
  return `${megaflow.replace('recirc_id=0,eth,', '')} → ${datapathActions}`;
};

test('a port flow matches the port only', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,actions=2', 'priority=5,tcp,tcp_dst=80,actions=drop');
  t.is(told(rig, 'in_port=1,tcp,tcp_dst=80'), 'in_port=1 → 2');
});

test('setting a field looks at nothing: the megaflow stays as wide as its rule', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('ip,actions=mod_dl_dst:02:00:00:00:00:09,mod_nw_src:1.2.3.4,dec_ttl,output:2');
  t.is(
    told(rig, 'in_port=1,tcp,nw_ttl=9'),
    'ip,in_port=1 → set(eth(dst=02:00:00:00:00:09)),set(ipv4(src=1.2.3.4)),dec_ttl,2',
  );
});

test('a written field that a later table matches costs no bits of the packet', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add(
    'ip,actions=set_field:10.0.0.9->ip_dst,load:3->NXM_NX_REG1[],resubmit(,1)',
    'table=1,ip,reg1=3,nw_dst=10.0.0.0/24,actions=2',
  );
  t.is(told(rig, 'in_port=1,ip,nw_dst=192.168.1.1'), 'ip,in_port=1 → set(ipv4(dst=10.0.0.9)),2');
});

test('what a move reads is matched', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('ip,actions=move:NXM_OF_IP_SRC[0..7]->NXM_NX_REG0[0..7],resubmit(,1)', 'table=1,reg0=7,actions=2');
  t.is(told(rig, 'in_port=1,ip,nw_src=10.0.0.7'), 'ip,in_port=1,nw_src=0.0.0.7/0.0.0.255 → 2');
});

test('edits that nothing is sent after cost nothing, and edits are sent once', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add(
    'in_port=1,actions=mod_dl_dst:02:00:00:00:00:09,2,3,mod_dl_src:02:00:00:00:00:08',
    'in_port=2,actions=mod_vlan_vid:5',
  );
  t.is(told(rig, 'in_port=1'), 'in_port=1 → set(eth(dst=02:00:00:00:00:09)),2,3');
  t.is(told(rig, 'in_port=2'), 'in_port=2,vlan_tci=0x0000/0x1000 → drop');
});

test('tags are pushed and popped only where stacks differ, and set in place', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add(
    'in_port=1,dl_vlan=5,actions=mod_vlan_vid:6,2,strip_vlan,3',
    'in_port=2,dl_vlan=5,actions=strip_vlan,push_vlan:0x88a8,set_field:4103->vlan_vid,3',
    'in_port=3,vlan_tci=0,actions=mod_vlan_vid:6,mod_vlan_pcp:2,1,strip_vlan,2',
  );
  rig.send('in_port=1,dl_vlan=5');
  const [{ actions }] = [...rig.datapath.flows.values()] as [Megaflow];
  // 5 is 101 and 6 is 110: the bits of the VID are known, so that only those that differ are set.
  t.deepEqual([...actions], [...set(W_VLAN, 6, 3), ...output(2), ...popVlan(), ...output(3)]);
  t.is(told(rig, 'in_port=2,dl_vlan=5'), 'in_port=2,dl_vlan=5 → pop_vlan,push_vlan(tpid=0x88a8,vid=7,pcp=0),3');
  t.is(told(rig, 'in_port=3,vlan_tci=0'), 'in_port=3,vlan_tci=0x0000 → push_vlan(vid=6,pcp=2),1,pop_vlan,2');
});

test('an edit inside a group bucket is undone for the next one', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.bridge.modifyGroups([
    {
      command: 'add',
      group:
        'group_id=1,type=all,bucket=actions=mod_dl_dst:02:00:00:00:00:09,push_vlan:0x8100,output:2,bucket=actions=output:3',
    },
  ]);
  await rig.add('in_port=1,actions=group:1');
  t.is(
    told(rig, 'in_port=1,dl_dst=02:00:00:00:00:01'),
    'in_port=1,vlan_tci=0x0000/0x1000,dl_dst=02:00:00:00:00:01 → set(eth(dst=02:00:00:00:00:09)),push_vlan(vid=0,pcp=0),2,set(eth(dst=00:00:00:00:00:01/00:00:00:00:ff:ff)),pop_vlan,3',
  );
});

test('dec_ttl needs no TTL at the end of the pipeline, and all of it elsewhere', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add(
    'ip,in_port=1,actions=dec_ttl,2',
    'ip,in_port=2,actions=resubmit(,1),3',
    'table=1,ip,actions=dec_ttl,1',
  );
  rig.send('in_port=1,ip,nw_ttl=9');
  t.deepEqual([...[...rig.datapath.flows.values()][0]!.actions], [...decTtl(), ...output(2)]);
  t.is(rig.fate('in_port=1,ip,nw_ttl=1'), 'ttl_exceeded');
  t.is(told(rig, 'in_port=2,ip,nw_ttl=9'), 'ip,in_port=2,nw_ttl=9 → set(ipv4(ttl=8)),1,3');
  t.is(told(rig, 'in_port=2,ip,nw_ttl=1'), 'ip,in_port=2,nw_ttl=1 → 3');
  await rig.add('ip,in_port=3,actions=dec_ttl,resubmit(,4)', 'table=4,ip,nw_ttl=8,actions=1');
  t.is(told(rig, 'in_port=3,ip,nw_ttl=9'), 'ip,in_port=3,nw_ttl=9 → dec_ttl,1');
});

test('a select group spreads flows by weight, keeps a flow on its bucket, and moves only those of a dead one', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.bridge.modifyGroups([
    {
      command: 'add',
      group: 'group_id=1,type=select,bucket=weight:3,watch_port:2,actions=2,bucket=weight:1,watch_port:3,actions=3',
    },
  ]);
  await rig.add('in_port=1,actions=group:1');
  const flow = (n: number): string => `in_port=1,udp,nw_src=10.0.${n >> 8}.${n & 255},udp_src=${n},udp_dst=53`;
  const before = Array.from({ length: 2000 }, (_, n) => rig.fate(flow(n)).replace('!', ''));
  const share = before.filter((port) => port === '2').length / 2000;
  t.true(Math.abs(share - 0.75) < 0.05, `${share}`);
  t.deepEqual(
    Array.from({ length: 2000 }, (_, n) => rig.fate(flow(n))),
    before,
  );
  rig.datapath.setLink(3, false);
  await rig.theSwitch.revalidator.settle();
  t.true(before.every((_, n) => rig.fate(flow(n)).replace('!', '') === '2'));
  rig.datapath.setLink(3, true);
  await rig.theSwitch.revalidator.settle();
  t.deepEqual(
    Array.from({ length: 2000 }, (_, n) => rig.fate(flow(n)).replace('!', '')),
    before,
  );
});

test('a group with named hash fields looks at those only', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.bridge.modifyGroups([
    {
      command: 'add',
      group: 'group_id=1,type=select,selection_method=hash,fields(ip_src),bucket=actions=2,bucket=actions=3',
    },
  ]);
  await rig.add('ip,in_port=1,actions=group:1');
  t.regex(told(rig, 'in_port=1,tcp,nw_src=10.0.0.7,tcp_src=5'), /^ip,in_port=1,nw_src=10\.0\.0\.7 → [23]$/);
});

test('endless resubmits are a translation error, and the packet is lost as a whole', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add(
    'in_port=1,actions=2,resubmit(,0)',
    'in_port=2,actions=resubmit(,1),resubmit(,1)',
    ...Array.from({ length: 20 }, (_, n) => `table=${n + 1},actions=resubmit(,${n + 2}),resubmit(,${n + 2})`),
  );
  t.is(rig.fate('in_port=1'), 'translation_error!');
  t.is(rig.fate('in_port=2'), 'translation_error!');
});

test('a chain of 250 tables works', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add(
    ...Array.from({ length: 250 }, (_, n) => `table=${n},actions=goto_table:${n + 1}`),
    'table=250,actions=2',
  );
  t.is(rig.fate('in_port=1'), '2!');
});

test('each loss has its reason', async (t) => {
  const rig = await OfprotoRig.start([{}, { config: ['no-forward'] }, { tag: 5 }]);
  await rig.add(
    'udp,udp_dst=1,actions=drop',
    'udp,udp_dst=2,actions=99',
    'udp,udp_dst=3,actions=LOCAL',
    'udp,udp_dst=4,actions=2',
    'udp,udp_dst=5,actions=CONTROLLER',
    'udp,udp_dst=6,actions=1',
    'udp,udp_dst=7,in_port=3,actions=NORMAL',
  );
  const reason = (n: number, more = 'in_port=1'): string => rig.fate(`${more},udp,udp_dst=${n}`).replace('!', '');
  t.deepEqual(
    [1, 2, 3, 4, 5, 6, 8].map((n) => reason(n)),
    ['flow_drop', 'no_such_port', 'no_such_port', 'port_blocked', 'controller', 'hairpin', 'no_match'],
  );
  t.is(reason(7, 'in_port=3,dl_vlan=9'), 'vlan_policy');
});

test('groups: an unknown one is refused in flows and buckets, and so is a loop', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  const group = (command: 'add' | 'modify', text: string) => rig.bridge.modifyGroups([{ command, group: text }]);
  const code = async (run: Promise<void>): Promise<string> =>
    ((await t.throwsAsync(run)) as unknown as { code: string }).code;
  t.is(await code(rig.add('actions=group:5')), 'OFPBAC_BAD_OUT_GROUP');
  await group('add', 'group_id=1,type=indirect,bucket=actions=2');
  await group('add', 'group_id=2,type=indirect,bucket=actions=group:1');
  t.is(await code(group('add', 'group_id=1,type=all')), 'OFPGMFC_GROUP_EXISTS');
  t.is(await code(group('modify', 'group_id=9,type=all')), 'OFPGMFC_UNKNOWN_GROUP');
  t.is(await code(group('modify', 'group_id=1,type=indirect,bucket=actions=group:2')), 'OFPGMFC_LOOP');
  t.is(await code(group('add', 'group_id=3,type=all,bucket=actions=group:77')), 'OFPBAC_BAD_OUT_GROUP');
  t.deepEqual(
    rig.bridge.groups().map(({ text, refCount }) => [text, refCount]),
    [
      ['group_id=1,type=indirect,bucket=bucket_id:0,actions=output:2', 1],
      ['group_id=2,type=indirect,bucket=bucket_id:0,actions=group:1', 0],
    ],
  );
  await rig.bridge
    .modifyGroups([{ command: 'insert_buckets', group: 'group_id=2,command_bucket_id=last' }])
    .catch(() => undefined);
  await rig.add('in_port=1,actions=group:2');
  t.is(rig.fate('in_port=1'), '2!');
});
