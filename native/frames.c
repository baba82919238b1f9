// Bursts of whole frames over a descriptor that takes and gives one frame per call: TAP queues and packet sockets. A burst
// is one call of JavaScript; on a socket it is one system call too, on a TAP queue one per frame.
//
// A piece is two doubles, address and length. Addresses are not checked here: the kernel does that (EFAULT).
#include "common.h"

#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

// Frames of one call, and pieces of all of them.
#define MAX_FRAMES 64
#define MAX_PIECES 4096

static void set_iov(struct iovec *iov, const double *piece) {
  iov->iov_base = (void *)(uintptr_t)piece[0];
  iov->iov_len = (size_t)piece[1];
}

// Errors after which the frames behind need not be tried.
static bool is_full(int error) { return error == EAGAIN || error == EBADF || error == ENETDOWN || error == ENXIO; }

static int send_socket(int fd, struct mmsghdr *messages, int count, int32_t *results) {
  int sent = 0;
  for (int at = 0; at < count;) {
    int done = sendmmsg(fd, messages + at, (unsigned)(count - at), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done > 0) {
      for (int i = 0; i < done; i++) results[at + i] = 0;
      at += done;
      sent += done;
      continue;
    }
    int error = done < 0 ? errno : EAGAIN;
    if (error == EINTR) continue;
    results[at++] = error;
    while (is_full(error) && at < count) results[at++] = error;
  }
  return sent;
}

static int send_file(int fd, struct mmsghdr *messages, int count, int32_t *results) {
  int sent = 0;
  for (int at = 0; at < count;) {
    ssize_t done = writev(fd, messages[at].msg_hdr.msg_iov, (int)messages[at].msg_hdr.msg_iovlen);
    if (done < 0 && errno == EINTR) continue;
    int error = done < 0 ? errno : 0;
    results[at++] = error;
    if (error == 0) sent++;
    while (is_full(error) && at < count) results[at++] = error;
  }
  return sent;
}

// sendFrames(fd, socket, pieces, counts, n, results): frames sent; counts[i] pieces make frame i, results[i] is 0 or the
// errno of the frame that was not taken. -EINVAL when the burst is too large.
static napi_value send_frames(napi_env env, napi_callback_info info) {
  napi_value argv[6];
  int fd;
  bool socket;
  double *pieces;
  int32_t *counts, *results;
  size_t doubles, count_room, result_room;
  int64_t n;
  if (!get_args(env, info, 6, argv) || !get_fd(env, argv[0], &fd) || !get_flag(env, argv[1], "socket", &socket) ||
      !get_doubles(env, argv[2], "pieces", &pieces, &doubles) ||
      !get_int32s(env, argv[3], "counts", &counts, &count_room) || !get_int(env, argv[4], "n", 0, MAX_FRAMES, &n) ||
      !get_int32s(env, argv[5], "results", &results, &result_room))
    return NULL;
  if ((size_t)n > count_room || (size_t)n > result_room) return make_int(env, -EINVAL);
  struct mmsghdr messages[MAX_FRAMES];
  struct iovec iov[MAX_PIECES];
  size_t next = 0;
  for (int64_t i = 0; i < n; i++) {
    int32_t count = counts[i];
    if (count < 1 || count > IOV_MAX || next + (size_t)count > MAX_PIECES || (next + (size_t)count) * 2 > doubles)
      return make_int(env, -EINVAL);
    messages[i].msg_hdr = (struct msghdr){.msg_iov = iov + next, .msg_iovlen = (size_t)count};
    for (int32_t p = 0; p < count; p++, next++) set_iov(&iov[next], pieces + 2 * next);
  }
  return make_int(env, socket ? send_socket(fd, messages, (int)n, results) : send_file(fd, messages, (int)n, results));
}

// receiveFrames(fd, socket, pieces, n, lengths): frames received, at most n, each into two pieces; lengths[i] is the whole
// length of frame i, which may be more than its pieces hold. -errno when there was none (-EAGAIN).
static napi_value receive_frames(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  int fd;
  bool socket;
  double *pieces;
  int32_t *lengths;
  size_t doubles, room;
  int64_t n;
  if (!get_args(env, info, 5, argv) || !get_fd(env, argv[0], &fd) || !get_flag(env, argv[1], "socket", &socket) ||
      !get_doubles(env, argv[2], "pieces", &pieces, &doubles) || !get_int(env, argv[3], "n", 1, MAX_FRAMES, &n) ||
      !get_int32s(env, argv[4], "lengths", &lengths, &room))
    return NULL;
  if ((size_t)n > room || (size_t)n * 4 > doubles) return make_int(env, -EINVAL);
  struct iovec iov[2 * MAX_FRAMES];
  for (int64_t i = 0; i < 2 * n; i++) set_iov(&iov[i], pieces + 2 * i);
  if (socket) {
    struct mmsghdr messages[MAX_FRAMES];
    for (int64_t i = 0; i < n; i++)
      messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = iov + 2 * i, .msg_iovlen = 2}};
    int got = recvmmsg(fd, messages, (unsigned)n, MSG_DONTWAIT | MSG_TRUNC, NULL);
    for (int i = 0; i < got; i++) lengths[i] = (int32_t)messages[i].msg_len;
    return make_int(env, got < 0 ? -errno : got);
  }
  int got = 0;
  while (got < n) {
    ssize_t bytes = readv(fd, iov + 2 * got, 2);
    if (bytes <= 0) {
      int error = bytes < 0 ? errno : EAGAIN;
      return make_int(env, got > 0 ? got : -error);
    }
    lengths[got++] = (int32_t)bytes;
  }
  return make_int(env, got);
}

const napi_property_descriptor frames_exports[] = {
    METHOD("sendFrames", send_frames),
    METHOD("receiveFrames", receive_frames),
    TABLE_END,
};
