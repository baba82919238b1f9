import { isIPv6 } from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import { interfaceName, parseCidr, tapSettings } from '#ports/kernel/options.ts';

const config = (name: string, options: Record<string, string> = {}) => ({
  portNo: 1,
  name,
  type: 'tap',
  options,
  mtu: 1500,
});

test('a port means the interface of its own name, or of option ifname', (t) => {
  t.is(interfaceName(config('veth0')), 'veth0');
  t.is(interfaceName(config('a-very-long-port-name', { ifname: 'eth0' })), 'eth0');
  t.throws(() => interfaceName(config('a-very-long-port-name')), {
    message: /21 bytes.*1 to 15; name one with option ifname/,
  });
  for (const ifname of ['a b', 'a/b', 'x%d', '..', 'a:1'])
    t.throws(() => interfaceName(config('p', { ifname })), { message: /is no name for an interface/ }, ifname);
});

test('options of taps are read, and refused by name', (t) => {
  t.deepEqual(tapSettings(config('t0')), { ifname: 't0', mac: '', addresses: [], queues: 1, offload: true });
  const all = { mac: '02:00:00:00:00:01', address: '10.0.0.1/24, fd00::1/64', n_rxq: '4', offload: 'off' };
  const settings = tapSettings(config('t0', all));
  t.is(settings.queues, 4);
  t.false(settings.offload);
  t.deepEqual(
    settings.addresses.map(({ address, prefix }) => [address.length, prefix]),
    [
      [4, 24],
      [16, 64],
    ],
  );
  const refused: [Record<string, string>, RegExp][] = [
    [{ mac: '01:00:00:00:00:01' }, /option mac/],
    [{ mac: 'x' }, /option mac/],
    [{ address: '10.0.0.1' }, /option address: "10.0.0.1"/],
    [{ address: '10.0.0.1/33' }, /option address/],
    [{ address: 'fd00::1/129' }, /option address/],
    [{ address: '10.0.0.1/24/8' }, /option address/],
    [{ n_rxq: '17' }, /n_rxq/],
    [{ offload: 'maybe' }, /offload/],
    [{ speed: '1' }, /option speed/],
  ];
  for (const [options, message] of refused) t.throws(() => tapSettings(config('t0', options)), { message });
});

test('addresses of both families become their bytes', (t) => {
  t.deepEqual([...parseCidr('a', '10.1.2.3/8').address], [10, 1, 2, 3]);
  const embedded = [...new Array<number>(10).fill(0), 255, 255, 10, 1, 2, 3];
  t.deepEqual([...parseCidr('a', '::ffff:10.1.2.3/96').address], embedded);
  fc.assert(
    fc.property(fc.ipV6(), (text) => {
      fc.pre(isIPv6(text));
      const { address } = parseCidr('a', `${text}/64`);
      const groups = Array.from({ length: 8 }, (_, i) => ((address[2 * i]! << 8) | address[2 * i + 1]!).toString(16));
      // Written out in full, it is the same address.
      t.deepEqual(parseCidr('a', `${groups.join(':')}/64`).address, address);
      t.is(new URL(`http://[${groups.join(':')}]`).hostname, new URL(`http://[${text}]`).hostname);
    }),
    { numRuns: 500 },
  );
});
