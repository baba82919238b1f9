import test from 'ava';
import fc from 'fast-check';
import { clip, hex, MAX_TEXT, parseBounded, parseNumber, parseUnsigned, splitTerms } from '#ofproto/text.ts';
import { refusal } from './golden.ts';

test('terms are split at commas and blanks, outside of parentheses and quotes', (t) => {
  t.deepEqual(splitTerms(' ip, nw_dst=10.0.0.1/8\tresubmit(,5),output:"a,b" set(a=(1,2))'), [
    { key: 'ip', value: undefined, delimiter: '' },
    { key: 'nw_dst', value: '10.0.0.1/8', delimiter: '=' },
    { key: 'resubmit', value: ',5', delimiter: '(' },
    { key: 'output', value: '"a,b"', delimiter: ':' },
    { key: 'set', value: 'a=(1,2)', delimiter: '(' },
  ]);
  t.deepEqual(splitTerms('a=,b:c=d'), [
    { key: 'a', value: '', delimiter: '=' },
    { key: 'b', value: 'c=d', delimiter: ':' },
  ]);
  t.deepEqual(splitTerms(' , \n'), []);
});

test('what does not pair up, or is too long, is refused', (t) => {
  t.is(
    refusal(() => splitTerms('a(b,c')),
    'unbalanced parentheses in "a(b,c"',
  );
  t.is(
    refusal(() => splitTerms('a=b)')),
    'unbalanced parentheses in "a=b)"',
  );
  t.is(
    refusal(() => splitTerms('in_port="p1')),
    'unpaired quote in "in_port="p1"',
  );
  t.is(splitTerms('"p\\"1"')[0]!.key, '"p\\"1"');
  t.notThrows(() => splitTerms(' '.repeat(MAX_TEXT)));
  t.regex(refusal(() => splitTerms(' '.repeat(MAX_TEXT + 1))) ?? '', /at most 65536/);
});

test('any text is split within its length, or refused', (t) => {
  const alphabet = fc.constantFrom(...'a1=:,()" \\'.split(''));
  fc.assert(
    fc.property(fc.array(alphabet, { maxLength: 30 }), (characters) => {
      const text = characters.join('');
      let size = 0;
      const message = refusal(() => {
        for (const { key, value } of splitTerms(text)) size += key.length + (value?.length ?? 0);
      });
      return message === undefined ? size <= text.length : /unpaired|unbalanced/.test(message);
    }),
    { numRuns: 3000 },
  );
  t.pass();
});

test('numbers are decimal or 0x; a leading zero is no number', (t) => {
  t.is(parseUnsigned('0'), 0n);
  t.is(parseUnsigned('0xFFffFFffFFffFFff'), 2n ** 64n - 1n);
  for (const text of ['', '010', '-1', '+1', '1.5', '0x', '1e3', ' 1', '9'.repeat(41)])
    t.is(parseUnsigned(text), undefined);
});

test('bounds are those that were given', (t) => {
  t.is(parseBounded('65535', 'priority', 65535), 65535);
  t.is(
    refusal(() => parseBounded('65536', 'priority', 65535)),
    'invalid priority "65536"',
  );
  t.is(parseNumber('0xffff', 'x', 16), 65535n);
  t.is(
    refusal(() => parseNumber('0x10000', 'x', 16)),
    'invalid numeric format 0x10000',
  );
});

test('zero has no prefix in hexadecimal; long user text is cut in messages', (t) => {
  t.is(hex(0n), '0');
  t.is(hex(255), '0xff');
  t.is(clip('a'.repeat(100)).length, 100);
  t.is(clip('a'.repeat(101)), `${'a'.repeat(100)}…`);
});
