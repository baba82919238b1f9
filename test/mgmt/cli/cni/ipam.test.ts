import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { delegateTo } from '#mgmt/cli/cni/ipam.ts';
import { removeScratchDir, scratchDir } from '../../../support/process.ts';

test('a delegate gets command and configuration; its result and its errors come back', async (t) => {
  const folder = scratchDir('rwipam');
  const plugin = (name: string, script: string): void => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  plugin('good', `printf '{"cniVersion":"1.1.0","ips":[{"address":"%s"}]}' "$CNI_COMMAND:$(cat)"`);
  plugin('bad', `echo '{"cniVersion":"1.1.0","code":11,"msg":"later","details":"why"}'; exit 1`);
  plugin('silent', 'exit 0');
  plugin('garbage', 'echo nonsense');
  plugin('dead', 'exit 3');
  const call = (name: string) => delegateTo(name, ['/nonexistent', folder], 'in').run('ADD');
  try {
    t.deepEqual((await call('good'))?.ips, [{ address: 'ADD:in' }]);
    t.is(await call('silent'), undefined);
    t.like(await t.throwsAsync(call('bad')), { code: 11, message: 'bad: later', details: 'why' });
    t.like(await t.throwsAsync(call('garbage')), { code: 6 });
    t.like(await t.throwsAsync(call('dead')), { code: 100, message: 'dead ADD failed' });
    t.like(await t.throwsAsync(call('absent')), { code: 7 });
  } finally {
    removeScratchDir(folder);
  }
});
