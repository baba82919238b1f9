import test from 'ava';
import { formatGroup } from '#ofproto/group-format.ts';
import { parseGroupMod } from '#ofproto/group-parse.ts';
import type { Ovs } from '../support/ovs.ts';
import { startOvsDummy, unavailable } from '../support/ovs-dummy.ts';
import { canonicalFlow, canonicalFlow13, type Golden, portNames, readGolden, refusal } from './golden.ts';

const flows = readGolden('flows.txt');
const flows13 = readGolden('flows13.txt');
const errors = readGolden('errors.txt');
const groups = readGolden('groups.txt');

test('every recorded flow is printed as ovs-ofctl dump-flows prints it', (t) => {
  t.true(flows.length >= 500);
  for (const { input, output } of flows) t.is(canonicalFlow(input), output, input);
});

test('what is printed reads back as the same flow', (t) => {
  for (const { output } of flows) t.is(canonicalFlow(output), output);
});

test('every recorded flow of OpenFlow 1.3 is printed as ovs-ofctl -O OpenFlow13 prints it, and reads back', (t) => {
  for (const { input, output } of flows13) {
    t.is(canonicalFlow13(input), output, input);
    t.is(canonicalFlow13(output), output);
  }
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

/** What the installed ovs-ofctl makes of recorded flows. Every flow gets a priority of its own, to be found again by. */
async function dumpedBy(ovs: Ovs, options: string[], list: readonly Golden[]): Promise<(string | undefined)[]> {
  const first = 40_000;
  const text = list.map(({ input }, index) => `priority=${first - index},${input}`);
  await ovs.ofctlOk(['del-flows', 'br0']);
  await ovs.ofctlOk([...options, 'add-flows', 'br0', '-'], `${text.join('\n')}\n`);
  const dump = await ovs.ofctlOk([...options, 'dump-flows', '--no-stats', 'br0']);
  const printed = new Map<number, string>();
  for (const line of dump.split('\n')) {
    const found = /priority=(\d+),? ?(.*)$/.exec(line);
    if (found) printed.set(first - Number(found[1]), found[2]!);
  }
  return list.map((_, index) => printed.get(index));
}

live(`the recorded texts are those of the installed ovs-ofctl${why ? ` (skipped: ${why})` : ''}`, async (t) => {
  t.timeout(120_000);
  const ovs = await startOvsDummy(3);
  try {
    // -F nxm: OpenFlow 1.0 alone would widen some matches.
    for (const [options, list] of [
      [['-F', 'nxm'], flows],
      [['-O', 'OpenFlow13'], flows13],
    ] as const) {
      const dumped = await dumpedBy(ovs, [...options], list);
      for (const [index, { input, output }] of list.entries()) t.is(dumped[index], output, input);
    }
    for (const { input, output } of errors.filter((_, index) => index % 5 === 0)) {
      const { stderr } = await ovs.ofctl(['add-flow', 'br0', input]);
      t.is(/ovs-ofctl: (.*)/.exec(stderr)?.[1], output, input);
    }
    for (const { input, output } of groups) {
      await ovs.ofctlOk(['del-groups', 'br0']);
      await ovs.ofctlOk(['add-group', 'br0', input]);
      t.is((await ovs.ofctlOk(['dump-groups', 'br0'])).split('\n')[1], ` ${output}`, input);
    }
  } finally {
    await ovs.stop();
  }
});
