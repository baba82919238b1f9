import test from 'ava';
import { exchange, withPair } from '../support/guest-pair.ts';

for (const role of ['client', 'server'] as const) {
  for (const order of ['virtio-user', 'qemu'] as const) {
    test(`a ${role} port comes up with the messages of ${order} and passes frames`, async (t) => {
      await withPair({ role, order, mtu: 1400 }, {}, (port, backend) => {
        t.is(port.state, 'up');
        t.is(backend.error, '');
        const table = backend.messages.indexOf('SET_MEM_TABLE');
        const enable = backend.messages.indexOf('SET_VRING_ENABLE');
        t.is(enable < table, order === 'qemu');
        t.is(backend.messages[0], order === 'qemu' ? 'GET_FEATURES' : 'SET_OWNER');
        t.true(backend.messages.includes('NET_SET_MTU'));
        t.is(backend.messages.includes('SET_VRING_ERR'), order === 'qemu');
        t.is(backend.status, 15);
        exchange(t, port, backend, [60, 64, 1514, 2032]);
      });
    });
  }
}
