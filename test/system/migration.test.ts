/** Live migration of a Linux guest between two QEMU processes, each with a port of its own on the switch. */
import test from 'ava';
import { allowedCpus, guestsUnavailable } from '../guests/lab.ts';
import { runScenario } from '../guests/scenarios.ts';

const reason = guestsUnavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;
const [first = 0, second = first] = allowedCpus();

for (const ring of ['split', 'packed'] as const) {
  maybe(`a guest with ${ring} rings moves while it is pinged and receives a stream: every byte is there`, async (t) => {
    t.timeout(300_000);
    t.log(await runScenario(`migration-${ring}`, { cpus: [first, second] }));
    t.pass();
  });
}
