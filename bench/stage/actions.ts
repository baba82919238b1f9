/** The whole pipeline without rx and tx; the flow sets MAC addresses, pushes a tag and decrements the TTL. */
import { decTtl, output, pushVlan, set } from '#contract/actions.ts';
import { workerCounter } from '#contract/catalogue.ts';
import { expectHits, makeRig, putL4Flows } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(1);
const edits = [...set(2, 0x02000000, 0xffffffff), ...set(3, 0x00090200, 0xffffffff), ...set(4, 7, 0xffffffff)];
const program = [...edits, ...decTtl(), ...pushVlan(0x8100, 0x1064), ...output(2)];
putL4Flows(rig.pipeline, 1, 0, program);
// Flow 0 of BenchRx has fields of its own; a single flow leaves the frame as it is.
rig.pipeline.flows.put(0, [0, 1, 0xffffffff, 7, 0x08001100, 0xffffff00, ...program], 0, 2, program.length);
expectHits(rig, workerCounter('megaflow_hits'));
await measure({ name: 'actions', ...rig });
