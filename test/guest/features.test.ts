import test from 'ava';
import { featureMask, featureNames, hasFeature, headerBytes, protocolMask } from '#guest/features.ts';

test('names and masks turn into each other', (t) => {
  const mask = featureMask(['CSUM', 'MRG_RXBUF', 'VERSION_1']);
  t.is(mask, 0x1_0000_8001n);
  t.deepEqual(featureNames(mask), ['CSUM', 'MRG_RXBUF', 'VERSION_1']);
  t.true(hasFeature(mask, 'VERSION_1'));
  t.false(hasFeature(mask, 'EVENT_IDX'));
  t.is(protocolMask(['MQ', 'REPLY_ACK', 'STATUS']), 0x10009n);
  t.throws(() => featureMask(['X' as 'CSUM']), {
    instanceOf: RangeError,
    message: /unknown feature X; known are CSUM/,
  });
});

test('the header has 12 bytes with VERSION_1 or MRG_RXBUF, else 10', (t) => {
  t.is(headerBytes(featureMask(['VERSION_1'])), 12);
  t.is(headerBytes(featureMask(['MRG_RXBUF'])), 12);
  t.is(headerBytes(featureMask(['CSUM', 'EVENT_IDX'])), 10);
});
