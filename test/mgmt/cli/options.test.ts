/** Options as getopt_long has them, and the client's and the frame's own errors. */
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { Client, Fatal } from '#mgmt/cli/client.ts';
import { clientFor, type OptionTable, Output, parseOptions } from '#mgmt/cli/options.ts';
import { checkCount, versionLine } from '#mgmt/cli/run.ts';
import { version } from '#mgmt/cli/version.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';

const TABLE: OptionTable = {
  strict: { argument: 'no' },
  stats: { argument: 'no' },
  protocols: { argument: 'required', short: 'O' },
  sort: { argument: 'optional' },
  verbose: { argument: 'no', short: 'v' },
};
const parse = (...args: string[]) => {
  const { values, rest } = parseOptions(args, TABLE, true);
  return [Object.fromEntries(values), rest];
};

test('options stand before, between and behind arguments, in long, short and shortened form', (t) => {
  t.deepEqual(parse('a', '--strict', 'b', '-O', 'X', 'c'), [{ strict: '', protocols: 'X' }, ['a', 'b', 'c']]);
  t.deepEqual(parse('-OX', '--prot=Y'), [{ protocols: 'Y' }, []]);
  t.deepEqual(parse('--sort', 'dump'), [{ sort: '' }, ['dump']]);
  t.deepEqual(parse('--sort=in_port', '-', '--', '--strict'), [{ sort: 'in_port' }, ['-', '--strict']]);
  t.deepEqual(parseOptions(['--strict', 'cmd', '--other'], TABLE, false).rest, ['cmd', '--other']);
});

test('wrong options are told as getopt_long tells them', (t) => {
  const message = (...args: string[]): string => t.throws(() => parse(...args), { instanceOf: Fatal })!.message;
  t.is(message('--nope'), "unrecognized option '--nope'");
  t.is(message('-x'), "invalid option -- 'x'");
  t.is(message('-O'), "option requires an argument -- 'O'");
  t.is(message('--protocols'), "option '--protocols' requires an argument");
  t.is(message('--strict=1'), "option '--strict' doesn't allow an argument");
  t.is(message('--st'), "option '--st' is ambiguous; possibilities: '--strict' '--stats'");
  t.is(t.throws(() => checkCount('add-flow', 1, 2, 2))!.message, "'add-flow' command requires at least 2 arguments");
  t.is(t.throws(() => checkCount('show', 2, 1, 1))!.message, "'show' command takes at most 1 arguments");
  t.throws(() => clientFor(new Map([['timeout', 'soon']])), { message: /invalid/ });
  t.is(versionLine('rw-ofctl', version()), `rw-ofctl (Ringway) ${version()}`);
});

test('output is kept until it is taken', (t) => {
  const out = new Output();
  out.line('a');
  out.raw('b');
  t.is(out.take(), 'a\nb');
  t.is(out.take(), '');
});

test('a daemon that does not answer is given up at the timeout', async (t) => {
  const folder = scratchDir('mute');
  const server = createServer(() => undefined);
  await new Promise<void>((done) => server.listen(join(folder, 'api.sock'), done));
  await t.throwsAsync(new Client(folder, 0.2).get('/healthz'), { instanceOf: Fatal, message: /within the timeout/ });
  server.close();
  removeScratchDir(folder);
});
