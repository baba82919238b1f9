// Event descriptors and the blocking poll of sleeping workers.
#include "common.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_POLL 1024

static napi_value make_eventfd(napi_env env, napi_callback_info info) {
  (void)info;
  return make_result(env, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

static napi_value eventfd_signal(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  const uint64_t one = 1;
  // EAGAIN: the counter is at its maximum, and the reader is sure to wake.
  return make_int(env, write(fd, &one, sizeof one) < 0 && errno != EAGAIN ? -errno : 0);
}

static napi_value eventfd_drain(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  uint64_t value = 0;
  ssize_t got = read(fd, &value, sizeof value);
  if (got < 0) return make_int(env, -errno);
  // Clamped to a small integer, which V8 returns without allocating.
  return make_int(env, value > INT32_MAX ? INT32_MAX : (int64_t)value);
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
    METHOD("writeByte", write_byte),
    METHOD("pollFds", poll_fds),
    TABLE_END,
};
