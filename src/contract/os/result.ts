/** Results of system calls: errors by name, and calls that throw them. */
import { getSystemErrorMessage, getSystemErrorName } from 'node:util';

/** A failed system call: `code` is the errno name (`'ECONNREFUSED'`), `errno` its positive number. */
export class OsError extends Error {
  override name = 'OsError';
  code: string;
  errno: number;
  syscall: string;
  constructor(syscall: string, errno: number, detail = '') {
    const code = errnoName(errno);
    super(`${syscall}${detail && ` ${detail}`}: ${getSystemErrorMessage(-errno) ?? 'unknown error'} (${code})`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/** `'EAGAIN'` for 11; a number's sign does not matter, so that results "or -errno" can be passed as they are. */
export const errnoName = (errno: number): string => getSystemErrorName(-Math.abs(errno));

/** Frequent errno values, for comparing results "or -errno": `accept(fd) === -EAGAIN`. */
export const EINTR = 4;
export const EBADF = 9;
export const EAGAIN = 11;
export const EPIPE = 32;
export const ECONNRESET = 104;

/** A result "or -errno" of a set-up call. @throws OsError */
export const checked = (syscall: string, result: number, detail?: string): number => {
  if (result < 0) throw new OsError(syscall, -result, detail);
  return result;
};

export const checkedList = <T extends number[]>(syscall: string, result: T | number): T => {
  if (typeof result === 'number') throw new OsError(syscall, -result);
  return result;
};

export const checkedBuffer = (syscall: string, result: ArrayBuffer | number, detail: string): ArrayBuffer => {
  if (typeof result === 'number') throw new OsError(syscall, -result, detail);
  return result;
};
