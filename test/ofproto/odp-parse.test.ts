import test from 'ava';
import { RequestError } from '#ofproto/api.ts';
import { isOdpKey, odpToMatch } from '#ofproto/odp-parse.ts';

const ofport = (port: string): number | undefined => (port === '1' ? 11 : undefined);

test('a datapath key becomes a match', (t) => {
  t.is(
    odpToMatch(
      'recirc_id(0),in_port(1),eth(dst=02:00:00:00:00:01/ff:00:00:00:00:00),eth_type(0x0806),arp(op=1,sip=10.0.0.1)',
      ofport,
    ),
    'in_port=11,dl_dst=02:00:00:00:00:01,arp_op=1,arp_spa=10.0.0.1,dl_type=0x0806',
  );
  t.is(
    odpToMatch(
      'in_port(1),eth_type(0x8100),vlan(vid=5,pcp=1),encap(eth_type(0x86dd),ipv6(tclass=0x3,frag=no),udp(dst=53))',
      ofport,
    ),
    'in_port=11,dl_vlan=5,dl_vlan_pcp=1,nw_tos=0,nw_ecn=3,nw_frag=no,udp_dst=53,dl_type=0x86dd',
  );
});

test('it is told from a flow, and what it cannot say is refused', (t) => {
  t.true(isOdpKey(' in_port(1)'));
  t.false(isOdpKey('in_port=1,tcp'));
  t.throws(() => odpToMatch('in_port(7)', ofport), { instanceOf: RequestError });
  t.throws(() => odpToMatch('in_port(1),tunnel(tun_id=1)', ofport), { instanceOf: RequestError });
  t.throws(() => odpToMatch('in_port(1),eth(bogus=1)', ofport), { instanceOf: RequestError });
});
