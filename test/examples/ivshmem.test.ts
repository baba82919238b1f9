/** The C header and its example programs: they compile without a warning, and know the layout that the switch knows. */
import test from 'ava';
import * as layout from '#ports/ivshmem/layout.ts';
import { buildExamples, exampleCompiler } from '../support/ivshmem-examples.ts';
import { runOk } from '../support/process.ts';

const maybe = exampleCompiler() ? test : test.skip;
const why = exampleCompiler() ? '' : ' (no C compiler or make)';

maybe(`the programs compile with -Wall -Wextra -Werror, and print the offsets of layout.ts${why}`, async (t) => {
  t.timeout(120_000);
  const { rwi } = await buildExamples();
  const lines = (await runOk(rwi, ['layout'])).trim().split('\n');
  const known = layout as unknown as Record<string, unknown>;
  let compared = 0;
  for (const line of lines) {
    const [, name, value] = /^(\w+) (\d+)$/.exec(line) ?? [];
    if (name === undefined) continue;
    t.is(Number(value), known[name] as number, name);
    compared++;
  }
  // Every offset and number of the layout but those that only its maker needs.
  const own =
    /^(PAGE|LINE|(MIN|MAX)_(ENTRIES|BUFFER_BYTES|POOL_BYTES)|ERROR.*|H_MAGIC_HIGH|NAME_BYTES|SWITCH_SLOT|DESC_WORDS|FREE_BYTES)$/;
  const numbers = Object.entries(known).filter(([name, value]) => typeof value === 'number' && !own.test(name));
  t.is(compared, numbers.length, numbers.map(([name]) => name).join(' '));
  for (let ring = 0; ring < layout.RINGS; ring++) {
    t.true(lines.includes(`entries of ring ${ring} at ${layout.ringEntriesAt(ring, 256)}`));
  }
});
