import test from 'ava';
import { XDP_COPY } from '#ports/kernel/xdp/layout.ts';
import { XskSocket } from '#ports/kernel/xdp/socket.ts';
import { which } from '../../../support/process.ts';
import { VethPair } from './veth-pair.ts';

const reason = process.getuid?.() !== 0 ? 'needs root' : which('ip') ? '' : 'needs ip';
const onVeth = reason ? test.skip : test.serial;
const why = reason ? ` (skipped: ${reason})` : '';

onVeth(
  `a queue takes one socket at a time, counts from nothing, and is free again when that is closed${why}`,
  async (t) => {
    const pair = await VethPair.make(1, { here: true });
    try {
      const wish = {
        ifindex: pair.ifindex,
        queue: 0,
        frameBytes: 2048,
        flags: XDP_COPY,
        metadata: false,
        busyPollBudget: 0,
      };
      const socket = new XskSocket(wish);
      t.deepEqual(new Set(Object.values(socket.statistics())), new Set([0]));
      t.is(socket.place.umemBytes, (socket.place.rx.entries + socket.place.tx.entries) * 2048);
      t.throws(() => new XskSocket(wish), { code: 'EBUSY' });
      t.throws(() => new XskSocket({ ...wish, queue: 7 }), { code: 'EINVAL' });
      t.throws(() => new XskSocket({ ...wish, frameBytes: 3000 }), { code: 'EINVAL', message: /XDP_UMEM_REG/ });
      socket.close();
      t.notThrows(() => new XskSocket(wish).close());
    } finally {
      await pair.remove();
    }
  },
);
