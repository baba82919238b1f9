import test from 'ava';
import fc from 'fast-check';
import { formatFieldValue, formatIpv6 } from '#ofproto/field-format.ts';
import { ipv6Number, parseFieldValue } from '#ofproto/field-parse.ts';
import { type Field, fieldOf, fields } from '#ofproto/fields.ts';
import { OF_KEY_WORDS } from '#ofproto/key.ts';
import {
  coversMatch,
  type Match,
  matchesKey,
  matchesOverlap,
  matchId,
  newMatch,
  prerequisites,
  sameMatch,
  setMatch,
} from '#ofproto/match.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import { parseMatch } from '#ofproto/match-parse.ts';
import { noPortNames } from '#ofproto/ofp-port.ts';

const bitsOf = (field: Field) => fc.bigInt({ min: 0n, max: field.fullMask });

/** Protocol words and what may be matched below them. */
const shapes = [
  '',
  'dl_type=0x88cc',
  'ip',
  'ipv6',
  'tcp',
  'udp6',
  'sctp',
  'icmp',
  'icmp6',
  'icmp6,icmp_type=135,icmp_code=0',
  'arp',
  'rarp',
  'mpls',
];
const fragments = ['no', 'yes', 'first', 'later', 'not_later'];

/** Matches that satisfy their prerequisites, made without the parser's help from random fields. */
const matches: fc.Arbitrary<Match> = fc
  .record({
    shape: fc.constantFrom(...shapes),
    picks: fc.array(
      fc.record({
        index: fc.nat(fields.length - 1),
        value: fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }),
        mask: fc.bigInt({ min: 1n, max: 2n ** 128n - 1n }),
        whole: fc.boolean(),
      }),
      { maxLength: 8 },
    ),
    fragment: fc.constantFrom(...fragments),
  })
  .map(({ shape, picks, fragment }) => {
    const match = parseMatch(shape);
    for (const { index, value, mask, whole } of picks) {
      const field = fields[index]!;
      if (['eth_type', 'nw_proto', 'icmp_type', 'icmp_code', 'icmpv6_type', 'icmpv6_code'].includes(field.name))
        continue;
      if (!prerequisites[field.prerequisite].holds(match)) continue;
      if (field.name === 'ip_frag') {
        if (!/^(tcp|udp|sctp|icmp)/.test(shape)) {
          const chosen = parseFieldValue(field, fragment, noPortNames);
          setMatch(match, field, chosen.value, chosen.mask);
        }
        continue;
      }
      setMatch(match, field, value & field.fullMask, field.maskable && !whole ? mask & field.fullMask : field.fullMask);
    }
    return match;
  });

test('a match that is printed and read is the same match', (t) => {
  fc.assert(
    fc.property(matches, (match) => sameMatch(parseMatch(formatMatch(match)), match)),
    { numRuns: 2000 },
  );
  t.pass();
});

test('a value of any field that is printed and read is the same value', (t) => {
  const cases = fc.constantFrom(...fields).chain((field) => fc.tuple(fc.constant(field), bitsOf(field), bitsOf(field)));
  fc.assert(
    fc.property(cases, ([field, value, mask]) => {
      if (field.format === 'frag') return true;
      const on = field.maskable && mask !== 0n ? mask : field.fullMask;
      const back = parseFieldValue(field, formatFieldValue(field, value & on, on), noPortNames);
      return back.value === (value & on) && back.mask === on;
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('an IPv6 address that is printed and read is the same address', (t) => {
  const group = fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 0xffffn }));
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
      const value = groups.reduce((sum, one) => (sum << 16n) | one, 0n);
      return ipv6Number(formatIpv6(value)) === value;
    }),
  );
  t.pass();
});

/** Keys near a match: its values with some bits turned. */
const keyNear = (match: Match, noise: Uint32Array): Uint32Array => {
  const key = new Uint32Array(OF_KEY_WORDS);
  for (let i = 0; i < OF_KEY_WORDS; i++) key[i] = (match.values[i]! | (noise[i]! & ~match.masks[i]!)) >>> 0;
  return key;
};
const noises = fc.uint32Array({ minLength: OF_KEY_WORDS, maxLength: OF_KEY_WORDS });

test('covering and overlap agree with the keys that are matched', (t) => {
  fc.assert(
    fc.property(matches, matches, noises, (a, b, noise) => {
      const key = keyNear(b, noise);
      if (!matchesKey(b, key)) return false;
      if (coversMatch(a, b) && !matchesKey(a, key)) return false;
      return !(matchesKey(a, key) && !matchesOverlap(a, b));
    }),
    { numRuns: 1000 },
  );
  t.true(coversMatch(newMatch(), parseMatch('tcp,tp_dst=80')));
  t.true(coversMatch(parseMatch('ip,nw_src=10.0.0.0/8'), parseMatch('tcp,nw_src=10.1.0.0/16')));
  t.false(coversMatch(parseMatch('tcp,nw_src=10.1.0.0/16'), parseMatch('ip,nw_src=10.0.0.0/8')));
  t.false(matchesOverlap(parseMatch('in_port=1'), parseMatch('in_port=2')));
});

test('matches have the same id exactly when they are the same', (t) => {
  fc.assert(fc.property(matches, matches, (a, b) => (matchId(a) === matchId(b)) === sameMatch(a, b)));
  t.is(matchId(parseMatch('ip,nw_src=10.0.0.9/8')), matchId(parseMatch('dl_type=0x800,nw_src=10.0.0.0/255.0.0.0')));
});

test('fields that share bits are told apart by the protocol', (t) => {
  t.is(formatMatch(parseMatch('arp,nw_src=1.2.3.4,nw_proto=1')), 'arp,arp_spa=1.2.3.4,arp_op=1');
  t.is(formatMatch(parseMatch('tp_src=8,icmp')), 'icmp,icmp_type=8');
  t.is(formatMatch(parseMatch('icmp_type=135,icmp6')), 'icmp6,icmp_type=135');
  t.is(fieldOf('nw_src').pieces[0]!.word, fieldOf('arp_spa').pieces[0]!.word);
});
