import test from 'ava';
import type { PortSpec } from '#ofproto/api.ts';
import type { Bridge } from '#ofproto/bridge.ts';
import { DatapathPorts } from '#ofproto/datapath-ports.ts';
import { OfPort } from '#ofproto/port.ts';
import { FakeDatapath } from '../support/fake-datapath.ts';
import { portSpec } from '../support/random-tables.ts';

const BRIDGE = { name: 'br0' } as Bridge;

function rig() {
  const datapath = new FakeDatapath();
  datapath.connect({
    connected: () => undefined,
    disconnected: () => undefined,
    portStatus: () => undefined,
    upcall: () => ({ actions: undefined }),
  });
  const portOf = (name: string, more: Partial<PortSpec> = {}) =>
    new OfPort(portSpec(name, more), 1, '02:00:00:00:00:01');
  return { datapath, ports: new DatapathPorts(datapath), portOf };
}

test('a port that the data plane has already is taken as it is; one of another type is replaced', async (t) => {
  const { datapath, ports, portOf } = rig();
  await ports.open(BRIDGE, portOf('a', { type: 'dummy' }));
  const [first] = datapath.ports();
  const again = portOf('a', { type: 'dummy' });
  await ports.open(BRIDGE, again);
  t.is(again.dpPort, first!.portNo);
  t.is(ports.at(again.dpPort)?.port, again);
  const other = portOf('a', { type: 'tap' });
  await ports.open(BRIDGE, other);
  t.deepEqual(
    datapath.ports().map(({ name, type }) => [name, type]),
    [['a', 'tap']],
  );
});

test('a port that cannot be put back says why, and is nobody in the data plane', async (t) => {
  const { datapath, ports, portOf } = rig();
  datapath.refusePort = 'no such device';
  const port = portOf('a');
  await ports.putBack(BRIDGE, port);
  t.is(port.dpPort, 0);
  t.is(port.datapath?.state, 'error');
  t.regex(port.datapath?.lastError ?? '', /no such device/);
});

test('a closed port is gone on both sides', async (t) => {
  const { datapath, ports, portOf } = rig();
  const port = portOf('a');
  await ports.open(BRIDGE, port);
  const { dpPort } = port;
  await ports.close(port);
  t.is(ports.at(dpPort), undefined);
  t.is(port.dpPort, 0);
  t.deepEqual(datapath.ports(), []);
});

test('after the data plane changed, no number means a port until it is joined again', async (t) => {
  const { ports, portOf } = rig();
  const port = portOf('a');
  await ports.open(BRIDGE, port);
  ports.clear();
  t.is(ports.at(port.dpPort), undefined);
  ports.join(BRIDGE, port, 9);
  t.is(ports.at(9)?.port, port);
});
