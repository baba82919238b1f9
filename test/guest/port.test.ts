import test from 'ava';
import { openVirtioPort } from '#guest/index.ts';
import { bits, VIRTIO_FEATURES } from '#ports/vhost-user/wire.ts';
import { exchange, noise, withPair } from '../support/guest-pair.ts';
import { until } from '../support/process.ts';

test('queue pairs are enabled and disabled while running', async (t) => {
  await withPair({ queues: 3, enabled: 1 }, { queuePairs: 8 }, async (port, backend) => {
    const enabled = () => [0, 1, 2, 3, 4, 5].map((i) => backend.ring(i).enabled);
    t.deepEqual(enabled(), [true, true, false, false, false, false]);
    port.setQueues(3);
    await until('all rings to be enabled', () => enabled().every((on) => on));
    for (let q = 0; q < 3; q++) exchange(t, port, backend, [60, 1514], q);
    port.setQueues(2);
    await until('the third pair to be disabled', () => !backend.ring(4).enabled && !backend.ring(5).enabled);
    t.throws(() => port.setQueues(4), { instanceOf: RangeError });
  });
});

test('after a loss the port connects again and goes on where the rings stood', async (t) => {
  await withPair({ retryMs: 10 }, {}, async (port, backend) => {
    const queue = port.queue(0);
    exchange(t, port, backend, [60, 1514, 100]);
    queue.send([noise(70, 1), noise(71, 2)]);
    t.is(backend.take(0, 1).length, 1);
    backend.drop();
    queue.send([noise(72, 3)]);
    await until('the second connection', () => port.connections === 2 && port.state === 'up');
    t.deepEqual(
      backend.take().map(({ frame }) => frame.length),
      [71, 72],
    );
    exchange(t, port, backend, [60, 1514, 100]);
  });
});

test('with reconnect=reset the rings start empty', async (t) => {
  await withPair({ retryMs: 10, reconnect: 'reset' }, {}, async (port, backend) => {
    port.queue(0).send([noise(70, 1)]);
    backend.drop();
    await until('the second connection', () => port.connections === 2 && port.state === 'up');
    t.is(backend.take().length, 0);
    t.is(backend.ring(0).lastAvail, 0);
    exchange(t, port, backend, [60, 1514, 100]);
  });
});

test('a listening port takes a new connection after the old one', async (t) => {
  await withPair({ role: 'server' }, {}, async (port, backend) => {
    exchange(t, port, backend, [60, 1514]);
    backend.drop();
    await until('the loss to be seen', () => port.state === 'waiting');
    backend.connect();
    await until('the second connection', () => port.connections === 2);
    exchange(t, port, backend, [60, 1514]);
  });
});

test('closing stops the rings in order', async (t) => {
  await withPair({ queues: 2 }, { queuePairs: 2 }, async (port, backend) => {
    const before = backend.messages.length;
    await port.close();
    t.deepEqual(backend.messages.slice(before), [
      ...new Array(4).fill('SET_VRING_ENABLE'),
      ...new Array(4).fill('GET_VRING_BASE'),
    ]);
    t.is(port.state, 'closed');
    t.is(port.queue(0).tx.reserve(4), 0);
    t.is(port.queue(0).rx.poll(), 0);
  });
});

test('opening fails with the cause when the switch lacks a feature or is not there', async (t) => {
  await t.throwsAsync(
    withPair(
      { required: ['MRG_RXBUF'], timeoutMs: 2000 },
      { features: bits(VIRTIO_FEATURES, ['VERSION_1']) },
      () => {},
    ),
    { message: /does not offer MRG_RXBUF/ },
  );
  await t.throwsAsync(
    withPair({ queues: 4, timeoutMs: 2000 }, { queuePairs: 2 }, () => {}),
    {
      message: /offers 2 queue pairs; 4 are wanted/,
    },
  );
  await t.throwsAsync(openVirtioPort({ path: '/nonexistent/s', timeoutMs: 100 }), { message: /ENOENT/ });
});
