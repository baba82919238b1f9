import test from 'ava';
import type { BridgeSpec } from '#ofproto/api.ts';
import { localPort } from '#ofproto/local.ts';
import { OFPP_LOCAL } from '#ofproto/ofp-port.ts';
import { makeMac } from '#ofproto/specs.ts';
import { Switch } from '#ofproto/switch.ts';
import { FakeDatapath } from '../support/fake-datapath.ts';

const spec = (otherConfig: Record<string, string> = {}, more: Partial<BridgeSpec> = {}): BridgeSpec => ({
  name: 'br0',
  datapathId: '',
  failMode: 'standalone',
  otherConfig,
  ...more,
});
const make = (datapath: FakeDatapath) => new Switch(datapath, { timer: false, localDevices: true });
const devices = (datapath: FakeDatapath) => datapath.ports().map(({ name, type, mtu }) => `${name} ${type} ${mtu}`);

test('a bridge asks for a device of its name, or says why not', (t) => {
  const port = localPort(spec({ hwaddr: '02:00:00:00:00:05', 'local-address': '10.0.0.1/24', 'local-mtu': '1400' }));
  if (typeof port === 'string') return t.fail(port);
  t.deepEqual([port.name, port.type, port.mtuRequest], ['br0', 'internal', 1400]);
  t.deepEqual(port.options, { mac: '02:00:00:00:00:05', address: '10.0.0.1/24' });
  const plain = localPort(spec());
  t.deepEqual(typeof plain === 'string' ? plain : plain.options, { mac: makeMac('br0') });
  t.is(localPort(spec({ 'local-device': 'false' })), 'other_config:local-device is false');
  t.is(localPort(spec({}, { datapathType: 'dummy' })), 'datapath_type is dummy');
});

test('LOCAL is a port of the bridge while it has a device, and follows its settings', async (t) => {
  const datapath = new FakeDatapath();
  const made = make(datapath);
  await made.addBridge(spec());
  const bridge = made.bridges.get('br0')!;
  t.deepEqual(devices(datapath), ['br0 internal 1500']);
  t.is(bridge.portOf(OFPP_LOCAL)?.mac, makeMac('br0'));
  await made.setBridge(spec({ 'local-mtu': '9000' }));
  t.deepEqual(devices(datapath), ['br0 internal 9000']);
  await made.setBridge(spec({ 'local-device': 'false' }));
  t.deepEqual(devices(datapath), []);
  t.is(bridge.portOf(OFPP_LOCAL), undefined);
  t.is(bridge.localError, 'other_config:local-device is false');
  await made.setBridge(spec());
  t.is(bridge.localError, '');
  await made.deleteBridge('br0');
  t.deepEqual(devices(datapath), []);
  made.close();
});

test('a bridge whose device cannot be made works without, and gets it from a data plane that can', async (t) => {
  const datapath = new FakeDatapath();
  datapath.refusePort = 'no privilege';
  const made = make(datapath);
  await made.addBridge(spec());
  const bridge = made.bridges.get('br0')!;
  t.is(bridge.localError, 'no privilege');
  t.is(bridge.portOf(OFPP_LOCAL), undefined);
  datapath.refusePort = '';
  datapath.forget();
  datapath.connect();
  for (let turns = 0; turns < 100 && bridge.localError !== ''; turns++) await new Promise(setImmediate);
  t.deepEqual(devices(datapath), ['br0 internal 1500']);
  t.truthy(bridge.portOf(OFPP_LOCAL));
  made.close();
});

test('without devices asked for, a bridge has none and gives no reason', async (t) => {
  const datapath = new FakeDatapath();
  const made = new Switch(datapath, { timer: false });
  await made.addBridge(spec());
  t.deepEqual(devices(datapath), []);
  t.is(made.bridges.get('br0')!.localError, '');
  made.close();
});
