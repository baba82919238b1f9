/** The client against a server of the contract without workers; with the real ones: test/pmd. */
import { join } from 'node:path';
import test from 'ava';
import { output } from '#contract/actions.ts';
import { PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { FLOW_BYTES, FLOW_PACKETS, FLOW_ROW, FLOW_TCP_FLAGS, FLOW_USED, H_BARRIER } from '#contract/lane.ts';
import type { ReplyBodies, ToDatapath } from '#contract/messages.ts';
import { dup } from '#contract/os.ts';
import { type ContractHandler, ContractServer } from '#pmd/server.ts';
import { Control, megaflow, PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { makeLane } from '../support/worker-rig.ts';

class Plane implements ContractHandler {
  readonly dir = scratchDir('rwk');
  readonly path = join(this.dir, 's');
  lanes = [makeLane(), makeLane()];
  requests: ToDatapath[] = [];
  flows: ReplyBodies['flows']['flows'] = [];
  answer: (message: ToDatapath) => Partial<ReplyBodies> = () => ({ done: {} });
  server = new ContractServer(this.path, this);

  async control(): Promise<void> {}
  laneFds(): number[] {
    return this.lanes.flatMap(({ laneFd, wakeFd }) => [dup(laneFd), dup(wakeFd)]);
  }
  hello() {
    return { ports: [], options: {} };
  }
  async request(message: ToDatapath): Promise<Partial<ReplyBodies>> {
    this.requests.push(message);
    return message.dumpFlows ? { flows: { flows: this.flows, more: false } } : this.answer(message);
  }
  /** As if all workers had done everything. */
  passBarriers(): void {
    for (const { lane } of this.lanes) lane.header[H_BARRIER] = 0x7fff;
  }
  close(): void {
    this.server.close();
    removeScratchDir(this.dir);
  }
}

const withClient = async (body: (plane: Plane, control: Control) => Promise<void>): Promise<void> => {
  const plane = new Plane();
  const control = new Control(plane.path);
  try {
    await control.client.start();
    await body(plane, control);
  } finally {
    control.client.detach();
    plane.close();
  }
};

test('statistics are the sums over all lanes', async (t) => {
  await withClient(async (plane, control) => {
    for (const [i, { lane }] of plane.lanes.entries()) {
      lane.flows[5 * FLOW_ROW + FLOW_PACKETS] = 10 + i;
      lane.flows[5 * FLOW_ROW + FLOW_BYTES] = 1000 * (i + 1);
      lane.flows[5 * FLOW_ROW + FLOW_USED] = 7000 - i;
      lane.flows[5 * FLOW_ROW + FLOW_TCP_FLAGS] = 1 << i;
      lane.ports[3 * PORT_ROW + portCounter('tx_bytes')] = 2 ** 40;
    }
    t.deepEqual(control.stats(5), { packets: 21, bytes: 3000, used: 7000, tcpFlags: 3 });
    t.is(control.client.portStatistics(3).counters.tx_bytes, 2 ** 41);
    t.deepEqual(control.client.portStatistics(3).drops, {});
  });
});

test('a deleted flow tells its last statistics after the barrier, and only then its id serves again', async (t) => {
  await withClient(async (plane, control) => {
    const id = control.client.putFlow(megaflow(1, output(2)));
    plane.lanes[1]!.lane.flows[id * FLOW_ROW + FLOW_PACKETS] = 9;
    const gone = new Promise<number>((resolve) => control.client.deleteFlow(id, ({ packets }) => resolve(packets)));
    const second = control.client.putFlow(megaflow(2, []));
    t.not(second, id);
    await new Promise((resolve) => setTimeout(resolve, 50));
    t.not(control.client.putFlow(megaflow(3, [])), id, 'no worker has passed the barrier');
    plane.passBarriers();
    t.is(await gone, 9);
    t.is(plane.lanes[1]!.lane.flows[id * FLOW_ROW + FLOW_PACKETS], 0);
    t.is(control.client.putFlow(megaflow(4, [])), id);
  });
});

test('errors of the data plane come as errors with its code and words', async (t) => {
  await withClient(async (plane, control) => {
    plane.answer = () => {
      throw Object.assign(new Error('a port named x exists'), { code: 'exists' });
    };
    const error = await t.throwsAsync(control.addPort('x'), { message: 'a port named x exists' });
    t.like(error, { code: 'exists', status: 409 });
  });
});

test('a lost connection rejects what waits, and is made again', async (t) => {
  await withClient(async (plane, control) => {
    plane.answer = () => {
      plane.server.drop('on purpose');
      return { done: {} };
    };
    await t.throwsAsync(control.client.setOptions({}), { message: /not running/ });
    t.is(control.losses, 1);
    t.false(control.client.connected);
    t.is(control.client.pid, 0);
    plane.flows = [{ id: 77, words: [0, 5, 0xffffffff], actions: output(6) }];
    await until('the next connection', () => control.connections === 2, PATIENCE_MS);
    t.deepEqual(
      control.flows.map(({ id, key, mask, actions }) => [id, key[0], mask[0], ...actions]),
      [[77, 5, 0xffffffff, ...output(6)]],
    );
    t.true(control.client.connected);
  });
});

test('no data plane at all is an error of start, in words', async (t) => {
  const control = new Control('/nonexistent/socket');
  await t.throwsAsync(control.client.start(), { message: /ENOENT/ });
  await t.throwsAsync(control.client.pmds(), { message: /not running/ });
  control.client.detach();
});
