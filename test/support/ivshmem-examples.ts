/** The example programs of examples/ivshmem, built once per test process. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runOk, scratchDir, which } from './process.ts';

const SOURCES = fileURLToPath(new URL('../../examples/ivshmem/', import.meta.url));

export interface Examples {
  readonly rwi: string;
  readonly echo: string;
}

export const exampleCompiler = (): boolean => which('make') !== undefined && which('cc') !== undefined;

let built: Promise<Examples> | undefined;

/** Builds them into a scratch folder. @throws Error with what the compiler said. */
export function buildExamples(): Promise<Examples> {
  built ??= (async () => {
    const dir = scratchDir('rwx');
    await runOk('make', ['-s', '-C', SOURCES, `BUILD=${dir}`], { timeoutMs: 100_000 });
    return { rwi: join(dir, 'rwi'), echo: join(dir, 'rwi-echo') };
  })();
  return built;
}
