/**
 * Child processes of tests and benches: started, watched through the tail of what they print, and always ended.
 *
 * Every wait is bounded and its error carries the last lines of the child, since a bare "timed out" helps nobody.
 * Only children started here are ever signalled, by their pid; whatever is left when this process exits is killed.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const KEPT_OUTPUT = 1 << 20;
const TAIL_LINES = 25;
/** Generous, for a machine with more processes than CPUs. */
export const PATIENCE_MS = 60_000;
/** For the kernel to take a killed process away, with all its memory. */
const KILL_MS = 60_000;
/** For the last words of a child that has ended, where others hold its pipes open. */
const LAST_WORDS_MS = 500;

const live = new Set<ChildProcess>();
const scratch = new Set<string>();

process.once('exit', () => {
  for (const child of live) child.kill('SIGKILL');
  for (const dir of scratch) rmSync(dir, { recursive: true, force: true });
});

/** A new private directory whose name is short enough for unix socket paths (107 bytes); removed at exit. */
export function scratchDir(prefix: string): string {
  const dir = mkdtempSync(join(tmpdir(), `${prefix}-`));
  scratch.add(dir);
  return dir;
}

/** Removes a directory made by {@link scratchDir}. */
export function removeScratchDir(dir: string): void {
  // A process that was killed may make a file yet while its folder is emptied.
  if (scratch.delete(dir)) rmSync(dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
}

/** Absolute path of a program in PATH, or undefined. */
export function which(program: string): string | undefined {
  if (program.includes('/')) return isExecutable(program) ? program : undefined;
  const dirs = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return dirs.map((dir) => join(dir, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: Record<string, string>;
  timeoutMs?: number;
  /** Written to the program's standard input, which is then closed. */
  input?: string;
}

/** Runs a program to its end. Never rejects on a non-zero exit code; rejects when it cannot start or takes too long. */
export function run(file: string, args: string[], options: RunOptions = {}): Promise<RunResult> {
  const timeout = options.timeoutMs ?? PATIENCE_MS;
  return new Promise((resolve, reject) => {
    const child = execFile(
      file,
      args,
      { env: { ...process.env, ...options.env }, timeout, killSignal: 'SIGKILL', maxBuffer: 1 << 28 },
      (error, stdout, stderr) => {
        live.delete(child);
        if (error && typeof error.code !== 'number') {
          const why = error.killed ? `took longer than ${timeout} ms` : error.message;
          reject(new Error(`${file} ${args.join(' ')}: ${why}\n${tailOf(stdout + stderr)}`));
        } else {
          resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
        }
      },
    );
    live.add(child);
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** As {@link run}, but rejects on a non-zero exit code too; gives standard output. */
export async function runOk(file: string, args: string[], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await run(file, args, options);
  if (code !== 0) throw new Error(`${file} ${args.join(' ')}: exit code ${code}\n${tailOf(stdout + stderr)}`);
  return stdout;
}

function tailOf(text: string): string {
  return text.trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Polls `check` until it gives something other than undefined or false; the error names `what`, with `detail()` below. */
export async function until<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = PATIENCE_MS,
  detail: () => string = () => '',
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}\n${detail()}`.trimEnd());
    await sleep(20);
  }
}

/**
 * A long-running child whose standard output and error are kept together, the last megabyte of them. With `errorsApart`
 * only standard output is waited for: a prompt that the two streams share could come torn by an error message.
 */
export class Child {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #waiters = new Set<() => void>();
  #output = '';
  #errors = '';
  #dropped = 0;
  #exit: string | undefined;

  constructor(
    file: string,
    args: string[],
    options: { name?: string; env?: Record<string, string>; cwd?: string; errorsApart?: boolean } = {},
  ) {
    this.name = options.name ?? file;
    this.#child = spawn(file, args, {
      env: { ...process.env, ...options.env },
      cwd: options.cwd,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    live.add(this.#child);
    const take = (text: string) => this.#take(text);
    const keep = (text: string) => {
      this.#errors = (this.#errors + text).slice(-KEPT_OUTPUT);
    };
    this.#child.stdout!.setEncoding('utf8').on('data', take);
    this.#child.stderr!.setEncoding('utf8').on('data', options.errorsApart ? keep : take);
    this.#child.stdin!.on('error', () => {});
    this.#child.once('error', (error) => this.#ended(`could not start: ${error.message}`));
    const how = (code: number | null, signal: string | null) => (signal ? `killed by ${signal}` : `exit code ${code}`);
    // What it said last may come after it ended, and before its pipes close.
    this.#child.once('exit', (code, signal) => {
      live.delete(this.#child);
      const late = setTimeout(() => this.#ended(how(code, signal)), LAST_WORDS_MS);
      this.#child.once('close', () => clearTimeout(late));
    });
    this.#child.once('close', (code, signal) => this.#ended(how(code, signal)));
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** How the child ended, or undefined while it runs and speaks. */
  get exit(): string | undefined {
    return this.#exit;
  }

  /** A place in the output, to be given to {@link outputSince} or {@link waitFor}. */
  get mark(): number {
    return this.#dropped + this.#output.length;
  }

  outputSince(mark: number): string {
    return this.#output.slice(Math.max(0, mark - this.#dropped));
  }

  /** Of a child whose errors are kept apart: the last of them. */
  get errors(): string {
    return this.#errors;
  }

  tail(): string {
    const head = `--- last output of ${this.name} (pid ${this.pid}${this.#exit ? `, ${this.#exit}` : ''}) ---\n`;
    const errors = this.#errors ? `\n--- its errors ---\n${tailOf(this.#errors)}` : '';
    return head + tailOf(this.#output) + errors;
  }

  write(text: string): void {
    this.#child.stdin!.write(text);
  }

  /** Waits until the output since `mark` contains `pattern`; gives that output. Rejects early when the child ends. */
  async waitFor(pattern: RegExp, what: string, timeoutMs = PATIENCE_MS, mark = 0): Promise<string> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const text = this.outputSince(mark);
      if (pattern.test(text)) return text;
      if (this.#exit) throw new Error(`${this.name} ended (${this.#exit}) before ${what}\n${this.tail()}`);
      const left = end - performance.now();
      if (left <= 0) throw new Error(`waited ${timeoutMs} ms for ${what}\n${this.tail()}`);
      await this.#change(left);
    }
  }

  /** Sends a signal, and SIGKILL after `graceMs` if the child is still there; resolves when it has ended. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', graceMs = 3000): Promise<void> {
    if (this.#exit) return;
    this.#child.kill(signal);
    await this.waitExit(graceMs).catch(() => this.#child.kill('SIGKILL'));
    await this.waitExit(KILL_MS);
  }

  /** Waits for the end of the child; gives {@link exit}. */
  async waitExit(timeoutMs: number): Promise<string> {
    const end = performance.now() + timeoutMs;
    while (!this.#exit) {
      const left = end - performance.now();
      if (left <= 0) throw new Error(`waited ${timeoutMs} ms for ${this.name} to end\n${this.tail()}`);
      await this.#change(left);
    }
    return this.#exit;
  }

  #take(text: string): void {
    this.#output += text;
    if (this.#output.length > KEPT_OUTPUT) {
      const cut = this.#output.length - KEPT_OUTPUT / 2;
      this.#output = this.#output.slice(cut);
      this.#dropped += cut;
    }
    this.#wake();
  }

  #ended(how: string): void {
    live.delete(this.#child);
    this.#exit ??= how;
    this.#wake();
  }

  #wake(): void {
    for (const waiter of this.#waiters) waiter();
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#waiters.add(done);
    });
  }
}
