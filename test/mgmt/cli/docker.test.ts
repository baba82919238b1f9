import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { PATIENCE_MS } from '../../support/datapath.ts';
import { type RunResult, run } from '../../support/process.ts';
import { type SwitchProcess, withSwitch } from '../../support/switch.ts';

const TOOL = fileURLToPath(new URL('../../../bin/rw-docker', import.meta.url));

const tool = (sw: SwitchProcess, ...args: string[]): Promise<RunResult> =>
  run(TOOL, ['--rundir', sw.rundir, ...args], { timeoutMs: PATIENCE_MS });

/** A docker that says what it was asked, and ends as told. */
function fakeDocker(sw: SwitchProcess, code: number): string {
  const path = join(sw.rundir, `docker-${code}`);
  writeFileSync(
    path,
    `#!/bin/sh\nprintf '%s\\n' "$@" > ${sw.rundir}/asked\nls ${sw.rundir}/ports/* > ${sw.rundir}/seen\nexit ${code}\n`,
  );
  chmodSync(path, 0o755);
  return path;
}

test('print makes a port whose folder holds its socket, and a line that mounts the folder', async (t) => {
  await withSwitch([], async (sw) => {
    await sw.vsctl('add-br', 'br0');
    const owner = ['--uid', String(process.getuid?.()), '--gid', String(process.getgid?.())];
    const { code, stdout, stderr } = await tool(
      ...([sw, 'print', '--name', 'p1', ...owner, '--mode', '0600', '--vlan', '9', '--mtu', '1400'] as const),
      ...['--option', 'n_rxq=2', '--', '--rm', '-it', 'busy box', 'sh', '-c', 'echo $RINGWAY_SOCKET'],
    );
    t.is(stderr, '');
    t.is(code, 0);
    const folder = join(sw.rundir, 'ports', 'p1');
    const user = `${process.getuid?.()}:${process.getgid?.()}`;
    t.is(
      stdout,
      `docker run --mount type=bind,source=${folder},target=/run/ringway/p1 --env RINGWAY_PORT_TYPE=vhost-user ` +
        `--env RINGWAY_SOCKET=/run/ringway/p1/p1.sock --user ${user} ` +
        `--rm -it 'busy box' sh -c 'echo $RINGWAY_SOCKET'\n`,
    );
    t.deepEqual(readdirSync(folder), ['p1.sock']);
    t.is(statSync(folder).mode & 0o777, 0o700);
    t.is(statSync(join(folder, 'p1.sock')).mode & 0o777, 0o600);
    t.is((await sw.vsctl('get', 'Port', 'p1', 'tag')).trim(), '9');
    t.is((await sw.vsctl('get', 'Interface', 'p1', 'mtu_request')).trim(), '1400');
    const guest = await sw.guest('p1', { path: join(folder, 'p1.sock') });
    await sw.linkUp('p1');
    t.is((await tool(sw, 'list')).stdout, `br0/p1  vhost-user  up  ${folder}\n`);
    await guest.close();
    t.is((await tool(sw, 'rm', 'p1')).code, 0);
    t.false(existsSync(folder));
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), '');
    const again = await tool(sw, 'rm', 'p1');
    t.is(again.code, 1);
    t.regex(again.stderr, /there is no port p1/);
  });
});

test('run ends with its container, and a container in the background keeps its port', async (t) => {
  await withSwitch([], async (sw) => {
    await sw.vsctl('add-br', 'br0');
    const ended = await tool(sw, 'run', '--name', 'p1', '--docker', fakeDocker(sw, 7), 'image', '-x');
    t.is(ended.code, 7);
    t.regex(readFileSync(join(sw.rundir, 'asked'), 'utf8'), /^run\n--mount\n(.*\n)*image\n-x\n$/);
    t.is(readFileSync(join(sw.rundir, 'seen'), 'utf8'), 'p1.sock\n');
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), '');
    const background = await tool(sw, 'run', '--name', 'p2', '--docker', fakeDocker(sw, 0), '--', '-d', 'image');
    t.is(background.code, 0);
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), 'p2');
    const listens = ['--container-listens', '--docker', fakeDocker(sw, 0), '--keep', 'image'];
    t.is((await tool(sw, 'run', '--name', 'p3', ...listens)).code, 0);
    t.regex(await sw.vsctl('get', 'Interface', 'p3', 'options'), /mode="?client/);
  });
});

test('what cannot be is refused by name, and leaves nothing', async (t) => {
  await withSwitch([], async (sw) => {
    const cases: [string[], RegExp][] = [
      [['--name', 'p1'], /no bridge named br0/],
      [['--name', 'a/b'], /--name "a\/b"/],
      [['--name', 'p1', '--type', 'tap'], /--type "tap": use vhost-user, memif, ivshmem/],
      [['--name', 'p1', '--mode', 'rw'], /--mode "rw"/],
      [['--name', 'p1', '--type', 'ivshmem', '--container-listens'], /always the server/],
      [['--name', 'p1', '--option', 'x'], /key=value/],
      [[], /required option '--name/],
    ];
    for (const [words, error] of cases) {
      const { code, stderr } = await tool(sw, 'print', ...words, 'image');
      t.is(code, 1, words.join(' '));
      t.regex(stderr, error);
    }
    await sw.vsctl('add-br', 'br0');
    const { code, stderr } = await tool(sw, 'print', '--name', 'p1', '--option', 'nonsense=1', 'image');
    t.is(code, 1);
    t.regex(stderr, /nonsense/);
    t.false(existsSync(join(sw.rundir, 'ports', 'p1')));
  });
});
