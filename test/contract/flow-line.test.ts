import test from 'ava';
import { type FlowLineParts, formatDuration, formatFlowLine } from '#contract/flow-line.ts';

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
    formatFlowLine(full),
    ' cookie=0x5, duration=0.104s, table=3, n_packets=0, n_bytes=0, idle_timeout=5, hard_timeout=10, idle_age=0, priority=7,udp actions=output:1',
  );
  t.is(formatFlowLine(flow), ' cookie=0x0, duration=0.007s, table=0, n_packets=0, n_bytes=0, idle_age=0, actions=drop');
  t.is(
    formatFlowLine({ ...flow, duration: 12.5, hardAge: 3, idleAge: 2 }),
    ' cookie=0x0, duration=12.500s, table=0, n_packets=0, n_bytes=0, idle_age=2, hard_age=3, actions=drop',
  );
});

test('a line of OpenFlow 1.4 has flags and importance and no ages', (t) => {
  t.is(
    formatFlowLine(full, { ages: false, flags: true, importance: true }),
    ' cookie=0x5, duration=0.104s, table=3, n_packets=0, n_bytes=0, idle_timeout=5, hard_timeout=10, send_flow_rem check_overlap importance=3, priority=7,udp actions=output:1',
  );
});

test('without statistics only what is not the default is left', (t) => {
  t.is(formatFlowLine(flow, { stats: false }), ' actions=drop');
  t.is(formatFlowLine({ ...flow, priority: 5 }, { stats: false }), ' priority=5 actions=drop');
  t.is(
    formatFlowLine({ ...flow, match: 'ip', cookie: '0xffffffffffffffff' }, { stats: false }),
    ' cookie=0xffffffffffffffff, ip actions=drop',
  );
  t.is(
    formatFlowLine(full, { stats: false }),
    ' cookie=0x5, table=3, idle_timeout=5, hard_timeout=10, priority=7,udp actions=output:1',
  );
});

test('durations are cut to milliseconds', (t) => {
  t.is(formatDuration(0), '0.000');
  t.is(formatDuration(1.2349), '1.234');
  t.is(formatDuration(100_000.07), '100000.070');
});
