import test from 'ava';
import fc from 'fast-check';
import { Classifier } from '#ofproto/classifier.ts';
import { OF_KEY_WORDS, W_REG0 } from '#ofproto/key.ts';
import { parseMatch } from '#ofproto/match-parse.ts';
import { PrefixTrie, prefixLength } from '#ofproto/prefix-trie.ts';
import { Rule } from '#ofproto/rule.ts';

const body = { cookie: 0n, idleTimeout: 0, hardTimeout: 0, importance: 0, flags: [], actions: [] };
const newRule = (priority: number): Rule => new Rule(0, priority, body, 0);

/** Words that tests play with: port, register, MAC, type, addresses, ports. */
const WORDS = [0, W_REG0, 2, 7, 8, 9, 10, 11];
const MASKS = [0, 0, 0xffffffff, 0xffff0000, 0xff000000, 0xff, 0xfffffff0, 0x80000001];
const VALUES = [0, 1, 0x80000000, 0x0a000001, 0x0a000101, 0xffffffff, 0x08000600];

const keyArb = fc.array(fc.constantFrom(...VALUES), { minLength: WORDS.length, maxLength: WORDS.length });
const maskArb = fc.array(fc.constantFrom(...MASKS), { minLength: WORDS.length, maxLength: WORDS.length });

const spread = (values: readonly number[]): Uint32Array => {
  const row = new Uint32Array(OF_KEY_WORDS);
  values.forEach((value, i) => {
    row[WORDS[i]!] = value;
  });
  return row;
};

const newMatch = (values: readonly number[], masks: readonly number[]) => ({
  values: spread(values.map((value, i) => (value & masks[i]!) >>> 0)),
  masks: spread(masks),
});

const covers = (match: { values: Uint32Array; masks: Uint32Array }, key: Uint32Array): boolean =>
  match.values.every((value, w) => ((value ^ key[w]!) & match.masks[w]!) === 0);

test('lookup finds the matching rule of the highest priority, before and after removals', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(keyArb, maskArb), { maxLength: 40 }),
      fc.array(keyArb, { minLength: 5, maxLength: 20 }),
      fc.array(fc.nat(100)),
      (specs, keys, kills) => {
        const classifier = new Classifier<Rule>();
        const naive = new Map<Rule, ReturnType<typeof newMatch>>();
        specs.forEach(([values, masks], priority) => {
          const match = newMatch(values, masks);
          const rule = newRule(priority);
          classifier.insert(rule, match);
          naive.set(rule, match);
        });
        const verify = (): void => {
          for (const values of keys) {
            const key = spread(values);
            let best: Rule | undefined;
            for (const [rule, match] of naive)
              if (covers(match, key) && (!best || rule.priority > best.priority)) best = rule;
            t.is(classifier.lookup(key, new Uint32Array(OF_KEY_WORDS)), best);
          }
        };
        verify();
        const rules = [...naive.keys()];
        for (const kill of kills) {
          const rule = rules[kill % Math.max(1, rules.length)];
          if (rule === undefined || !naive.delete(rule)) continue;
          classifier.remove(rule);
        }
        verify();
        t.is(classifier.size, naive.size);
        t.is(new Set(classifier).symmetricDifference(new Set(naive.keys())).size, 0);
      },
    ),
    { numRuns: 400 },
  );
});

test('packets that agree on the bits looked at find the same rule', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(keyArb, maskArb), { maxLength: 40 }),
      keyArb,
      fc.array(keyArb, { minLength: 20, maxLength: 20 }),
      (specs, first, others) => {
        const classifier = new Classifier<Rule>();
        for (const [priority, [values, masks]] of specs.entries())
          classifier.insert(newRule(priority), newMatch(values, masks));
        const looked = new Uint32Array(OF_KEY_WORDS);
        const key = spread(first);
        const found = classifier.lookup(key, looked);
        for (const other of others) {
          const twin = spread(other).map((word, w) => ((word & ~looked[w]!) | (key[w]! & looked[w]!)) >>> 0);
          t.is(classifier.lookup(twin, new Uint32Array(OF_KEY_WORDS)), found);
        }
      },
    ),
    { numRuns: 400 },
  );
});

test('find, findOverlap and forEachWithin agree with a list', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(keyArb, maskArb, fc.nat(3)), { maxLength: 30 }),
      keyArb,
      maskArb,
      fc.nat(3),
      (specs, values, masks, priority) => {
        const classifier = new Classifier<Rule>();
        const naive: { rule: Rule; match: ReturnType<typeof newMatch> }[] = [];
        for (const [v, m, p] of specs) {
          const match = newMatch(v, m);
          if (classifier.find(match, p) !== undefined) continue;
          const rule = newRule(p);
          classifier.insert(rule, match);
          naive.push({ rule, match });
        }
        for (const { rule, match } of naive) {
          t.is(classifier.find(match, rule.priority), rule);
          t.deepEqual(rule.match(), match);
        }
        const asked = newMatch(values, masks);
        const overlap = naive.filter(
          ({ rule, match }) =>
            rule.priority === priority &&
            match.values.every((value, w) => ((value ^ asked.values[w]!) & match.masks[w]! & asked.masks[w]!) === 0),
        );
        const found = classifier.findOverlap(asked, priority);
        t.is(found !== undefined, overlap.length > 0);
        const within = naive.filter(({ match }) =>
          match.masks.every(
            (mask, w) =>
              (mask & asked.masks[w]!) >>> 0 === asked.masks[w]! &&
              ((match.values[w]! ^ asked.values[w]!) & asked.masks[w]!) === 0,
          ),
        );
        const visited = new Set<Rule>();
        classifier.forEachWithin(asked, (rule) => visited.add(rule));
        t.is(visited.symmetricDifference(new Set(within.map(({ rule }) => rule))).size, 0);
      },
    ),
    { numRuns: 400 },
  );
});

/** Bits looked at for a packet, per word. */
const looks = (flows: readonly [number, string][], packet: string): Record<number, string> => {
  const classifier = new Classifier<Rule>();
  for (const [priority, match] of flows) classifier.insert(newRule(priority), parseMatch(match));
  const looked = new Uint32Array(OF_KEY_WORDS);
  classifier.lookup(parseMatch(packet).values, looked);
  return Object.fromEntries([...looked].flatMap((mask, w) => (mask === 0 ? [] : [[w, mask.toString(16)]])));
};

test('subtables below the hit are not looked at', (t) => {
  t.deepEqual(
    looks(
      [
        [10, 'in_port=1'],
        [5, 'tcp,tcp_dst=80'],
      ],
      'in_port=1,tcp,tcp_dst=80',
    ),
    { 0: 'ffff' },
  );
});

test('a subtable whose first stage does not match is not looked at further', (t) => {
  t.deepEqual(
    looks(
      [
        [10, 'in_port=2,tcp,tcp_dst=80'],
        [1, ''],
      ],
      'in_port=1,tcp,tcp_dst=80',
    ),
    { 0: 'ffff' },
  );
});

test('a subtable whose Ethernet stage does not match leaves network and transport open', (t) => {
  t.deepEqual(
    looks(
      [
        [10, 'arp,arp_tpa=10.0.0.1'],
        [1, ''],
      ],
      'udp,nw_dst=10.0.0.1,udp_dst=53',
    ),
    { 7: 'ffff0000' },
  );
});

test('prefix rules cost as many address bits as it takes to tell them from the packet', (t) => {
  const flows: [number, string][] = [
    [20, 'ip,nw_dst=10.0.0.0/8'],
    [30, 'ip,nw_dst=10.1.2.3'],
    [1, ''],
  ];
  t.deepEqual(looks(flows, 'ip,nw_dst=192.168.0.1'), { 7: 'ffff0000', 9: '80000000' });
  t.deepEqual(looks(flows, 'ip,nw_dst=10.128.0.1'), { 7: 'ffff0000', 9: 'ff800000' });
  t.deepEqual(looks(flows, 'ip,nw_dst=10.1.2.3'), { 7: 'ffff0000', 9: 'ffffffff' });
});

test('100 000 host routes leave all but the deciding bits of a foreign address open', (t) => {
  const classifier = new Classifier<Rule>();
  const match = parseMatch('ip,nw_src=10.0.0.0');
  for (let i = 0; i < 100_000; i++) {
    match.values[8] = 0x0a000000 + i;
    classifier.insert(newRule(100), match);
  }
  const looked = new Uint32Array(OF_KEY_WORDS);
  t.is(classifier.lookup(parseMatch('ip,nw_src=172.16.0.1').values, looked), undefined);
  t.is(looked[8], 0x80000000);
});

test('a removed top priority makes megaflows wide again', (t) => {
  const classifier = new Classifier<Rule>();
  const low = newRule(5);
  const high = newRule(50);
  classifier.insert(newRule(10), parseMatch('in_port=1'));
  classifier.insert(low, parseMatch('tcp,tcp_dst=80'));
  classifier.insert(high, parseMatch('tcp,tcp_dst=81'));
  const looked = (): number => {
    const bits = new Uint32Array(OF_KEY_WORDS);
    classifier.lookup(parseMatch('in_port=1,tcp').values, bits);
    return bits[10]!;
  };
  t.not(looked(), 0);
  classifier.remove(high);
  t.is(looked(), 0);
});

test('prefixLength knows prefixes from other masks', (t) => {
  t.is(prefixLength(0), 0);
  t.is(prefixLength(0xffffffff), 32);
  t.is(prefixLength(0xff000000), 8);
  t.is(prefixLength(0xff0000ff), -1);
});

test('the trie knows all covering prefixes, and packets that agree on the examined bits find the same ones', (t) => {
  const prefixArb = fc.tuple(fc.oneof(fc.constantFrom(...VALUES), fc.integer()), fc.integer({ min: 1, max: 32 }));
  fc.assert(
    fc.property(
      fc.array(prefixArb, { maxLength: 60 }),
      fc.array(fc.nat(60)),
      fc.array(fc.oneof(fc.constantFrom(...VALUES), fc.integer()), { minLength: 4 }),
      (prefixes, kills, values) => {
        const trie = new PrefixTrie();
        const left = [...prefixes];
        for (const [value, length] of prefixes) trie.insert(value, length);
        for (const kill of kills) {
          const [gone] = left.splice(kill, 1);
          if (gone) trie.remove(...gone);
        }
        for (const value of values) {
          let expected = 0;
          for (const [prefix, length] of left)
            if ((prefix ^ value) >>> (32 - length) === 0 || (length === 32 && prefix === (value | 0)))
              expected |= 1 << (length - 1);
          trie.lookup(value);
          const { lengths, examined } = trie;
          t.is(lengths, expected);
          for (const other of values) {
            const mask = examined === 0 ? 0 : -1 << (32 - examined);
            trie.lookup((value & mask) | (other & ~mask));
            t.is(trie.lengths, lengths);
          }
        }
      },
    ),
    { numRuns: 400 },
  );
});
