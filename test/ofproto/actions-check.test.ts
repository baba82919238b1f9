import test from 'ava';
import { checkActions } from '#ofproto/actions-check.ts';
import { parseActions } from '#ofproto/actions-parse.ts';
import { RequestError } from '#ofproto/api.ts';
import { parseMatch } from '#ofproto/match-parse.ts';

/** Code of the refusal; empty when the actions fit. */
function verdict(match: string, actions: string, table = 0): string {
  try {
    checkActions(parseActions(actions), parseMatch(match), table);
    return '';
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return error.code;
  }
}

const MISMATCH = 'OFPBAC_MATCH_INCONSISTENT';

for (const [match, actions, fits] of [
  ['', 'mod_nw_src:1.2.3.4', false],
  ['ip', 'mod_nw_src:1.2.3.4', true],
  ['ipv6', 'mod_nw_src:1.2.3.4', false],
  ['ipv6', 'mod_nw_tos:4,dec_ttl', true],
  ['arp', 'dec_ttl', false],
  ['ip', 'mod_tp_dst:80', false],
  ['sctp6', 'mod_tp_dst:80', true],
  ['udp', 'set_field:80->udp_dst', true],
  ['udp', 'set_field:80->tcp_dst', false],
  ['ip', 'move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]', true],
  ['', 'move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]', false],
  ['', 'move:NXM_NX_REG0[]->NXM_OF_IP_SRC[]', false],
  ['', 'output:NXM_NX_REG0[]', true],
  ['', 'output:NXM_OF_TCP_SRC[]', false],
  ['', 'set_field:3->vlan_pcp', false],
  ['dl_vlan=5', 'set_field:3->vlan_pcp', true],
  ['', 'push_vlan:0x8100,set_field:3->vlan_pcp', true],
  ['dl_vlan=5', 'strip_vlan,set_field:3->vlan_pcp', false],
  ['dl_vlan=5', 'push_vlan:0x8100,strip_vlan,set_field:3->vlan_pcp', true],
  ['', 'mod_vlan_pcp:1,set_field:3->vlan_pcp', true],
  ['', 'write_actions(dec_ttl)', false],
  ['', 'push_vlan:0x8100,write_actions(set_field:3->vlan_pcp)', true],
] as const) {
  test(`${actions} ${fits ? 'fits' : 'does not fit'} a match on ${match || 'everything'}`, (t) =>
    t.is(verdict(match, actions), fits ? '' : MISMATCH));
}

test('goto_table goes up only', (t) => {
  t.is(verdict('', 'goto_table:6', 5), '');
  t.is(verdict('', 'goto_table:5', 5), 'OFPBIC_BAD_TABLE_ID');
});

test('the hint says what the match lacks', (t) => {
  t.like(
    t.throws(() => checkActions(parseActions('mod_tp_src:1'), parseMatch(''), 0)),
    { field: 'actions', hint: 'mod_tp_src needs tcp or tcp6 or udp or udp6 or sctp or sctp6 in the match' },
  );
});
