import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import type { Summary } from '../../demo/show.ts';
import { Child, PATIENCE_MS, runOk } from '../support/process.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const missing = ['bin/rw-vswitchd', 'bin/rw-datapathd'].filter((file) => !existsSync(ROOT + file));
const maybe = missing.length > 0 ? test.skip : test.serial;
const title = (text: string): string => (missing.length > 0 ? `${text} (skipped: no ${missing.join(', ')})` : text);

const leftovers = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('rw-demo-'));

maybe(
  title('the demo carries pings and streams through the real switch, over a kill of the control plane'),
  async (t) => {
    const text = await runOk(
      process.execPath,
      // Rings that hold seconds of the streams: a busy machine does not run every guest all the time.
      [`${ROOT}demo/main.ts`, '--seconds', '14', '--json', '--rate', '4000', '--ring', '16384', '--script', 'k'],
      { timeoutMs: 2 * PATIENCE_MS },
    );
    const summary = JSON.parse(text) as Summary;
    t.true(summary.delivered.packets > 10_000);
    t.true(summary.ping.answered > 100);
    t.true(summary.ping.p99 >= summary.ping.p50 && summary.ping.p50 > 0);
    t.is(summary.controlPlaneKills, 1);
    t.is(summary.stream.lost, 0);
    t.true(summary.megaflows >= 2);
  },
);

maybe(title('an interrupt ends the demo in order and leaves nothing behind'), async (t) => {
  const before = leftovers();
  const demo = new Child(process.execPath, [`${ROOT}demo/main.ts`, '--rate', '1000']);
  try {
    await demo.waitFor(/ ([2-9]|\d\d+) s \| p1→p2 \d+\.\d+ Mpps/, 'two seconds of demo', PATIENCE_MS);
    const own = leftovers().filter((name) => !before.includes(name));
    t.is(own.length, 1);
    await demo.stop('SIGINT', PATIENCE_MS);
    t.is(demo.exit, 'exit code 0', demo.tail());
    t.false(leftovers().includes(own[0]!));
  } finally {
    await demo.stop('SIGKILL');
  }
});
