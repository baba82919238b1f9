/**
 * The terminal as a screen: alternate buffer, hidden cursor, raw keys, one write per picture, and everything as it was at
 * the end, also when the process fails.
 */
import type { ReadStream, WriteStream } from 'node:tty';
import type { Screen } from './view.ts';

const ENTER = '\x1b[?1049h\x1b[?25l\x1b[2J';
const LEAVE = '\x1b[?25h\x1b[?1049l';
/** Terminals that know synchronized output show the picture at once; others ignore the pair. */
const BEGIN = '\x1b[?2026h\x1b[H';
const END = '\x1b[?2026l';

export class Terminal {
  readonly #out: WriteStream;
  readonly #in: ReadStream;
  readonly #restore = (): void => this.leave();
  #entered = false;
  #last = '';

  constructor(out: WriteStream, input: ReadStream) {
    this.#out = out;
    this.#in = input;
  }

  get screen(): Screen {
    return {
      columns: Math.max(40, this.#out.columns || 80),
      rows: Math.max(12, this.#out.rows || 24),
      colour: !process.env['NO_COLOR'],
    };
  }

  /** @param onKey is called with each key as a string; Ctrl-C is '\x03'. */
  enter(onKey: (key: string) => void): void {
    this.#entered = true;
    process.once('exit', this.#restore);
    this.#out.write(ENTER);
    if (this.#in.isTTY) this.#in.setRawMode(true);
    this.#in.setEncoding('utf8').on('data', (keys) => {
      for (const key of String(keys)) onKey(key);
    });
    this.#in.resume();
  }

  draw(lines: readonly string[]): void {
    const picture = lines.map((line) => `${line}\x1b[K`).join('\r\n');
    if (picture === this.#last) return;
    this.#last = picture;
    this.#out.write(`${BEGIN}${picture}\x1b[J${END}`);
  }

  leave(): void {
    if (!this.#entered) return;
    this.#entered = false;
    process.off('exit', this.#restore);
    if (this.#in.isTTY) this.#in.setRawMode(false);
    this.#in.pause();
    this.#out.write(LEAVE);
  }
}
