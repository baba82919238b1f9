import test from 'ava';
import { formatActions13 } from '#ofproto/actions-format13.ts';
import { parseActions } from '#ofproto/actions-parse.ts';
import { parseMatch } from '#ofproto/match-parse.ts';

const format = (match: string, actions: string): string => formatActions13(parseActions(actions), parseMatch(match));

for (const [match, actions, expected] of [
  ['', 'drop', 'drop'],
  ['', 'mod_vlan_vid:5', 'push_vlan:0x8100,set_field:4101->vlan_vid'],
  ['dl_vlan=7', 'mod_vlan_vid:5', 'set_field:4101->vlan_vid'],
  ['', 'mod_vlan_vid:5,mod_vlan_pcp:3', 'push_vlan:0x8100,set_field:4101->vlan_vid,set_field:3->vlan_pcp'],
  ['dl_vlan=7', 'strip_vlan,mod_vlan_vid:5', 'pop_vlan,push_vlan:0x8100,set_field:4101->vlan_vid'],
  ['', 'push_vlan:0x88a8,mod_vlan_vid:5', 'push_vlan:0x88a8,set_field:4101->vlan_vid'],
  ['', 'mod_dl_dst:1:2:3:4:5:6', 'set_field:01:02:03:04:05:06->eth_dst'],
  ['ip', 'mod_nw_dst:1.2.3.4', 'set_field:1.2.3.4->ip_dst'],
  ['ip', 'mod_nw_tos:32', 'set_field:8->ip_dscp'],
  ['udp', 'mod_tp_src:5', 'set_field:5->udp_src'],
  ['sctp', 'mod_tp_dst:5', 'set_field:5->sctp_dst'],
  ['', 'set_field:00:11:22:00:00:00/ff:ff:ff:00:00:00->eth_dst', 'load:0x1122->NXM_OF_ETH_DST[24..47]'],
  ['', 'load:5->reg0[0..3]', 'load:0x5->NXM_NX_REG0[0..3]'],
  ['', 'resubmit(,3)', 'resubmit(,3)'],
  ['', 'output:1,goto_table:3', 'output:1,goto_table:3'],
  [
    'ip',
    'write_actions(mod_nw_dst:1.2.3.4,output:2),goto_table:3',
    'write_actions(set_field:1.2.3.4->ip_dst,output:2),goto_table:3',
  ],
] as const) {
  test(`of ${match || 'everything'}, ${actions} is printed as OpenFlow 1.3 has it`, (t) =>
    t.is(format(match, actions), expected));
}

test('ports are printed by name where names are given', (t) => {
  const names = { numberOf: () => undefined, nameOf: (port: number) => (port === 2 ? 'p2' : undefined) };
  t.is(
    formatActions13(parseActions('output:2,write_actions(output:2)'), parseMatch(''), names),
    'output:p2,write_actions(output:p2)',
  );
});
