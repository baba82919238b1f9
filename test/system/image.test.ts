/**
 * The image is built by its Dockerfile on a base made of this machine's files, and compose.yaml runs on it. The base stands
 * for node:26-slim: its npm brings the modules that are here, its gcc is never asked, since the addon comes along.
 */
import { chmodSync, copyFileSync, cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { DockerDaemon, whyNoDocker } from '../support/docker.ts';
import { run, runOk, until, which } from '../support/process.ts';
import { withSwitch } from '../support/switch.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const why = (await whyNoDocker({ layers: true })) || (which('docker-compose') ? '' : 'needs docker-compose');
const maybe = why === '' ? test : test.skip;

/** A root folder with busybox, node, the libraries it needs, and an npm that installs what lies in the folder. */
async function makeBase(root: string): Promise<void> {
  for (const folder of ['bin', 'usr/local/bin', 'usr/local/share/modules', 'tmp', 'run', 'var/lib', 'etc', 'opt'])
    mkdirSync(join(root, folder), { recursive: true });
  chmodSync(join(root, 'tmp'), 0o1777);
  copyFileSync(which('busybox')!, join(root, 'bin/busybox'));
  for (const applet of ['sh', 'rm', 'mkdir', 'chown', 'cp', 'readlink', 'cat', 'ls', 'sleep', 'id', 'kill', 'stat'])
    symlinkSync('busybox', join(root, 'bin', applet));
  symlinkSync('/bin', join(root, 'usr/bin'));

  const node = join(root, 'usr/local/bin/node');
  copyFileSync(process.execPath, node);
  await runOk('strip', [node]).catch(() => undefined);
  for (const [, library] of (await runOk('ldd', [process.execPath])).matchAll(/(\/\S+) \(0x/g)) {
    mkdirSync(dirname(join(root, library!)), { recursive: true });
    copyFileSync(library!, join(root, library!));
  }

  const modules = join(ROOT, 'node_modules');
  const list = ['--prefix', ROOT, 'ls', '--omit=dev', '--all', '--parseable'];
  const wanted = (await run('npm', list, { timeoutMs: PATIENCE_MS })).stdout
    .split('\n')
    .filter((path) => path.startsWith(`${modules}/`))
    .map((path) => relative(modules, path))
    .filter((name) => !/^node(-linux-\w+)?$/.test(name));
  for (const name of wanted) {
    const from = join(modules, name);
    cpSync(from, join(root, 'usr/local/share/modules', name), { recursive: true });
  }
  copyFileSync(join(ROOT, 'native/build/ringway.node'), join(root, 'usr/local/share/ringway.node'));
  const script = (name: string, text: string): void => {
    writeFileSync(join(root, 'usr/local/bin', name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(root, 'usr/local/bin', name), 0o755);
  };
  for (const tool of ['gcc', 'make']) script(tool, 'echo "not to be run here"; exit 1');
  script(
    'npm',
    'cp -r /usr/local/share/modules node_modules; mkdir native/build; cp /usr/local/share/*.node native/build/',
  );
}

/** rw-docker gives two containers a port each of a switch on the host. */
async function handOver(t: ExecutionContext, daemon: DockerDaemon): Promise<void> {
  await withSwitch([], async (sw) => {
    await sw.vsctl('add-br', 'br0');
    const rwDocker = (...args: string[]) =>
      run(join(ROOT, 'bin/rw-docker'), ['--rundir', sw.rundir, ...args], {
        env: daemon.env,
        timeoutMs: 2 * PATIENCE_MS,
      });
    const guest = (ip: string, peer: string): string[] => {
      const program = ['ringway', '/opt/ringway/demo/container.ts', '--ip', ip, '--peer', peer];
      return ['--network', 'none', '--entrypoint', 'node', ...program];
    };
    const user = ['--uid', '1000', '--gid', '1000', '--'];
    const first = await rwDocker(
      'run',
      '--name',
      'p1',
      ...user,
      '-d',
      '--name',
      'guest1',
      ...guest('10.1.0.1', '10.1.0.2'),
    );
    t.is(first.code, 0, first.stderr);
    await sw.linkUp('p1');
    const second = ['--rm', ...guest('10.1.0.2', '10.1.0.1'), '--seconds', '10'];
    const { code, stdout, stderr } = await rwDocker('run', '--name', 'p2', ...user, ...second);
    t.is(code, 0, stderr);
    t.regex(stdout, /[1-9]\d* pings answered, round trip/);
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), 'p1');
    await daemon.docker('rm', '--force', 'guest1');
    t.is((await rwDocker('rm', 'p1')).code, 0);
  });
}

maybe(
  `the image is built, is healthy as an unprivileged user, and compose's guests exchange packets${why && ` (${why})`}`,
  async (t) => {
    t.timeout(10 * PATIENCE_MS);
    const daemon = await DockerDaemon.start('');
    try {
      const root = join(daemon.folder, 'base');
      await makeBase(root);
      await daemon.importFolder(root, 'ringway-base', 'ENV PATH=/usr/local/bin:/bin');
      await runOk('rm', ['-rf', root]);
      const env = { ...daemon.env, BASE: 'ringway-base', COMPOSE_PROJECT_NAME: 'rw', COMPOSE_HTTP_TIMEOUT: '300' };
      const compose = (...args: string[]): Promise<string> =>
        runOk('docker-compose', ['--project-directory', ROOT, '-f', join(ROOT, 'compose.yaml'), ...args], {
          env,
          timeoutMs: 5 * PATIENCE_MS,
        });
      await daemon.docker('build', '--network', 'none', '--build-arg', 'BASE=ringway-base', '-t', 'ringway', ROOT);
      await compose('up', '--detach', '--no-build');
      try {
        const logs = (service: string): Promise<string> => compose('logs', '--no-color', service);
        for (const [service, what] of [
          ['guest-a', /[1-9]\d* pings answered, round trip p50 \d+ µs/],
          ['guest-b', /[1-9]\d* stream frames received/],
        ] as const) {
          let said = '';
          await until(
            `${service} to exchange packets`,
            async () => {
              said = await logs(service);
              return what.test(said);
            },
            PATIENCE_MS,
            () => said,
          );
        }
        const id = (await compose('ps', '-q', 'switch')).trim();
        const state = await daemon.inspect('inspect', id);
        t.is(state.State.Health.Status, 'healthy');
        t.is((await daemon.docker('exec', id, 'id', '-u')).trim(), '1000');
        t.regex(await daemon.docker('exec', id, 'rw-vsctl', 'show'), /Bridge br0[\s\S]*vhost1/);
        const planes = await daemon.docker('top', id, '-o', 'pid,args');
        t.regex(planes, /src\/mgmt\/main\.ts/);
        t.regex(planes, /src\/pmd\/main\.ts/);
        t.deepEqual(Object.keys(state.NetworkSettings.Networks), ['none']);
        await daemon.docker('stop', '--time', '60', id);
        t.is((await daemon.inspect('inspect', id)).State.ExitCode, 0);
      } finally {
        await compose('down', '--volumes', '--timeout', '2');
      }
      await handOver(t, daemon);
      t.is((await daemon.docker('ps', '-aq')).trim(), '');
      t.is((await daemon.docker('volume', 'ls', '-q')).trim(), '');
    } finally {
      await daemon.close();
    }
  },
);
