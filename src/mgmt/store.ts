/**
 * Stored configuration: a snapshot and a journal of the transactions since, both files of Avro records (log-file.ts).
 *
 * `journal-<n>.avro` continues `snapshot-<n>.avro`. A compaction starts journal n+1, writes snapshot n+1 whole, and only then
 * removes what lies before snapshot n: should the newest snapshot go bad, the one before it and the journals since still
 * say the same. At start the newest finished snapshot wins, so every moment of a compaction may be the last.
 * Transactions that wait at the same time share one write and one fsync.
 *
 * One process writes a folder at a time; the daemon's pid file sees to that.
 */
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import avro from 'avsc';
import { END_FRAME, fileHeader, frame, readLog, syncDirectory, writeWhole } from './log-file.ts';
import type { Change, Transaction } from './model.ts';

const schemaFile = new URL('../../avro/transaction.avsc', import.meta.url);
const NAME = /^(snapshot|journal)-(\d+)\.avro$/;

interface StoredTransaction {
  time: number;
  changes: Record<string, object>[];
}

/** The journal is worth compacting when it is longer than this and longer than twice the snapshot. */
const COMPACT_BYTES = 8 << 20;

export interface StoreLog {
  warn(details: object, message: string): void;
  error(details: object, message: string): void;
}

export class Store {
  readonly #folder: string;
  readonly #type: avro.Type;
  readonly #log: StoreLog;
  #generation: number;
  /** Generation of the snapshot that the journals up to `generation` continue. */
  #base: number;
  #journal: FileHandle;
  #journalBytes: number;
  #snapshotBytes: number;
  #waiting: { bytes: Buffer; done: () => void; failed: (error: Error) => void }[] = [];
  #writing: Promise<void> | undefined;
  /** Why the journal cannot be written any more; a compaction starts a new one. */
  #broken: Error | undefined;

  private constructor(folder: string, type: avro.Type, log: StoreLog, state: OpenState) {
    this.#folder = folder;
    this.#type = type;
    this.#log = log;
    this.#generation = state.generation;
    this.#base = state.base;
    this.#journal = state.journal;
    this.#journalBytes = state.journalBytes;
    this.#snapshotBytes = state.snapshotBytes;
  }

  /**
   * Opens or creates the store in `folder`.
   * @returns the store and all transactions in it, oldest first. @throws Error when the files cannot be read or written.
   */
  static async open(folder: string, log: StoreLog): Promise<{ store: Store; transactions: Transaction[] }> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const type = avro.Type.forSchema(JSON.parse(await readFile(schemaFile, 'utf8')), { wrapUnions: true });
    const { transactions, state } = await recover(folder, type, log);
    return { store: new Store(folder, type, log, state), transactions };
  }

  /** True when the journal has grown so much that a snapshot pays, or can no longer be written. */
  get wantsCompaction(): boolean {
    return this.#broken !== undefined || this.#journalBytes > Math.max(COMPACT_BYTES, 2 * this.#snapshotBytes);
  }

  /** Resolves when the transaction is on disk. Transactions are stored in the order of the calls. */
  append(transaction: Transaction): Promise<void> {
    const bytes = frame(encode(this.#type, transaction));
    return new Promise((done, failed) => {
      this.#waiting.push({ bytes, done, failed });
      this.#writing ??= this.#write();
    });
  }

  async #write(): Promise<void> {
    // Let every caller of this turn of the event loop into the same fsync.
    await new Promise<void>((turn) => setImmediate(turn));
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        if (this.#broken) throw this.#broken;
        const bytes = Buffer.concat(batch.map((entry) => entry.bytes));
        await writeAll(this.#journal, bytes, this.#journalBytes);
        await this.#journal.datasync();
        this.#journalBytes += bytes.length;
        for (const entry of batch) entry.done();
      } catch (error) {
        // After a failed fsync nobody knows what is on disk: only a new file can be trusted.
        this.#broken = error as Error;
        this.#log.error({ error }, 'configuration journal cannot be written');
        for (const entry of batch) entry.failed(this.#broken);
      }
    }
    // In the same turn as the last look: who appends from now on starts another write.
    this.#writing = undefined;
  }

  /**
   * Replaces all that is stored by `transactions`. The caller sees to it that nothing is appended meanwhile.
   */
  async compact(transactions: Iterable<Transaction>): Promise<void> {
    await this.#writing;
    const next = this.#generation + 1;
    const header = fileHeader(this.#type);
    let snapshotBytes = 0;
    const type = this.#type;
    const parts = function* (): Generator<Buffer> {
      yield header;
      for (const transaction of transactions) {
        const part = frame(encode(type, transaction));
        snapshotBytes += part.length;
        yield part;
      }
      yield END_FRAME;
    };
    await writeWhole(join(this.#folder, journalName(next)), [header]);
    await writeWhole(join(this.#folder, snapshotName(next)), parts());
    const keepFrom = this.#broken ? next : this.#base;
    await this.#journal.close().catch(() => undefined);
    this.#journal = await open(join(this.#folder, journalName(next)), 'r+');
    this.#journalBytes = header.length;
    this.#snapshotBytes = snapshotBytes;
    this.#generation = next;
    this.#base = next;
    this.#broken = undefined;
    for (const name of await readdir(this.#folder)) {
      const found = NAME.exec(name);
      if (found && Number(found[2]) < keepFrom) await rm(join(this.#folder, name), { force: true });
    }
  }

  /** Waits for what is being written, then closes the journal. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#journal.close();
  }
}

interface OpenState {
  readonly base: number;
  readonly generation: number;
  readonly journal: FileHandle;
  readonly journalBytes: number;
  readonly snapshotBytes: number;
}

const snapshotName = (generation: number): string => `snapshot-${generation}.avro`;
const journalName = (generation: number): string => `journal-${generation}.avro`;

async function recover(
  folder: string,
  type: avro.Type,
  log: StoreLog,
): Promise<{ transactions: Transaction[]; state: OpenState }> {
  const names = await readdir(folder);
  const numbered = (kind: string): number[] =>
    names
      .map((name) => NAME.exec(name))
      .filter((found) => found?.[1] === kind)
      .map((found) => Number(found![2]))
      .sort((a, b) => a - b);

  const journals = numbered('journal');
  const snapshot = await newestSnapshot(folder, numbered('snapshot').reverse(), type, log);
  if (!snapshot && names.some((name) => NAME.test(name)) && !journals.includes(0)) {
    throw new Error(
      `no sound configuration snapshot in ${folder}; bring back a copy, or move the files away to start anew`,
    );
  }
  const base = snapshot?.generation ?? 0;
  const generation = Math.max(base, ...journals);
  let stored: StoredTransaction[] = snapshot?.records ?? [];
  let journalBytes = 0;
  for (let at = base; at <= generation; at++) {
    const read = await openJournal(join(folder, journalName(at)), names.includes(journalName(at)), type, log);
    stored = stored.concat(read.records);
    journalBytes = read.bytes;
  }
  const journal = await open(join(folder, journalName(generation)), 'r+');
  await journal.sync();
  await syncDirectory(folder);
  for (const name of names) if (name.endsWith('.avro.tmp')) await rm(join(folder, name), { force: true });
  const state = { base, generation, journal, journalBytes, snapshotBytes: snapshot?.bytes ?? 0 };
  return { transactions: stored.map(decode), state };
}

async function newestSnapshot(folder: string, generations: number[], type: avro.Type, log: StoreLog) {
  for (const generation of generations) {
    const read = await readLog<StoredTransaction>(join(folder, snapshotName(generation)), type);
    if (read.finished) return { generation, records: read.records, bytes: read.bytes };
    log.error(
      { snapshot: join(folder, snapshotName(generation)) },
      'stored snapshot is damaged; taking the one before it',
    );
  }
  return undefined;
}

/** Reads a journal and leaves it ready to be appended to: cut behind its last whole frame, or made new. */
async function openJournal(path: string, exists: boolean, type: avro.Type, log: StoreLog) {
  const header = fileHeader(type);
  const read = exists ? await readLog<StoredTransaction>(path, type) : undefined;
  if (read?.damaged) {
    await rename(path, `${path}.damaged`);
    log.error({ journal: `${path}.damaged`, from: read.goodBytes }, 'configuration journal is damaged; kept aside');
  }
  if (!read || read.damaged) {
    const records = read?.records ?? [];
    const parts = [header, ...records.map((record) => frame(type.toBuffer(record)))];
    await writeWhole(path, parts);
    return { records, bytes: parts.reduce((sum, part) => sum + part.length, 0) };
  }
  if (read.goodBytes < read.bytes) await truncate(path, read.goodBytes);
  return { records: read.records, bytes: read.goodBytes };
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, position + at);
    at += bytesWritten;
  }
}

/** Avro's JSON form of a union: `{ SetPort: {…} }`. */
function encode(type: avro.Type, transaction: Transaction): Buffer {
  const changes = transaction.changes.map((change) => {
    switch (change.kind) {
      case 'SetSwitch':
      case 'SetBridge':
        return { [change.kind]: change.record };
      case 'SetPort':
        return { SetPort: { bridge: change.bridge, ...change.record, vlanMode: change.record.vlanMode ?? '' } };
      default:
        return { [change.kind]: change };
    }
  });
  return type.toBuffer({ time: transaction.time, changes });
}

function decode(stored: StoredTransaction): Transaction {
  const changes = stored.changes.map((wrapped): Change => {
    // biome-ignore lint/suspicious/noExplicitAny: the record that the Avro schema has of this name
    const [kind, fields] = Object.entries(wrapped)[0]! as [Change['kind'], any];
    switch (kind) {
      case 'SetSwitch':
      case 'SetBridge':
        return { kind, record: { ...fields } };
      case 'SetPort': {
        const { bridge, ...record } = fields;
        return { kind, bridge, record: { ...record, vlanMode: record.vlanMode || undefined } };
      }
      default:
        return { kind, ...fields };
    }
  });
  return { time: stored.time, changes };
}
