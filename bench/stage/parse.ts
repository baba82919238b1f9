/** Parsing an untagged IPv4/UDP frame whole, ns per packet. */
import { NEED_NETWORK, NEED_TAGS } from '#datapath/parse/need.ts';
import { parseBurst } from '#datapath/parse/parse.ts';
import { singleRuns } from '#datapath/parse/runs.ts';
import { makeRig } from './rig.ts';
import { measure } from './runner.ts';

const rig = makeRig(1);
rig.rx.poll(rig.batch);
singleRuns(rig.batch, 32);
await measure({
  name: 'parse',
  packets: rig.packets,
  run: () => {
    for (let i = 0; i < rig.packets; i += 32) parseBurst(rig.batch, 32, NEED_TAGS | NEED_NETWORK, -1);
  },
});
