// Preloaded into a Linux kernel in user mode (see uml.ts): such kernels before 6.13 keep 2.7 KB of vector registers of
// each process, and the host wants all of them at once when they are set: more where it has AMX. What does not fit stays
// as it is.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static char state[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(int, int, void *, void *);
    va_list args;
    va_start(args, request);
    int pid = va_arg(args, int);
    void *address = va_arg(args, void *);
    struct iovec *wanted = va_arg(args, struct iovec *);
    va_end(args);
    if (!next)
        next = dlsym(RTLD_NEXT, "ptrace");
    if ((long)address != NT_X86_XSTATE || (request != PTRACE_GETREGSET && request != PTRACE_SETREGSET))
        return next(request, pid, address, wanted);
    struct iovec whole = { state, sizeof state };
    long result = next(PTRACE_GETREGSET, pid, address, &whole);
    if (result < 0)
        return result;
    if (wanted->iov_len > whole.iov_len)
        wanted->iov_len = whole.iov_len;
    if (request == PTRACE_GETREGSET) {
        memcpy(wanted->iov_base, state, wanted->iov_len);
        return 0;
    }
    memcpy(state, wanted->iov_base, wanted->iov_len);
    return next(PTRACE_SETREGSET, pid, address, &whole);
}
