import test from 'ava';
import { dropReason } from '#contract/catalogue.ts';
import { W_IN_PORT } from '#contract/flow-key.ts';
import { DatapathPorts } from '#ofproto/datapath-ports.ts';
import { Upcalls } from '#ofproto/upcalls.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';

/** A rig whose upcalls are answered here, one by one. */
async function answering() {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('priority=1,in_port=1,actions=output:2');
  const { bridge, theSwitch, datapath } = rig;
  const ports = new DatapathPorts(datapath);
  for (const port of bridge.portList) ports.join(bridge, port, port.dpPort);
  const upcalls = new Upcalls({
    ports,
    tunnels: theSwitch.tunnels,
    revalidator: theSwitch.revalidator,
    translator: theSwitch.translator,
    now: () => rig.time,
  });
  const ask = (text: string, inPort?: number, limit = 10) => {
    const key = rig.packet(text);
    if (inPort !== undefined) key[W_IN_PORT] = inPort;
    return upcalls.answer({ worker: 0, inPort: key[W_IN_PORT]!, key, frame: new Uint8Array(64) }, limit);
  };
  return { rig, upcalls, ask, megaflows: theSwitch.revalidator.megaflows };
}

test('packets that queued up behind the first of a flow cost one translation and one megaflow', async (t) => {
  const { ask, upcalls, megaflows } = await answering();
  const first = ask('in_port=1,ip,nw_src=10.0.0.1');
  const second = ask('in_port=1,ip,nw_src=10.0.0.2');
  t.deepEqual(second.actions, first.actions);
  t.is(megaflows.size, 1);
  t.is(upcalls.count, 2);
});

test('at the flow limit a packet is answered, but no megaflow made', async (t) => {
  const { ask, megaflows } = await answering();
  t.truthy(ask('in_port=1,ip', undefined, 0).actions);
  t.is(megaflows.size, 0);
});

test('a packet of a port that no bridge has is dropped by that name', async (t) => {
  const { ask } = await answering();
  const { actions } = ask('in_port=1,ip', 77);
  t.true([...actions!].includes(dropReason('no_such_port')));
});

test('megaflows that were flushed answer no more', async (t) => {
  const { ask, upcalls, rig, megaflows } = await answering();
  ask('in_port=1,ip');
  await rig.theSwitch.flushDatapathFlows();
  upcalls.forget();
  ask('in_port=1,ip');
  t.is(megaflows.size, 1);
});
