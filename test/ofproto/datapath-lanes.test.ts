/** The lanes by themselves; with a server of the contract: datapath-client.test.ts. */
import test from 'ava';
import { output } from '#contract/actions.ts';
import { FLOW_PACKETS, FLOW_ROW } from '#contract/lane.ts';
import { dup, eventfd } from '#contract/os.ts';
import { DatapathLanes } from '#ofproto/datapath-lanes.ts';
import { megaflow } from '../support/datapath.ts';
import { makeLane } from '../support/worker-rig.ts';

const drop = () => ({ actions: undefined });

test('ids that the data plane holds already are not given out again', (t) => {
  const lanes = new DatapathLanes(drop);
  lanes.hold([
    { id: 0, ...megaflow(1, output(2)) },
    { id: 2, ...megaflow(2, output(2)) },
  ]);
  t.deepEqual([lanes.putFlow(megaflow(3, [])), lanes.putFlow(megaflow(4, []))], [1, 3]);
  lanes.hold([]);
  t.is(lanes.putFlow(megaflow(3, [])), 0);
  lanes.close();
});

test('statistics count while there are lanes, and a barrier without lanes is passed at once', async (t) => {
  const lanes = new DatapathLanes(drop);
  const stats = { packets: 7, bytes: 7, used: 7, tcpFlags: 7 };
  await lanes.barrier();
  const { lane, laneFd, wakeFd } = makeLane();
  lane.flows[4 * FLOW_ROW + FLOW_PACKETS] = 3;
  lanes.take([eventfd(), dup(laneFd), dup(wakeFd)]);
  lanes.flowStats(4, stats);
  t.is(stats.packets, 3);
  lanes.drop();
  lanes.flowStats(4, stats);
  t.deepEqual(stats, { packets: 0, bytes: 0, used: 0, tcpFlags: 0 });
  lanes.close();
});
