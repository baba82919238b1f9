import test from 'ava';
import { Api } from '../../demo/api.ts';
import { parseArguments } from '../../demo/main.ts';
import { DEFAULT_SHOW, Show } from '../../demo/show.ts';
import { render, summaryLine } from '../../demo/view.ts';
import { FakeSwitch } from '../support/guest-switch.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';

test('two guests ping and stream to each other, and the numbers arrive', async (t) => {
  const dir = scratchDir('rwd');
  const target = new FakeSwitch(dir);
  await target.start();
  const show = new Show(target, { ...DEFAULT_SHOW, rate: 1000, ringSize: 1024 });
  try {
    show.setStreams(true);
    const [a, b] = show.guests;
    await until('streams and pings both ways', () =>
      [a, b].every((guest) => guest.counter('stream_received') > 1000 && guest.counter('pings_answered') > 20),
    );
    await show.sample();
    await until('a second sample', () => a.counter('stream_received') > 2000);
    const snapshot = await show.sample();
    t.true(snapshot.apiUp);
    t.true(snapshot.mpps > 0);
    t.true(snapshot.ping.p50 > 0 && snapshot.ping.p50 <= snapshot.ping.p99);
    t.true(snapshot.stream.p50 > 0);
    t.is(snapshot.stream.lost, 0);
    t.is(snapshot.megaflows.total, 7);
    t.true(snapshot.caches.exact > 0.5);
    t.true(snapshot.pmds[0]!.busy > 0);
    t.regex(summaryLine(snapshot), /p1→p2 \d+\.\d+ Mpps .*megaflows 7/);

    await show.dropForAWhile(20);
    t.deepEqual(target.flowMods, [
      { command: 'add', flow: 'priority=65000,udp,nw_src=10.0.0.1,tp_dst=5001,actions=drop' },
      { command: 'delete_strict', flow: 'priority=65000,udp,nw_src=10.0.0.1,tp_dst=5001' },
    ]);

    const before = a.counter('stream_received');
    await show.killForAWhile(300);
    t.is(show.stage.control, 'up');
    t.regex(show.stage.message, /control plane back: [\d,]+ frames delivered meanwhile, 0 lost/);
    t.true(a.counter('stream_received') > before, 'traffic went on');

    const summary = await show.summary();
    t.is(summary.controlPlaneKills, 1);
    t.true(summary.delivered.packets > 2000);
    t.deepEqual(JSON.parse(JSON.stringify(summary)).megaflows, 7);
  } finally {
    await show.stop();
    await target.stop();
    removeScratchDir(dir);
  }
});

test('samples go on without a control plane', async (t) => {
  const dir = scratchDir('rwd');
  const target = new FakeSwitch(dir);
  await target.start();
  const show = new Show(target, { ...DEFAULT_SHOW, rate: 1000, ringSize: 64 });
  try {
    show.setStreams(true);
    await until('frames', () => show.guests[0].counter('stream_received') > 10);
    await show.sample();
    await target.killControl();
    const now = show.guests[0].counter('stream_received');
    await until('more frames', () => show.guests[0].counter('stream_received') > now + 100);
    const snapshot = await show.sample();
    t.false(snapshot.apiUp);
    t.true(snapshot.mpps > 0);
    t.is(snapshot.megaflows.total, 7, 'what was known stands');
    const screen = render(snapshot, { ...show.stage, control: 'killed' }, { columns: 80, rows: 24, colour: false });
    t.true(screen.join('\n').includes('✖ killed'));
  } finally {
    await show.stop();
    await target.stop();
    removeScratchDir(dir);
  }
});

test('an error of the API names the call and what the switch said', async (t) => {
  const dir = scratchDir('rwd');
  const target = new FakeSwitch(dir);
  await target.start();
  try {
    await t.throwsAsync(target.api.addBridge('x'), { name: 'ApiError', message: 'POST /v1/bridges: no such route' });
    await t.throwsAsync(new Api(`${dir}/none`).health(), { code: 'ENOENT' });
  } finally {
    await target.stop();
    removeScratchDir(dir);
  }
});

test('arguments are read', (t) => {
  const options = parseArguments(['--seconds', '3', '--json', '--size', '256', '--rate', '1000']);
  t.like(options, {
    seconds: 3,
    json: true,
    plain: false,
    rate: 1000,
    frameBytes: [256, 256],
    ringSize: 1024,
    script: '',
  });
  t.deepEqual(parseArguments([]).frameBytes, [64, 1500]);
});
