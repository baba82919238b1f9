/** The whole pipeline without rx and tx, 100 000 L3/L4 flows in one subtable, ns per packet. */
import { workerCounter } from '#contract/catalogue.ts';
import { expectHits, makeRig, putL4Flows } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(100_000);
putL4Flows(rig.pipeline, 100_000);
expectHits(rig, workerCounter('megaflow_hits'));
await measure({ name: 'megaflow-100k', ...rig });
