/** Any messages in any order, with any payloads and descriptors: they are obeyed or refused, and nothing is left behind. */
import test from 'ava';
import fc from 'fast-check';
import { close, eventfd, eventfdSignal } from '#contract/os.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { MessageRig } from '../../fuzz/message-rig.ts';
import { agreeing, conversation, toText } from '../../fuzz/messages.ts';
import { Random } from '../../fuzz/random.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';

test.serial('any messages are obeyed or refused, and nothing stays open', async (t) => {
  const dir = scratchDir('rwfz');
  const rig = new MessageRig(dir);
  let obeyed = 0;
  let attached = 0;
  try {
    // What a thread keeps from its first use on: the journal of this directory, the watcher, the means to signal.
    const channel = {
      code: wire.SET_BACKEND_REQ_FD,
      needReply: true,
      payload: new Uint8Array(0),
      fds: ['event'] as const,
    };
    await rig.run([...agreeing(false), channel]);
    const event = eventfd();
    eventfdSignal(event);
    close(event);
    const before = MessageRig.open();
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.nat(), async (seed, stream) => {
        const messages = conversation(new Random(seed, stream));
        const outcome = await rig.run(messages);
        obeyed += outcome.obeyed;
        attached += outcome.attached;
        t.is(outcome.fault, '', messages.map(toText).join('\n'));
      }),
      { numRuns: 500 },
    );
    t.true(attached > 250);
    t.is(MessageRig.open(), before);
    t.true(obeyed > 500);
  } finally {
    rig.close();
    removeScratchDir(dir);
  }
});
