/** Requests that are one change of the configuration. */
import { RequestError } from '#ofproto/api.ts';
import { type Manager, OPERATION_PATHS } from './manager.ts';
import type { ConfigChange, Model } from './model.ts';

/** Times that a change is made anew because another came between. */
const ATTEMPTS = 100;

/**
 * Carries out the change that `make` derives from the configuration as it is; when another change comes between, `make` is
 * asked again, so that none is lost. Fields of errors are those of the request, without the operation's path.
 */
export async function change(manager: Manager, make: (model: Model) => ConfigChange): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const generation = manager.generation;
    const one = make(manager.model);
    try {
      await manager.transact([one], generation);
      return;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (error.code === 'conflict' && attempt < ATTEMPTS) continue;
      const { code, message, hint, status } = error;
      const path = `operations[0].${OPERATION_PATHS[one.kind]}`;
      const field = error.field.startsWith(path) ? error.field.slice(path.length).replace(/^\./, '') : error.field;
      throw new RequestError(code, message, { field, hint, status });
    }
  }
}
