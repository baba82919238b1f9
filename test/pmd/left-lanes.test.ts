import { join } from 'node:path';
import test from 'ava';
import { H_NAME, H_UPCALL_FREED, H_UPCALL_HEAD, H_VERSION } from '#contract/lane.ts';
import { close, dup, map, memfd } from '#contract/os.ts';
import { LeftLanes } from '#pmd/left-lanes.ts';
import type { Verb } from '#pmd/verbs.ts';
import type { PmdWorker } from '#pmd/workers.ts';
import {
  CARRIED_SECTIONS,
  LANE_FREED,
  LANE_HEAD,
  LANE_ROW,
  ROWS_AT,
  SECTION_WORDS,
} from '#ports/vhost-user/journal.ts';
import { Journal } from '#ports/vhost-user/journal-file.ts';
import { removeScratchDir, scratchDir } from '../support/process.ts';
import { makeLane } from '../support/worker-rig.ts';

const withJournal = async (decided: readonly number[][], body: (journal: Journal) => Promise<void>): Promise<void> => {
  const dir = scratchDir('rwl');
  const path = join(dir, 'journal');
  const first = new Journal(path);
  const at = (CARRIED_SECTIONS + 3) * SECTION_WORDS;
  const words = new Int32Array(map(first.fd, at * 4, SECTION_WORDS * 4, { write: true, owner: 0 }));
  words.set(decided.flat(), ROWS_AT);
  words[0] = decided.length;
  first.close();
  const journal = new Journal(path);
  try {
    await body(journal);
  } finally {
    journal.close();
    removeScratchDir(dir);
  }
};

const workers = (count: number): { asked: Verb[]; all: PmdWorker[] } => {
  const asked: Verb[] = [];
  const ask = (verb: Verb): Promise<undefined> => Promise.resolve(void asked.push(verb));
  return { asked, all: Array.from({ length: count }, () => ({ ask }) as unknown as PmdWorker) };
};

test('the ends of a ring stand where its last burst had decided, and the lanes are spread over the workers', async (t) => {
  const lanes = [makeLane(), makeLane(), makeLane()];
  const [one, two] = lanes.map(({ lane }) => lane.header);
  one![H_UPCALL_HEAD] = 400;
  one![H_UPCALL_FREED] = 80;
  // This one had shown its head already.
  two![H_UPCALL_HEAD] = 900;
  const rows = [
    [one![H_NAME]!, 400, LANE_ROW | LANE_HEAD, 560, 0],
    [one![H_NAME]!, 80, LANE_ROW | LANE_FREED, 160, 0],
    [two![H_NAME]!, 800, LANE_ROW | LANE_HEAD, 900, 0],
  ];
  await withJournal(rows, async (journal) => {
    const fds = lanes.map(({ laneFd }) => laneFd);
    const left = new LeftLanes(fds, journal);
    t.deepEqual([one![H_UPCALL_HEAD], one![H_UPCALL_FREED], two![H_UPCALL_HEAD]], [560, 160, 900]);
    const { asked, all } = workers(2);
    await left.handTo(all);
    t.deepEqual(asked, [
      { verb: 'inherit', countersOf: [], upcallsOf: [fds[0]!, fds[2]!] },
      { verb: 'inherit', countersOf: [], upcallsOf: [fds[1]!] },
    ]);
    t.deepEqual(journal.lane(one![H_NAME]!), {});
    left.close();
  });
  for (const { wakeFd } of lanes) close(wakeFd);
});

test('what is no lane of this version is refused, and every descriptor closed', async (t) => {
  await withJournal([], async (journal) => {
    const short = memfd('short', 4096);
    const { laneFd: good } = makeLane();
    t.throws(() => new LeftLanes([good, short], journal), { message: /lane has 4096 bytes/ });
    t.throws(() => dup(good), { code: 'EBADF' });
    t.throws(() => dup(short), { code: 'EBADF' });
    const { lane, laneFd } = makeLane();
    lane.header[H_VERSION] = 99;
    t.throws(() => new LeftLanes([laneFd], journal), { message: /lane version 99 is not/ });
  });
});
