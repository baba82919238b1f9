/**
 * `npm run demo`: a switch, two guests that ping and stream to each other through it, and a live view until Ctrl-C.
 *
 *     node demo/main.ts [--seconds N] [--json] [--plain] [--rate FRAMES/S] [--size BYTES] [--script KEYS]
 *
 * Without a terminal it prints a line a second; `--json` prints one object at the end instead. `--script kd` presses keys
 * by itself, one every six seconds.
 */
import process from 'node:process';
import { Command, InvalidArgumentError } from 'commander';
import { DEFAULT_SHOW, Show, type ShowOptions } from './show.ts';
import { type DemoSwitch, startSwitch } from './switch.ts';
import { Terminal } from './terminal.ts';
import { render, summaryLine } from './view.ts';

export interface DemoOptions extends ShowOptions {
  /** Ends by itself after so many seconds; 0: never. */
  readonly seconds: number;
  readonly json: boolean;
  readonly plain: boolean;
  readonly script: string;
}

const SCREEN_MS = 250;
const LINE_MS = 1000;
const SCRIPT_MS = 6000;

const number =
  (low: number, high: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!(value >= low && value <= high)) throw new InvalidArgumentError(`It must be from ${low} to ${high}.`);
    return value;
  };

export function parseArguments(args: readonly string[]): DemoOptions {
  const command = new Command('demo')
    .option('--seconds <n>', 'end after n seconds', number(0, 1e6), 0)
    .option('--json', 'print a summary as JSON at the end, nothing else', false)
    .option('--plain', 'a line a second, also on a terminal', false)
    .option(
      '--rate <frames>',
      'frames per second of each stream, 0 = as fast as it goes',
      number(0, 1e8),
      DEFAULT_SHOW.rate,
    )
    .option('--size <bytes>', 'frame size of both streams; default 64 one way, 1500 the other', number(60, 1514))
    .option('--ring <descriptors>', 'ring size of the guests', number(64, 32_768), DEFAULT_SHOW.ringSize)
    .option('--script <keys>', 'keys to press by itself', '');
  const { size, ring, ...rest } = command.parse([...args], { from: 'user' }).opts();
  return { ...rest, ringSize: ring, frameBytes: size ? [size, size] : DEFAULT_SHOW.frameBytes } as DemoOptions;
}

/** Runs the show on a switch that is up, until a key, a signal or the time ends it. Stops the guests, not the switch. */
export async function runDemo(target: DemoSwitch, options: DemoOptions, stopped: AbortSignal): Promise<void> {
  const show = new Show(target, options);
  const screen = process.stdout.isTTY && !options.plain && !options.json;
  const terminal = screen ? new Terminal(process.stdout, process.stdin) : undefined;
  let quit = false;
  const press = (key: string): void => {
    quit ||= !show.key(key);
  };
  terminal?.enter(press);
  try {
    show.setStreams(true);
    const started = performance.now();
    const step = terminal ? SCREEN_MS : LINE_MS;
    let keys = options.script;
    let next = started;
    while (
      !quit &&
      !stopped.aborted &&
      (options.seconds === 0 || performance.now() - started < options.seconds * 1000)
    ) {
      next = Math.max(next + step, performance.now());
      await pause(next - performance.now(), stopped);
      const snapshot = await show.sample();
      if (terminal) terminal.draw(render(snapshot, show.stage, terminal.screen));
      else if (!options.json) process.stdout.write(`${summaryLine(snapshot)}\n`);
      if (keys && performance.now() - started > SCRIPT_MS * (options.script.length - keys.length + 1)) {
        press(keys[0]!);
        keys = keys.slice(1);
      }
    }
    if (options.json) process.stdout.write(`${JSON.stringify(await show.summary(), null, 2)}\n`);
  } finally {
    await show.stop();
    terminal?.leave();
  }
}

function pause(ms: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      stopped.removeEventListener('abort', done);
      resolve();
    }
    stopped.addEventListener('abort', done);
  });
}

async function main(): Promise<void> {
  const options = parseArguments(process.argv.slice(2));
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
  const target = await startSwitch();
  try {
    await runDemo(target, options, stop.signal);
  } finally {
    await target.stop();
  }
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    process.stderr.write(`demo: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
