import test from 'ava';
import { LABEL, PLUGIN_TYPE, pools } from '#mgmt/docker/messages.ts';
import { networkOptions } from '#mgmt/docker/options.ts';

test("nothing said gives a bridge of the network's own, untagged, MTU 1500, open", (t) => {
  t.deepEqual(networkOptions({}), { bridge: '', vlan: 0, mtu: 1500, isolate: false, prefix: 'eth' });
});

test("Docker's own names mean what they mean for its bridge driver", (t) => {
  const options = networkOptions({
    'com.docker.network.bridge.name': 'lab',
    'com.docker.network.driver.mtu': '9000',
    'com.docker.network.bridge.enable_icc': 'false',
    'com.docker.network.container_iface_prefix': 'net',
  });
  t.deepEqual(options, { bridge: 'lab', vlan: 0, mtu: 9000, isolate: true, prefix: 'net' });
  t.throws(() => networkOptions({ 'com.docker.network.container_iface_prefix': '0x' }), { message: /12 letters/ });
});

test('pools are read as Docker sends them', (t) => {
  t.is(PLUGIN_TYPE, 'application/vnd.docker.plugins.v1.1+json');
  t.is(LABEL.generic, 'com.docker.network.generic');
  const body = {
    IPv4Data: [{ Pool: '10.0.0.0/24', AuxAddresses: { DefaultGatewayIPv4: '10.0.0.9' } }],
    IPv6Data: null,
  };
  t.deepEqual(pools(body, 'IPv4Data'), [{ pool: '10.0.0.0/24', gateway: '', aux: { DefaultGatewayIPv4: '10.0.0.9' } }]);
  t.deepEqual(pools(body, 'IPv6Data'), []);
  t.throws(() => pools({ IPv4Data: 'x' }, 'IPv4Data'), { message: /IPv4Data is not a list/ });
});
