/** The whole pipeline without rx and tx, 1024 L3/L4 flows in one subtable, ns per packet. */
import { workerCounter } from '#contract/catalogue.ts';
import { expectHits, makeRig, putL4Flows } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(1024);
putL4Flows(rig.pipeline, 1024);
expectHits(rig, workerCounter('megaflow_hits'));
await measure({ name: 'megaflow', ...rig });
