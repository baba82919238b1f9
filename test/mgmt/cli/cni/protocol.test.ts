import test from 'ava';
import fc from 'fast-check';
import {
  CniError,
  decode,
  formatError,
  formatResult,
  readConfig,
  readEnvironment,
  VERSIONS,
  versionOf,
} from '#mgmt/cli/cni/protocol.ts';

const env = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'c1',
  CNI_NETNS: '/run/netns/x',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/a:/b',
};
const noArgs = { args: new Map<string, string>() };
const config = (more: object) => readConfig({ cniVersion: '1.1.0', name: 'net', type: 'rw-cni', ...more }, noArgs);

function code(work: () => unknown): [number, string] {
  try {
    work();
  } catch (error) {
    if (error instanceof CniError) return [error.code, error.message];
    throw error;
  }
  return [0, ''];
}

test('the environment names container, interface, namespace and plugin folders', (t) => {
  const read = readEnvironment({ ...env, CNI_ARGS: 'IgnoreUnknown=1;MAC=02:00:00:00:00:09' });
  t.like(read, { command: 'ADD', containerID: 'c1', netns: '/run/netns/x', ifname: 'eth0', path: ['/a', '/b'] });
  t.is(read.args.get('MAC'), '02:00:00:00:00:09');
});

test('variables that cannot be are named, with code 4', (t) => {
  t.deepEqual(code(() => readEnvironment({ CNI_COMMAND: 'FOO' }))[0], 4);
  const all = code(() => readEnvironment({ CNI_COMMAND: 'ADD', CNI_CONTAINERID: '-x', CNI_IFNAME: 'a/b' }));
  t.deepEqual(all, [4, 'CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS: missing or not valid']);
  t.deepEqual(
    code(() => readEnvironment({ ...env, CNI_IFNAME: 'longer-than-a-device' })),
    [4, 'CNI_IFNAME: missing or not valid'],
  );
  t.is(code(() => readEnvironment({ ...env, CNI_COMMAND: 'DEL', CNI_NETNS: '' }))[0], 0);
  t.is(code(() => readEnvironment({ CNI_COMMAND: 'GC' }))[0], 0);
});

test('a configuration that is no JSON object has code 6, an unknown version 1, an unknown field 2, a bad value 7', (t) => {
  t.is(code(() => decode('{'))[0], 6);
  t.is(code(() => decode('[]'))[0], 6);
  t.is(code(() => versionOf({ cniVersion: '9.0.0' }))[0], 1);
  t.deepEqual(
    code(() => config({ brigde: 'x' })),
    [2, 'unsupported field brigde: "x"'],
  );
  t.deepEqual(
    code(() => config({ vlan: 4095 })),
    [7, 'vlan is 4095; it takes a number from 1 to 4094'],
  );
  t.deepEqual(
    code(() => config({ mtu: '9000' })),
    [7, 'mtu is "9000"; it takes a number from 68 to 65535'],
  );
  t.deepEqual(
    code(() => config({ portType: 'tap' })),
    [7, 'portType is "tap"; it takes veth or vhost-user'],
  );
  t.deepEqual(code(() => config({ name: undefined }))[0], 7);
  t.deepEqual(code(() => config({ 'cni.dev/valid-attachments': [{}] }))[0], 7);
});

test("defaults, and the runtime's own fields", (t) => {
  t.like(config({}), { bridge: 'br0', portType: 'veth', mode: 'server', vlan: 0, mtu: 1500, ipam: '', mac: '' });
  const mac = { capabilities: { mac: true }, runtimeConfig: { mac: '02:AA:00:00:00:01' } };
  t.is(config(mac).mac, '02:aa:00:00:00:01');
  t.is(
    readConfig({ name: 'n', type: 't' }, { args: new Map([['MAC', '02:00:00:00:00:09']]) }).mac,
    '02:00:00:00:00:09',
  );
  const list = [{ containerID: 'a', ifname: 'eth0' }];
  t.deepEqual(config({ 'cni.dev/attachments': list }).valid, list);
});

test('results have the fields of their version', (t) => {
  const result = {
    interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:01', mtu: 1400, sandbox: '/n', socketPath: '/s' }],
    ips: [
      { address: '10.0.0.2/24', gateway: '10.0.0.1', interface: 0 },
      { address: 'fd00::2/64', interface: 0 },
    ],
    routes: [{ dst: '0.0.0.0/0', mtu: 1300 }],
  };
  t.deepEqual(formatResult({ cniVersion: '1.1.0', ...result }), { cniVersion: '1.1.0', ...result, dns: {} });
  t.deepEqual(formatResult({ cniVersion: '0.4.0', ...result }), {
    cniVersion: '0.4.0',
    interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:01', sandbox: '/n' }],
    ips: [
      { version: '4', address: '10.0.0.2/24', gateway: '10.0.0.1', interface: 0 },
      { version: '6', address: 'fd00::2/64', interface: 0 },
    ],
    routes: [{ dst: '0.0.0.0/0' }],
    dns: {},
  });
});

test('errors are told with code and message', (t) => {
  t.deepEqual(formatError('1.0.0', new CniError(11, 'later')), { cniVersion: '1.0.0', code: 11, msg: 'later' });
  t.like(formatError('1.0.0', new CniError(7, 'no', 'because')), { details: 'because' });
});

test('no configuration makes anything but a checked one or a CNI error', (t) => {
  const field = fc.constantFrom(
    'name',
    'bridge',
    'vlan',
    'mtu',
    'mac',
    'ipam',
    'portType',
    'socketMode',
    'isolate',
    'prevResult',
  );
  const value = fc.oneof(fc.jsonValue(), fc.constant('veth'), fc.nat(5000));
  let sound = 0;
  fc.assert(
    fc.property(fc.constantFrom(...VERSIONS, '2'), fc.dictionary(field, value), (cniVersion, fields) => {
      const [failed] = code(() => {
        const read = readConfig({ cniVersion, name: 'net', type: 'rw-cni', ...fields }, noArgs);
        if (!(read.vlan <= 4094 && read.mtu >= 68 && /^[\w.-]+$/.test(read.name))) throw new Error(read.name);
        sound++;
      });
      return [0, 1, 2, 7].includes(failed);
    }),
  );
  t.true(sound > 0);
});
