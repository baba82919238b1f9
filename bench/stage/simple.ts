/** The whole pipeline without rx and tx, flows that match in_port only, ns per packet. */
import { output } from '#contract/actions.ts';
import { workerCounter } from '#contract/catalogue.ts';
import { expectHits, makeRig } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(1);
rig.pipeline.flows.put(0, [0, 1, 0xffffffff, ...output(2)], 0, 1, 2);
expectHits(rig, workerCounter('simple_hits'));
await measure({ name: 'simple', ...rig });
