import test from 'ava';
import fc from 'fast-check';
import { RECORD_PAD } from '../../src/contract/records.ts';
import { RingReader, RingWriter } from '../../src/contract/ring.ts';

const SIZE = 1 << 12;
const make = () => {
  const buffer = new ArrayBuffer(4096 + SIZE);
  const header = new Int32Array(buffer, 0, 1024);
  return {
    header,
    writer: new RingWriter(buffer, header, 4096, SIZE, 16, 32),
    reader: new RingReader(buffer, header, 4096, SIZE, 16, 32),
  };
};

test('records come out as they went in, in order, through any number of wraps', (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 8, max: 900 }), fc.boolean()), { maxLength: 300 }), (steps) => {
      const { writer, reader } = make();
      const expected: number[] = [];
      let tag = 0;
      const drain = (): void => {
        for (let at = reader.next(); at >= 0; at = reader.next()) {
          t.not(reader.words[at + 1], RECORD_PAD);
          const value = expected.shift()!;
          if (reader.words[at]! >= 12) t.is(reader.words[at + 2], value);
        }
        reader.release();
      };
      for (const [length, thenDrain] of steps) {
        const at = writer.reserve(7, length);
        if (at >= 0) {
          if (writer.words[at]! >= 12) writer.words[at + 2] = tag;
          expected.push(tag++);
          writer.publish();
        }
        if (at < 0 || thenDrain) drain();
      }
      drain();
      t.deepEqual(expected, []);
    }),
  );
});

test('a full ring refuses a record and loses nothing', (t) => {
  const { writer, reader } = make();
  let written = 0;
  while (writer.reserve(1, 512) >= 0) written++;
  writer.publish();
  t.is(written, SIZE / 512);
  let read = 0;
  while (reader.next() >= 0) read++;
  t.is(read, written);
  t.is(writer.reserve(1, 512), -1);
  reader.release();
  t.true(writer.reserve(1, 512) >= 0);
});

test('nothing is seen before it is published', (t) => {
  const { writer, reader } = make();
  writer.reserve(1, 64);
  t.is(reader.next(), -1);
  writer.publish();
  t.true(reader.next() >= 0);
});

test('a writer gone wrong breaks the ring, not the reader', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), fc.integer(), (length, head) => {
      const { header, reader } = make();
      reader.words[0] = length;
      reader.words[1] = 1;
      header[16] = head;
      for (let i = 0; i < 10_000; i++) {
        const at = reader.next();
        if (at < 0) return;
        if (at * 4 + reader.words[at]! > SIZE) throw new Error(`record at ${at} reaches beyond the ring`);
      }
      throw new Error('reader never came to an end');
    }),
  );
  t.pass();
});
