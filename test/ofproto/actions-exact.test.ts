import test from 'ava';
import { canonicalActions, formatExactActions } from '#ofproto/actions-exact.ts';
import { parseFlowMod } from '#ofproto/flow-parse.ts';
import { portNames, readGolden } from './golden.ts';

const actionsOf = (flow: string) => parseFlowMod('add', flow, portNames).actions;
const exactly = (flow: string): string => formatExactActions(actionsOf(flow));
const canonical = (flow: string): string => canonicalActions(actionsOf(flow));

test('all recorded actions read back as the same actions', (t) => {
  for (const { input } of [...readGolden('flows.txt'), ...readGolden('flows13.txt')]) {
    const { actions, match } = parseFlowMod('add', input, portNames);
    const matchText = input.slice(0, input.search(/\bactions?\s*=/));
    const again = actionsOf(`${matchText} actions=${formatExactActions(actions)}`);
    t.deepEqual(again, actions, input);
    t.truthy(match);
  }
});

test('every action keeps its form', (t) => {
  for (const actions of [
    'output:1,goto_table:5',
    'resubmit(,5)',
    'push_vlan:0x8100,set_field:4101->vlan_vid,output:2',
    'mod_vlan_vid:5,output:2',
    'set_field:00:11:22:00:00:00/ff:ff:ff:00:00:00->eth_dst',
    'load:0x5->NXM_NX_REG0[0..3]',
    'set_field:0x5->reg0',
    'write_actions(set_field:01:02:03:04:05:06->eth_src,output:2),goto_table:5',
    'mod_dl_src:01:02:03:04:05:06',
  ])
    t.is(exactly(`actions=${actions}`), actions);
  t.is(
    exactly('ip,actions=mod_nw_src:1.2.3.4,mod_nw_ttl:3,mod_nw_ecn:1'),
    'mod_nw_src:1.2.3.4,mod_nw_ttl:3,mod_nw_ecn:1',
  );
});

test('two forms of one action compare as equal, goto_table and resubmit do not', (t) => {
  t.is(canonical('ip,actions=mod_nw_dst:1.2.3.4'), canonical('ip,actions=set_field:1.2.3.4->ip_dst'));
  t.is(canonical('actions=load:5->reg0'), canonical('actions=set_field:5->reg0'));
  t.not(canonical('actions=output:1,goto_table:5'), canonical('actions=output:1,resubmit(,5)'));
  t.not(canonical('actions=goto_table:5'), canonical('actions=resubmit(,5)'));
  t.not(canonical('actions=push_vlan:0x8100,set_field:4101->vlan_vid'), canonical('actions=mod_vlan_vid:5'));
  t.not(canonical('actions=write_actions(output:2)'), canonical('actions=output:2'));
});
