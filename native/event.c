// Event descriptors and the blocking poll of sleeping workers.
//
// A peer shares its event descriptors' file descriptions: it can fill a counter and clear O_NONBLOCK at any moment, also
// between a check and a write(2). So nothing here depends on that flag. Reads ask for RWF_NOWAIT. eventfd has no such thing
// for writes; but the kernel itself raises a counter without ever waiting, when an asynchronous operation (io_submit(2),
// IOCB_FLAG_RESFD) ends. An empty read of a private memfd ends at once.
#include "common.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_POLL 1024

static napi_value make_eventfd(napi_env env, napi_callback_info info) {
  (void)info;
  return make_result(env, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

#define AIO_EVENTS 64
#define AIO_RING_MAGIC 0xa10a10a1

// The completion ring that io_setup(2) maps into the process, fs/aio.c of the kernel; the same since 2.6.
struct aio_ring {
  unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
};

// Per thread: made by its first call, ended with the thread. 0: not tried, -1: the system has none.
static _Thread_local struct {
  int state;
  aio_context_t context;
} raiser;
// What all of them read: an empty file.
static int empty_file = -1;
static pthread_key_t thread_end;
static pthread_once_t raisers = PTHREAD_ONCE_INIT;

static void end_raiser(void *context) { syscall(SYS_io_destroy, (aio_context_t)context); }

static void first_raiser(void) {
  if (pthread_key_create(&thread_end, end_raiser) == 0) empty_file = memfd_create("ringway-raise", MFD_CLOEXEC);
}

static bool raiser_ready(void) {
  if (raiser.state == 0) {
    raiser.state = -1;
    pthread_once(&raisers, first_raiser);
    if (empty_file >= 0 && syscall(SYS_io_setup, AIO_EVENTS, &raiser.context) == 0) {
      const struct aio_ring *ring = (const void *)raiser.context;
      raiser.state = ring->magic == AIO_RING_MAGIC && ring->incompat_features == 0 ? 1 : -1;
      pthread_setspecific(thread_end, (const void *)raiser.context);
    }
  }
  return raiser.state == 1;
}

// Adds 1 to an eventfd's counter, or leaves it at its maximum. 0 or -errno (EINVAL: not an eventfd).
static int raise_counter(int fd) {
  struct iocb request = {.aio_fildes = (uint32_t)empty_file,
                         .aio_lio_opcode = IOCB_CMD_PREAD,
                         .aio_flags = IOCB_FLAG_RESFD,
                         .aio_resfd = (uint32_t)fd};
  struct iocb *list[1] = {&request};
  if (syscall(SYS_io_submit, raiser.context, 1, list) != 1) return -errno;
  // Completions are of no interest: they are taken off where the kernel put them.
  struct aio_ring *ring = (void *)raiser.context;
  __atomic_store_n(&ring->head, __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
  return 0;
}

// Never waits. 0, also when the counter is full, or -errno (EINVAL: neither an eventfd nor a pipe).
static int signal_any(int fd) {
  static const uint64_t one = 1;
  if (raiser_ready()) {
    int error = raise_counter(fd);
    if (error != -EINVAL) return error;
  }
  struct iovec part = {(void *)&one, sizeof one};
  if (pwritev2(fd, &part, 1, -1, RWF_NOWAIT) >= 0 || errno == EAGAIN) return 0;
  if (errno != EOPNOTSUPP) return -errno;
  if (raiser_ready()) return -EINVAL;
  // Systems without asynchronous operations: the best that is left. EAGAIN: the reader is sure to wake.
  struct pollfd room = {.fd = fd, .events = POLLOUT};
  if (poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT)) return 0;
  return write(fd, &one, sizeof one) < 0 && errno != EAGAIN ? -errno : 0;
}

static napi_value eventfd_signal(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, signal_any(fd));
}

static napi_value eventfd_drain(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  uint64_t value = 0;
  struct iovec part = {&value, sizeof value};
  ssize_t got = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
  if (got < 0) return make_int(env, -errno);
  // Clamped to a small integer, which V8 returns without allocating.
  return make_int(env, value > INT32_MAX ? INT32_MAX : (int64_t)value);
}

// checkEvent(fd): 0 for what can be polled without running a peer's code (eventfd, pipe, socket), else -EINVAL.
static napi_value check_event(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  struct stat about;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  if (fstat(fd, &about) < 0) return make_int(env, -errno);
  mode_t kind = about.st_mode & S_IFMT;
  return make_int(env, kind == 0 || kind == S_IFIFO || kind == S_IFSOCK ? 0 : -EINVAL);
}

static napi_value write_byte(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, write(fd, "", 1) < 0 ? -errno : 0);
}

// pollFds(fds, count, timeoutMicros): descriptors ready to read, hung up or failed; 0 after the timeout or a signal.
static napi_value poll_fds(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  int32_t *fds;
  size_t capacity;
  int64_t count, micros;
  if (!get_args(env, info, 3, argv) || !get_int32s(env, argv[0], "fds", &fds, &capacity)) return NULL;
  int64_t most = capacity < MAX_POLL ? (int64_t)capacity : MAX_POLL;
  if (!get_int(env, argv[1], "count", 0, most, &count) ||
      !get_int(env, argv[2], "timeoutMicros", -1, (int64_t)1 << 50, &micros))
    return NULL;
  struct pollfd polls[MAX_POLL];
  for (int64_t i = 0; i < count; i++) polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  struct timespec timeout = {.tv_sec = micros / 1000000, .tv_nsec = micros % 1000000 * 1000};
  int ready = ppoll(polls, (nfds_t)count, micros < 0 ? NULL : &timeout, NULL);
  return make_int(env, ready >= 0 ? ready : errno == EINTR ? 0 : -errno);
}

const napi_property_descriptor event_exports[] = {
    METHOD("eventfd", make_eventfd),
    METHOD("eventfdSignal", eventfd_signal),
    METHOD("eventfdDrain", eventfd_drain),
    METHOD("checkEvent", check_event),
    METHOD("writeByte", write_byte),
    METHOD("pollFds", poll_fds),
    TABLE_END,
};
