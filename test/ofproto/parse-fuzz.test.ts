import test from 'ava';
import fc from 'fast-check';
import { RequestError } from '#ofproto/api.ts';
import { parseFlowFilter, parseFlowMod } from '#ofproto/flow-parse.ts';
import { parseGroupMod } from '#ofproto/group-parse.ts';
import { parseTracePacket } from '#ofproto/trace-parse.ts';
import { portNames, readGolden } from './golden.ts';

const seeds = [...readGolden('flows.txt'), ...readGolden('errors.txt'), ...readGolden('groups.txt')].map(
  ({ input }) => input,
);
seeds.push(
  'in_port(1),eth(src=00:00:00:00:00:01,dst=00:00:00:00:00:02),eth_type(0x8100),vlan(vid=5,pcp=1),encap(eth_type(0x0800),ipv4(src=1.2.3.4,proto=6,frag=no),tcp(src=1,dst=2),tcp_flags(+syn-ack))',
);

const scraps = fc.constantFrom(
  '=',
  ',',
  '(',
  ')',
  '[',
  ']',
  '..',
  '->',
  '/',
  ':',
  '"',
  '*',
  '-1',
  '0x',
  '99999999999',
  ' ',
  'actions=',
  'bucket=',
  '\0',
  '__proto__',
  'constructor',
  'é',
  'nw_src',
  'reg0',
  'write_actions(',
);

/** A recorded text with pieces cut, doubled and strewn in. */
const mutants = fc
  .tuple(
    fc.constantFrom(...seeds),
    fc.array(fc.tuple(fc.nat(200), fc.nat(8), fc.oneof(scraps, fc.string({ maxLength: 4 }))), { maxLength: 5 }),
  )
  .map(([seed, edits]) =>
    edits.reduce((text, [at, cut, scrap]) => text.slice(0, at) + scrap + text.slice(at + cut), seed),
  );
const texts = fc.oneof(
  mutants,
  fc.string(),
  fc.array(scraps).map((parts) => parts.join('')),
);

const readers: Readonly<Record<string, (text: string) => unknown>> = {
  'flow additions': (text) => parseFlowMod('add', text, portNames),
  'flow deletions': (text) => parseFlowMod('delete_strict', text, portNames),
  'dump filters': (text) => parseFlowFilter(text, portNames),
  groups: (text) => parseGroupMod('add', text, portNames),
  'bucket commands': (text) => parseGroupMod('insert_buckets', text, portNames),
  'packets of traces': (text) => parseTracePacket(text, portNames),
};

for (const [what, read] of Object.entries(readers)) {
  test(`garbage among ${what} is refused with a RequestError and nothing else`, (t) => {
    fc.assert(
      fc.property(texts, (text) => {
        try {
          read(text);
          return true;
        } catch (error) {
          if (error instanceof RequestError) return error.message.length < 1000 && error.code !== '';
          throw error;
        }
      }),
      { numRuns: 3000 },
    );
    t.pass();
  });
}
