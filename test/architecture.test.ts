import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { counterPage } from '../docs/generate.ts';
import { hotBreaches, importBreaches, importsOf, isHot, isTypesOnly } from './support/source-rules.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const LONGEST_FILE = 500;

/** Files whose test does not import them, since they are programs: who starts them in a test. */
const TESTED_AS_PROGRAM: Record<string, string> = {
  'src/pmd/main.ts': 'test/system/switch.test.ts',
  'src/pmd/worker.ts': 'test/system/switch.test.ts',
  'src/mgmt/main.ts': 'test/system/switch.test.ts',
};

const read = (file: string): string => readFileSync(ROOT + file, 'utf8');

function filesBelow(folder: string): string[] {
  return readdirSync(ROOT + folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => posix.join(entry.parentPath.slice(ROOT.length), entry.name))
    .sort();
}

const sources = filesBelow('src');

test('imports keep to the table of folders, and crossings to aliases', (t) => {
  t.deepEqual(
    sources.flatMap((file) => importBreaches(file, read(file))),
    [],
  );
});

test('hot files neither allocate nor call out inside their loops', (t) => {
  const hot = sources.filter((file) => isHot(read(file)));
  t.deepEqual(
    hot.flatMap((file) => hotBreaches(file, read(file))),
    [],
  );
});

test(`no source file is longer than ${LONGEST_FILE} lines`, (t) => {
  const long = sources.filter((file) => read(file).trimEnd().split('\n').length > LONGEST_FILE);
  t.deepEqual(long, []);
});

test('every source file has a test: one of its path, or one that imports it', (t) => {
  const imported = new Set<string>();
  for (const file of filesBelow('test')) {
    if (!file.endsWith('.test.ts')) continue;
    for (const name of importsOf(read(file))) {
      if (name.startsWith('.')) imported.add(posix.join(posix.dirname(file), name));
      else if (name.startsWith('#')) imported.add(`src/${name.slice(1)}`);
    }
  }
  const tested = (file: string): boolean => {
    if (existsSync(ROOT + file.replace(/^src\//, 'test/').replace(/\.ts$/, '.test.ts')) || imported.has(file))
      return true;
    const program = TESTED_AS_PROGRAM[file];
    return program !== undefined && existsSync(ROOT + program);
  };
  t.deepEqual(
    sources.filter((file) => !tested(file) && !isTypesOnly(read(file))),
    [],
  );
});

test('docs/counters.md is what the catalogue says (node docs/generate.ts writes it)', (t) => {
  t.is(read('docs/counters.md'), counterPage());
});
