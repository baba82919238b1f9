/**
 * Starts a TypeScript program in a worker thread without stripping types there.
 *
 * Node's type stripper is WebAssembly, whose memory grows; V8 then gives up, for the whole isolate, its assumption that no
 * ArrayBuffer is ever detached, it seems, and checks for it at every typed-array access: plain JavaScript was 7 to 20 %
 * faster in lookups of the megaflow classifier (Node 26.10, bench/stage). So the main thread strips the sources, and the
 * worker gets them as plain JavaScript.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker, type WorkerOptions } from 'node:worker_threads';

const ROOT = path.join(import.meta.dirname, '../..');
/** Folders that a PMD worker loads from. */
const FOLDERS = ['native', 'src/contract', 'src/datapath', 'src/ports', 'src/pmd'];

/** File URL → JavaScript of the same line and column numbers. */
function strip(): Map<string, string> {
  const sources = new Map<string, string>();
  for (const folder of FOLDERS) {
    for (const entry of readdirSync(path.join(ROOT, folder), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !entry.name.endsWith('.ts')) continue;
      const file = path.join(entry.parentPath, entry.name);
      sources.set(pathToFileURL(file).href, stripTypeScriptTypes(readFileSync(file, 'utf8')));
    }
  }
  return sources;
}

let stripped: Map<string, string> | undefined;

/** What the thread runs first: plain JavaScript, since loading TypeScript is what it avoids. */
const BOOT = `
const { registerHooks } = require('node:module');
const { workerData } = require('node:worker_threads');
const { sources, entry } = workerData;
registerHooks({
  load(url, context, next) {
    const source = sources.get(url);
    return source === undefined ? next(url, context) : { format: 'module', source, shortCircuit: true };
  },
});
workerData.sources = undefined;
import(entry);
`;

/** As `new Worker(entry, options)`; `entry` finds its own data in `workerData.start`. */
export function startThread(entry: URL, start: unknown, options: WorkerOptions): Worker {
  stripped ??= strip();
  return new Worker(BOOT, { ...options, eval: true, workerData: { sources: stripped, entry: entry.href, start } });
}
