import test from 'ava';
import { RequestError } from '#ofproto/api.ts';
import { checkPortSpec, OfPort } from '#ofproto/port.ts';
import { checkBridgeSpec, datapathConfig, makeMac, sameConfig } from '#ofproto/specs.ts';
import { portSpec } from '../support/random-tables.ts';

const newPort = (more: Parameters<typeof portSpec>[1]): OfPort => new OfPort(portSpec('p', more), 1, '');
const carried = (port: OfPort): number[] => [0, 10, 20, 30].filter((vlan) => port.carries(vlan));

test('each mode carries the VLANs that ovs-vswitchd.conf.db(5) says', (t) => {
  t.deepEqual(carried(newPort({})), [0, 10, 20, 30]);
  t.deepEqual(carried(newPort({ tag: 10 })), [10]);
  t.deepEqual(carried(newPort({ trunks: [10, 20] })), [10, 20]);
  t.deepEqual(carried(newPort({ trunks: [20], tag: 10, vlanMode: 'native-tagged' })), [10, 20]);
  t.deepEqual(carried(newPort({ tag: 10, vlanMode: 'native-untagged' })), [10, 20, 30]);
  t.deepEqual(carried(newPort({ tag: 30, vlanMode: 'dot1q-tunnel' })), [30]);
});

test('configuration words stop rx, tx and floods', (t) => {
  const of = (word: string) => {
    const { receives, forwards, floods } = newPort({ config: [word] });
    return [receives, forwards, floods];
  };
  t.deepEqual(of('down'), [false, false, true]);
  t.deepEqual(of('no-receive'), [false, true, true]);
  t.deepEqual(of('no-forward'), [true, false, true]);
  t.deepEqual(of('no-flood'), [true, true, false]);
});

test('settings that make no sense are refused by field', (t) => {
  const field = (more: Parameters<typeof portSpec>[1]): string =>
    t.throws(() => checkPortSpec(portSpec('p', more)), { instanceOf: RequestError }).field;
  t.is(field({ name: 'a b' }), 'name');
  t.is(field({ tag: 5000 }), 'tag');
  t.is(field({ trunks: [1, 4096] }), 'trunks');
  t.is(field({ ofportRequest: 65535 }), 'ofportRequest');
  t.is(field({ config: ['upside-down'] }), 'config');
  t.is(field({ mtuRequest: -1 }), 'mtuRequest');
  t.notThrows(() => checkPortSpec(portSpec('p', { tag: 4095, trunks: [0], ofportRequest: 7 })));
  const bridge = { name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} } as const;
  t.throws(() => checkBridgeSpec({ ...bridge, datapathId: 'xyz' }), { instanceOf: RequestError });
  t.throws(() => checkBridgeSpec({ ...bridge, otherConfig: { 'mac-aging-time': '3' } }), { instanceOf: RequestError });
});

test('the data plane is asked again only for what concerns it', (t) => {
  const config = datapathConfig(portSpec('p', { options: { path: '/a' } }));
  t.is(config.mtu, 1500);
  t.true(sameConfig(config, datapathConfig(portSpec('p', { options: { path: '/a' }, tag: 5 }))));
  t.false(sameConfig(config, datapathConfig(portSpec('p', { options: { path: '/b' } }))));
  t.false(sameConfig(config, datapathConfig(portSpec('p', { options: { path: '/a' }, mtuRequest: 9000 }))));
});

test('a name always gets the same locally administered unicast address', (t) => {
  t.is(makeMac('p1'), makeMac('p1'));
  t.not(makeMac('p1'), makeMac('p2'));
  t.is(Number.parseInt(makeMac('p1').slice(0, 2), 16) & 3, 2);
});
