import test from 'ava';
import { W_TYPE } from '#contract/flow-key.ts';
import { parseActions } from '#ofproto/actions-parse.ts';
import { parseMatch } from '#ofproto/match-parse.ts';
import { hasField } from '#ofproto/packet-fields.ts';
import { Translator } from '#ofproto/translate.ts';
import { runActions } from '#ofproto/translate-actions.ts';

const on = (packet: string): Translator => {
  const x = new Translator();
  x.state.reset(parseMatch(packet).values);
  return x;
};

test('whether a packet has a field is asked of its type, protocol and fragment', (t) => {
  t.true(hasField(on('tcp'), 'tcp'));
  t.false(hasField(on('tcp'), 'udp'));
  t.true(hasField(on('ipv6'), 'ip'));
  t.false(hasField(on('ip,nw_frag=later'), 'tcp'));
  t.true(hasField(on('dl_vlan=5'), 'vlan'));
  t.true(hasField(on('icmp6,icmp_type=135,icmp_code=0'), 'nd_solicit'));
  t.false(hasField(on('icmp6,icmp_type=135,icmp_code=0'), 'nd_advert'));
  t.true(hasField(on('arp'), 'arp'));
  const x = on('udp');
  hasField(x, 'ipv4');
  t.is(x.state.wc[W_TYPE], 0xffff0000);
});

test('a field that the packet does not have is not set', (t) => {
  const x = on('arp');
  const [setSource] = parseActions('mod_nw_src:1.2.3.4');
  runActions(x, [setSource!], true);
  t.is(x.state.flow[8], 0);
  t.is(x.state.edited, 0);
});
