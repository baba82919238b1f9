import test from 'ava';
import { findLink } from '#ports/kernel/interfaces.ts';
import { openXdp, XDP_KIND } from '#ports/kernel/xdp/backend.ts';
import type { XdpPiece } from '#ports/kernel/xdp/layout.ts';
import { which } from '../../../support/process.ts';
import { VethPair } from './veth-pair.ts';

const reason = process.getuid?.() !== 0 ? 'needs root' : which('ip') ? '' : 'needs ip';
const onVeth = reason ? test.skip : test.serial;
const why = reason ? ` (skipped: ${reason})` : '';

onVeth(`a veth end is opened when it is asked for, and its attachment follows the MTU${why}`, async (t) => {
  const pair = await VethPair.make(1, { here: true });
  try {
    const link = findLink(pair.near)!;
    t.throws(() => openXdp({ portNo: 3, link, options: {} }), { message: /options:xdp-mode=best-effort/ });
    const backend = openXdp({ portNo: 3, link, options: { 'xdp-mode': 'native' } });
    try {
      t.is(backend.name, 'af_xdp');
      const longest = [1500, 1400].map((mtu) => {
        const attachment = backend.attachment(mtu) as unknown as { kind: string; rxQueues: number[]; piece: XdpPiece };
        t.is(attachment.kind, XDP_KIND);
        t.deepEqual(attachment.rxQueues, [0]);
        t.deepEqual(structuredClone(attachment.piece.sockets[0]!.rx), attachment.piece.sockets[0]!.rx);
        return attachment.piece.longest;
      });
      t.deepEqual(longest, [1514, 1414]);
      t.is(backend.facts()['xdp-mode'], 'native');
    } finally {
      backend.close();
    }
  } finally {
    await pair.remove();
  }
});
