import test from 'ava';
import { readXdpOptions } from '#ports/kernel/xdp/options.ts';

test('without options native modes are tried and the kernel is woken where it asks', (t) => {
  t.deepEqual(readXdpOptions({}), {
    modes: ['native-with-zerocopy', 'native'],
    needWakeup: true,
    busyPollBudget: 0,
    txChecksum: true,
    queues: 0,
  });
});

test('best-effort tries generic mode last; another mode stands alone', (t) => {
  t.deepEqual(readXdpOptions({ 'xdp-mode': 'best-effort' }).modes, ['native-with-zerocopy', 'native', 'generic']);
  t.deepEqual(readXdpOptions({ 'xdp-mode': 'generic' }).modes, ['generic']);
});

test('an error names the option and what it takes', (t) => {
  t.throws(() => readXdpOptions({ 'xdp-mode': 'fast' }), { message: /xdp-mode is "fast"; it takes best-effort or/ });
  t.throws(() => readXdpOptions({ 'use-need-wakeup': 'yes' }), { message: /use-need-wakeup is "yes"/ });
  t.throws(() => readXdpOptions({ 'busy-poll-budget': '-1' }), { message: /busy-poll-budget is "-1"; it takes 0 to/ });
  t.throws(() => readXdpOptions({ n_rxq: 'x' }), { message: /n_rxq is "x"/ });
});
