import test from 'ava';
import { offeredFeatures, offloadNames, rxOptions, txOptions } from '#ports/vhost-user/features.ts';
import { OFFLOAD_FEATURES, OFFLOAD_OPTIONS, readOffloads } from '#ports/vhost-user/offload-options.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { bits, VIRTIO_FEATURES, type VirtioFeature } from '#ports/vhost-user/wire.ts';

const mask = (...names: VirtioFeature[]): bigint => bits(VIRTIO_FEATURES, names);
const without = (...names: VirtioFeature[]): VirtioFeature[] =>
  OFFLOAD_FEATURES.filter((name) => !names.includes(name));

test('all offloads are offered, but for those that an option switches off, both ways or one by one', (t) => {
  const cases: [Record<string, string>, VirtioFeature[]][] = [
    [{}, [...OFFLOAD_FEATURES]],
    [{ offload: 'off' }, []],
    [{ offload: 'off', csum: 'on' }, ['GUEST_CSUM', 'CSUM']],
    [{ offload: 'off', guest_csum: 'on', guest_tso4: 'on' }, ['GUEST_CSUM', 'GUEST_TSO4']],
    [{ ecn: 'off' }, without('GUEST_ECN', 'HOST_ECN')],
    [{ host_ecn: 'off' }, without('HOST_ECN')],
    [{ ufo: 'off', uso: 'off' }, without('GUEST_UFO', 'HOST_UFO', 'GUEST_USO4', 'GUEST_USO6', 'HOST_USO')],
    [{ tso4: 'off' }, without('GUEST_TSO4', 'HOST_TSO4')],
    // ECN is of no use without TSO, and nothing is without checksums.
    [{ tso: 'off' }, without('GUEST_TSO4', 'HOST_TSO4', 'GUEST_TSO6', 'HOST_TSO6', 'GUEST_ECN', 'HOST_ECN')],
    [{ tso: 'off', host_tso6: 'on' }, without('GUEST_TSO4', 'HOST_TSO4', 'GUEST_TSO6', 'GUEST_ECN')],
    [{ guest_csum: 'off' }, OFFLOAD_FEATURES.filter((name) => !name.startsWith('GUEST_'))],
    [{ csum: 'off' }, []],
  ];
  for (const [options, offered] of cases) {
    t.deepEqual([...readOffloads(options)].sort(), [...offered].sort(), JSON.stringify(options));
  }
});

test('values and contradictions are refused by the name of the option', (t) => {
  const cases: [Record<string, string>, RegExp][] = [
    [{ csum: 'no' }, /option csum is "no"; it takes on or off/],
    [{ guest_uso: 'false', uso: 'off' }, /option guest_uso is "false"/],
    [{ csum: 'off', tso4: 'on' }, /option tso4 is "on", but needs csum, which is off for the guest/],
    [{ host_csum: 'off', host_ufo: 'on' }, /option host_ufo is "on", but needs csum, which is off for the host/],
    [{ tso: 'off', ecn: 'on' }, /option ecn is "on", but needs tso4 or tso6/],
  ];
  for (const [options, message] of cases) t.throws(() => readOffloads(options), { message });
  const config = { portNo: 1, name: 'p', type: 'vhost-user', mtu: 1500 };
  t.is(parseOptions({ ...config, options: { uso: 'off' } }, '/tmp').offloads.includes('HOST_USO'), false);
  t.throws(() => parseOptions({ ...config, options: { lro: 'off' } }, '/tmp'), { message: /option lro .* not known/ });
  t.is(new Set(OFFLOAD_OPTIONS).size, OFFLOAD_OPTIONS.length);
});

test('what was negotiated says which frames pass whole, each way', (t) => {
  const all = offeredFeatures(OFFLOAD_FEATURES, false);
  t.deepEqual(rxOptions(all).gso, [1, 0x81, 4, 0x84, 3, 5]);
  t.deepEqual(txOptions(all, 1500, 0).gso, [1, 0x81, 4, 0x84, 3, 5]);
  t.deepEqual(rxOptions(mask('CSUM', 'HOST_TSO4', 'HOST_USO')).gso, [1, 5]);
  t.deepEqual(txOptions(mask('GUEST_CSUM', 'GUEST_TSO6', 'GUEST_ECN'), 1500, 0).gso, [4, 0x84]);
  t.deepEqual(txOptions(mask('GUEST_TSO4', 'GUEST_UFO'), 1500, 0).gso, [], 'nothing without checksums');
  t.deepEqual(txOptions(mask('GUEST_CSUM', 'GUEST_USO4'), 1500, 0).gso, [], 'half of USO');
  t.deepEqual(txOptions(mask('GUEST_CSUM', 'GUEST_USO4', 'GUEST_USO6'), 1500, 0).gso, [5]);
  t.is(offloadNames(0n), 'none');
  t.is(offloadNames(mask('CSUM', 'HOST_USO', 'MQ')), 'csum,host_uso');
});
