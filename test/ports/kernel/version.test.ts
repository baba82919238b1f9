import test from 'ava';
import { takesDatagrams } from '#ports/kernel/version.ts';

test('frames of several datagrams go to kernels from 6.2 on', (t) => {
  for (const version of ['6.2.0', '6.18.44-rc3', '7.0', '10.1']) t.true(takesDatagrams(version), version);
  for (const version of ['6.1.0-18-amd64', '5.15.2', '4.18', 'unknown']) t.false(takesDatagrams(version), version);
});
