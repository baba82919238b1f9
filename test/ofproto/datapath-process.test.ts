import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { close } from '#contract/os.ts';
import { datapathSocket, reachDatapath } from '#ofproto/datapath-process.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { alive } from '../support/switch.ts';

test('the data process is started when none answers, and adopted when one does', async (t) => {
  const rundir = join(scratchDir('rwp'), 'made');
  t.is(datapathSocket(rundir), join(rundir, 'datapath.sock'));
  let pid = 0;
  try {
    const first = await reachDatapath(rundir);
    t.false(first.adopted);
    pid = Number(readFileSync(join(rundir, 'rw-datapathd.pid'), 'utf8'));
    t.true(alive(pid));
    // A session of its own: the end of this process's session does not end it.
    const session = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[3];
    t.is(Number(session), pid);
    const second = await reachDatapath(rundir);
    t.true(second.adopted);
    t.is(Number(readFileSync(join(rundir, 'rw-datapathd.pid'), 'utf8')), pid);
    close(first.fd);
    close(second.fd);
    await until(
      'the log',
      () => /data plane ready/.test(readFileSync(join(rundir, 'rw-datapathd.log'), 'utf8')),
      PATIENCE_MS,
    );
  } finally {
    if (pid > 0) process.kill(pid, 'SIGTERM');
    await until('the process to end', () => pid === 0 || !alive(pid), PATIENCE_MS);
    t.false(existsSync(datapathSocket(rundir)));
    removeScratchDir(join(rundir, '..'));
  }
});

test('a run directory that cannot be is an error at once', async (t) => {
  await t.throwsAsync(reachDatapath('/dev/null/x'));
});
