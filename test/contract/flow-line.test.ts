import test from 'ava';
import { type FlowLineParts, formatDuration, formatFlowLine, OPENFLOW_VERSIONS } from '#contract/flow-line.ts';

const flow: FlowLineParts = {
  table: 0,
  priority: 32_768,
  cookie: '0x0',
  duration: 0.007,
  idleTimeout: 0,
  hardTimeout: 0,
  importance: 0,
  flags: [],
  packets: 0,
  bytes: 0,
  idleAge: 0,
  hardAge: 0,
  match: '',
  actions: 'drop',
};
const line = (parts: FlowLineParts, version = 'OpenFlow10', stats = true, ages = true): string =>
  formatFlowLine(parts, { version: OPENFLOW_VERSIONS.indexOf(version) + 1, stats, ages });

const full: FlowLineParts = {
  ...flow,
  table: 3,
  priority: 7,
  cookie: '0x5',
  duration: 0.104,
  idleTimeout: 5,
  hardTimeout: 10,
  importance: 3,
  flags: ['send_flow_rem', 'check_overlap'],
  match: 'udp',
  actions: 'output:1',
};

test('a line of OpenFlow 1.0 has ages and no flags', (t) => {
  t.is(
    line(full),
    ' cookie=0x5, duration=0.104s, table=3, n_packets=0, n_bytes=0, idle_timeout=5, hard_timeout=10, idle_age=0, priority=7,udp actions=output:1',
  );
  t.is(line(flow), ' cookie=0x0, duration=0.007s, table=0, n_packets=0, n_bytes=0, idle_age=0, actions=drop');
  t.is(
    line({ ...flow, duration: 12.5, hardAge: 3, idleAge: 2 }),
    ' cookie=0x0, duration=12.500s, table=0, n_packets=0, n_bytes=0, idle_age=2, hard_age=3, actions=drop',
  );
});

test('a line of OpenFlow 1.4 has flags and importance and no ages', (t) => {
  t.is(
    line(full, 'OpenFlow14'),
    ' cookie=0x5, duration=0.104s, table=3, n_packets=0, n_bytes=0, idle_timeout=5, hard_timeout=10, send_flow_rem check_overlap importance=3, priority=7,udp actions=output:1',
  );
});

test('of OpenFlow 1.1 and 1.2 a line has neither, of 1.3 flags, of 1.5 both', (t) => {
  const end = (version: string): string =>
    line({ ...full, hardAge: 3 }, version).slice(line(full, version).indexOf('hard'));
  t.is(end('OpenFlow12'), 'hard_timeout=10, priority=7,udp actions=output:1');
  t.is(end('OpenFlow13'), 'hard_timeout=10, send_flow_rem check_overlap priority=7,udp actions=output:1');
  t.is(
    end('OpenFlow15'),
    'hard_timeout=10, send_flow_rem check_overlap importance=3, idle_age=0, priority=7,udp actions=output:1',
  );
});

test('without statistics only what is not the default is left', (t) => {
  t.is(line(flow, 'OpenFlow10', false), ' actions=drop');
  t.is(line({ ...flow, priority: 5 }, 'OpenFlow10', false), ' priority=5 actions=drop');
  t.is(
    line({ ...flow, match: 'ip', cookie: '0xffffffffffffffff' }, 'OpenFlow10', false),
    ' cookie=0xffffffffffffffff, ip actions=drop',
  );
  t.is(
    line(full, 'OpenFlow10', false),
    ' cookie=0x5, table=3, idle_timeout=5, hard_timeout=10, priority=7,udp actions=output:1',
  );
});

test('durations are cut to milliseconds', (t) => {
  t.is(formatDuration(0), '0.000');
  t.is(formatDuration(1.2349), '1.234');
  t.is(formatDuration(100_000.07), '100000.070');
});
