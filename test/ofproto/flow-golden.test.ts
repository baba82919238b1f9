import test from 'ava';
import { formatGroup } from '#ofproto/group-format.ts';
import { parseGroupMod } from '#ofproto/group-parse.ts';
import { startOvsDummy, unavailable } from '../support/ovs-dummy.ts';
import { canonicalFlow, portNames, readGolden, refusal } from './golden.ts';

const flows = readGolden('flows.txt');
const errors = readGolden('errors.txt');
const groups = readGolden('groups.txt');

test('every recorded flow is printed as ovs-ofctl dump-flows prints it', (t) => {
  t.true(flows.length >= 500);
  for (const { input, output } of flows) t.is(canonicalFlow(input), output, input);
});

test('what is printed reads back as the same flow', (t) => {
  for (const { output } of flows) t.is(canonicalFlow(output), output);
});

test('what ovs-ofctl refuses is refused in its words', (t) => {
  t.true(errors.length >= 100);
  for (const { input, output } of errors)
    t.is(
      refusal(() => canonicalFlow(input)),
      output,
      input,
    );
});

const canonicalGroup = (text: string): string => {
  const { groupId, type, selection, buckets } = parseGroupMod('add', text, portNames);
  return formatGroup({ groupId, type: type!, selection, buckets });
};

test('every recorded group is printed as ovs-ofctl dump-groups prints it, and reads back', (t) => {
  for (const { input, output } of groups) {
    t.is(canonicalGroup(input), output, input);
    t.is(canonicalGroup(output), output);
  }
});

const why = unavailable();
const live = why ? test.skip : test;

live(
  `the recorded flows and errors are those of the installed ovs-ofctl${why ? ` (skipped: ${why})` : ''}`,
  async (t) => {
    t.timeout(120_000);
    const ovs = await startOvsDummy(3);
    try {
      // Every flow gets a priority of its own, to be found again by. -F nxm: OpenFlow 1.0 alone would widen some matches.
      const first = 40_000;
      const text = flows.map(({ input }, index) => `priority=${first - index},${input}`);
      await ovs.ofctlOk(['-F', 'nxm', 'add-flows', 'br0', '-'], `${text.join('\n')}\n`);
      const dump = await ovs.ofctlOk(['-F', 'nxm', 'dump-flows', '--no-stats', 'br0']);
      const printed = new Map<number, string>();
      for (const line of dump.split('\n')) {
        const found = /priority=(\d+),? ?(.*)$/.exec(line);
        if (found) printed.set(first - Number(found[1]), found[2]!);
      }
      for (const [index, { input, output }] of flows.entries()) t.is(printed.get(index), output, input);
      for (const { input, output } of errors.filter((_, index) => index % 5 === 0)) {
        const { stderr } = await ovs.ofctl(['add-flow', 'br0', input]);
        t.is(/ovs-ofctl: (.*)/.exec(stderr)?.[1], output, input);
      }
    } finally {
      await ovs.stop();
    }
  },
);
