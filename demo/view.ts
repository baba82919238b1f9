/** A snapshot as lines of text: pure, so that a test can look at it. Made for 80×24; wider and taller screens get more. */
import type { Snapshot } from './sampler.ts';

export interface Screen {
  readonly columns: number;
  readonly rows: number;
  readonly colour: boolean;
}

/** What the demo itself does at the moment. */
export interface Stage {
  readonly control: 'up' | 'killed' | 'starting';
  readonly dropRule: boolean;
  readonly streaming: boolean;
  /** The last thing that happened. */
  readonly message: string;
}

const BARS = ' ▁▂▃▄▅▆▇█';
const GRAPH_ROWS = 4;
const STYLES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, blue: 34, magenta: 35, cyan: 36 } as const;
type Style = keyof typeof STYLES;

/** A line put together from styled pieces, never wider than the screen. */
class Line {
  readonly #screen: Screen;
  #text = '';
  #width = 0;

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  add(text: string, ...styles: Style[]): this {
    const room = this.#screen.columns - this.#width;
    const shown = [...text].slice(0, room).join('');
    this.#width += [...shown].length;
    const codes = this.#screen.colour ? styles.map((style) => STYLES[style]) : [];
    this.#text += codes.length > 0 && shown ? `\x1b[${codes.join(';')}m${shown}\x1b[0m` : shown;
    return this;
  }

  /** Columns left. */
  get room(): number {
    return this.#screen.columns - this.#width;
  }

  /** Fills with blanks up to a column. */
  to(column: number): this {
    return this.add(' '.repeat(Math.max(0, column - this.#width)));
  }

  toString(): string {
    return this.#text;
  }
}

export const count = (value: number): string => Math.round(value).toLocaleString('en-US');
const rate = (value: number): string => value.toFixed(value < 10 ? 2 : 1).padStart(6);
const percent = (share: number): string => `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 2 : 1)} %`;

/** Microseconds in a unit that fits. */
export function micros(value: number): string {
  if (Number.isNaN(value)) return '–';
  if (value < 10) return `${value.toFixed(1)} µs`;
  return value < 1000 ? `${value.toFixed(0)} µs` : `${(value / 1000).toFixed(1)} ms`;
}

/** Megaflow matches as people read them: without what every one of them says. */
const shortMatch = (match: string): string =>
  match.replace(/recirc_id\(0\),|packet_type\(ns=0,id=0\),|recirc_id=0x?0,|,?packet_type=\(0,0x?0\)/g, '');

function bar(line: Line, share: number, width: number, ...styles: Style[]): Line {
  const full = Math.round(Math.max(0, Math.min(1, share)) * width);
  return line.add('█'.repeat(full), ...styles).add('░'.repeat(width - full), 'dim');
}

/** The last samples as columns of blocks, GRAPH_ROWS high; the highest sample fills them. */
export function graph(history: readonly number[], width: number, rows = GRAPH_ROWS): string[] {
  const shown = history.slice(-width);
  const top = Math.max(1e-9, ...shown);
  return Array.from({ length: rows }, (_, row) => {
    const floor = rows - 1 - row;
    const cells = shown.map((value) => {
      const level = (value / top) * rows - floor;
      return BARS[Math.max(0, Math.min(8, Math.round(level * 8)))]!;
    });
    return cells.join('').padStart(width);
  });
}

/** @returns exactly `rows` lines of at most `columns` characters, escape sequences not counted. */
export function render(snapshot: Snapshot, stage: Stage, screen: Screen): string[] {
  const lines: Line[] = [];
  const line = (): Line => {
    const next = new Line(screen);
    lines.push(next);
    return next;
  };
  header(line(), snapshot, stage);
  rule(line(), screen);
  portTable(line, snapshot);
  line();
  line()
    .add(' throughput ', 'bold')
    .add(`${snapshot.mpps.toFixed(2)} Mpps`, 'bold', 'green')
    .add(` delivered, peak ${snapshot.peakMpps.toFixed(2)}`, 'dim');
  for (const row of graph(snapshot.history, screen.columns - 2)) line().add(' ').add(row, 'green');
  line();
  caches(line(), snapshot, stage);
  pmds(line(), snapshot);
  pings(line, snapshot);
  line();
  const spare = Math.max(2, screen.rows - lines.length - 4);
  megaflows(line, snapshot, Math.min(snapshot.megaflows.top.length, spare - 1), screen);
  drops(line(), snapshot);
  const body = lines.slice(0, screen.rows - 2);
  while (body.length < screen.rows - 2) body.push(new Line(screen));
  body.push(new Line(screen).add(` ${stage.message}`, 'yellow'));
  body.push(keys(new Line(screen), stage));
  return body.map(String).slice(0, screen.rows);
}

function header(line: Line, snapshot: Snapshot, stage: Stage): void {
  const minutes = Math.floor(snapshot.seconds / 60);
  const seconds = Math.floor(snapshot.seconds % 60);
  line.add(' Ringway ', 'bold', 'cyan').add('two guests, one switch');
  line
    .to(36)
    .add(`${minutes}:${String(seconds).padStart(2, '0')}`, 'dim')
    .to(44)
    .add('control ');
  if (stage.control === 'up') line.add('● up', 'green');
  else line.add(stage.control === 'killed' ? '✖ killed' : '◌ starting', 'red');
  line.to(64).add('data ');
  if (snapshot.mpps > 0) line.add('● forwards', 'green');
  else line.add('○ quiet', 'dim');
}

const rule = (line: Line, screen: Screen): Line => line.add('─'.repeat(screen.columns), 'dim');

function portTable(line: () => Line, snapshot: Snapshot): void {
  line()
    .add(' port  guest', 'dim')
    .to(30)
    .add('to the switch', 'dim')
    .to(53)
    .add('from the switch', 'dim')
    .to(76)
    .add('link', 'dim');
  for (const port of snapshot.ports) {
    line()
      .add(` ${port.name}`, 'bold')
      .to(7)
      .add(`${port.guest} ${port.ip}`)
      .to(28)
      .add(`${rate(port.sentMpps)} Mpps`, 'cyan')
      .add(`${rate(port.sentGbit)} Gb/s`)
      .to(51)
      .add(`${rate(port.receivedMpps)} Mpps`, 'green')
      .add(`${rate(port.receivedGbit)} Gb/s`)
      .to(76)
      .add(port.state === 'up' ? 'up' : 'down', port.state === 'up' ? 'green' : 'red');
  }
}

function caches(line: Line, { caches: shares }: Snapshot, stage: Stage): void {
  line.add(' caches    ', 'bold');
  if (stage.control !== 'up') {
    line.add('counted by the data plane, shown again when a control plane is back', 'dim');
    return;
  }
  const levels = [
    ['port', shares.port, 'blue'],
    ['exact', shares.exact, 'green'],
    ['mega', shares.megaflow, 'magenta'],
  ] as const;
  for (const [name, share, style] of levels) {
    line.add(`${name} `);
    bar(line, share, 5, style).add(` ${percent(share)}  `);
  }
  line.add(`miss ${percent(shares.miss)}`, shares.miss > 0.01 ? 'yellow' : 'dim');
}

function pmds(line: Line, snapshot: Snapshot): void {
  line.add(' PMD       ', 'bold');
  for (const pmd of snapshot.pmds.slice(0, 2)) {
    bar(line, pmd.busy, 12, 'cyan').add(
      ` ${pmd.asleep && pmd.busy < 0.05 ? 'asleep' : `${(pmd.busy * 100).toFixed(0)} % busy`}`,
    );
    const cycles = Number.isNaN(pmd.cyclesPerPacket) ? '–' : pmd.cyclesPerPacket.toFixed(0);
    line.add(`, ${cycles} cycles a packet   `, 'dim');
  }
}

function pings(line: () => Line, { ping, stream }: Snapshot): void {
  const p99 = (value: number): string => micros(value).padEnd(9);
  line()
    .add(' ping      ', 'bold')
    .add(`p50 ${p99(ping.p50)}p99 ${p99(ping.p99)}`)
    .add(`${count(ping.answered)} of ${count(ping.sent)} answered`, 'dim');
  line()
    .add(' stream    ', 'bold')
    .add(`p50 ${p99(stream.p50)}p99 ${p99(stream.p99)}`)
    .add(`${count(stream.received)} received, `, 'dim')
    .add(`${count(stream.lost)} lost`, stream.lost > 0 ? 'yellow' : 'dim');
}

function megaflows(line: () => Line, { megaflows: { total, top } }: Snapshot, shown: number, screen: Screen): void {
  line()
    .add(' megaflows ', 'bold')
    .add(String(total))
    .to(screen.columns - 9)
    .add('packets', 'dim');
  for (const flow of top.slice(0, Math.max(0, shown))) {
    const packets = count(Number(flow.packets ?? 0));
    const text = `${shortMatch(flow.match)} → ${flow.actions || 'drop'}`;
    const room = screen.columns - packets.length - 6;
    line()
      .add('   ')
      .add([...text].length > room ? `${[...text].slice(0, room - 1).join('')}…` : text)
      .to(screen.columns - packets.length - 2)
      .add(packets);
  }
}

function drops(line: Line, snapshot: Snapshot): void {
  line.add(' drops     ', 'bold');
  if (snapshot.drops.length === 0) line.add('none', 'dim');
  for (const drop of snapshot.drops) {
    const speed = drop.perSecond >= 1 ? ` (${count(drop.perSecond)}/s)` : '';
    const text = `${drop.reason} at ${drop.port}: ${count(drop.count)}${speed}  `;
    if (text.length > line.room) break;
    line.add(text, drop.perSecond >= 1 ? 'red' : 'dim');
  }
}

function keys(line: Line, stage: Stage): Line {
  line.add(' k', 'bold').add(stage.control === 'up' ? ' kill the control plane  ' : ' (killed)                ', 'dim');
  line.add('d', 'bold').add(stage.dropRule ? ' (dropping)     ' : ' drop rule, 2 s ', 'dim');
  line.add(' s', 'bold').add(stage.streaming ? ' stop the streams ' : ' start the streams', 'dim');
  return line.add('  q', 'bold').add(' quit', 'dim');
}

/** One line for logs and pipes. */
export function summaryLine(snapshot: Snapshot): string {
  const [a, b] = snapshot.ports;
  const way = (from: typeof a, to: typeof a): string =>
    `${from?.name}→${to?.name} ${to?.receivedMpps.toFixed(2)} Mpps ${to?.receivedGbit.toFixed(2)} Gbit/s`;
  const drop = snapshot.drops[0];
  return [
    `${snapshot.seconds.toFixed(0).padStart(4)} s`,
    way(a, b),
    way(b, a),
    `ping p50 ${micros(snapshot.ping.p50)} p99 ${micros(snapshot.ping.p99)}`,
    `exact ${percent(snapshot.caches.exact)}`,
    `megaflows ${snapshot.megaflows.total}`,
    drop ? `drops ${drop.reason} ${count(drop.count)}` : 'drops none',
  ].join(' | ');
}
