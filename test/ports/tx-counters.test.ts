import test from 'ava';
import { PORT_COUNTERS, PORT_ROW } from '#contract/catalogue.ts';
import { countSent } from '#ports/tx-counters.ts';

test('what was sent is added to the row of its port', (t) => {
  const slots = new Float64Array(3 * PORT_ROW);
  const counters = { slots, base: PORT_ROW };
  countSent(counters, 3, 192);
  countSent(counters, 1, 60);
  const row = slots.slice(PORT_ROW, 2 * PORT_ROW);
  t.deepEqual(
    Object.fromEntries(PORT_COUNTERS.map(({ name }, i) => [name, row[i]!]).filter(([, value]) => value !== 0)),
    {
      tx_packets: 4,
      tx_bytes: 252,
      tx_bursts: 2,
      copied_bytes: 252,
    },
  );
  t.is(
    slots.reduce((sum, value) => sum + value, 0),
    4 + 252 + 2 + 252,
    'nothing outside the row',
  );
});
