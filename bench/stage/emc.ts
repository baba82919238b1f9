/** The whole pipeline without rx and tx, 1024 L3/L4 flows spread over four subtables, so that the cache is asked first. */
import { output } from '#contract/actions.ts';
import { workerCounter } from '#contract/catalogue.ts';
import { expectHits, makeRig } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(1024);
// Flow f is in subtable f modulo 4: the masks differ in TTL and TOS bits.
const masks = [0, 0x00010000, 0x00020000, 0x01000000];
for (let flow = 0; flow < 1024; flow++) {
  const source = 0x0a000000 | ((flow & 0xff) << 8) | (flow >>> 8);
  const match = [0, 1, 0xffffffff, 7, 0x08001100, 0xffffffff, 8, source, 0xffffffff, 9, 0x0a010001, 0xffffffff];
  const mask = masks[flow & 3]!;
  const words = mask === 0 ? match : [...match, 11, 0, mask];
  rig.pipeline.flows.put(flow, [...words, ...output(2)], 0, words.length / 3, 2);
}
for (let i = 0; i < 4; i++) rig.run();
expectHits(rig, workerCounter('emc_hits'));
await measure({ name: 'emc', ...rig });
