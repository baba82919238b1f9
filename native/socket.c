// Unix stream and sequenced-packet sockets, descriptor passing (unix(7), SCM_RIGHTS), and the small descriptor calls.
#include "common.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

// The kernel takes at most this many descriptors in one message (SCM_MAX_FD, unix(7)).
#define MAX_FDS 253
#define PATH_BYTES 4096

static int unix_address(const char *path, struct sockaddr_un *address, socklen_t *size) {
  size_t length = strlen(path);
  if (length == 0) return -ENOENT;
  if (length >= sizeof address->sun_path) return -ENAMETOOLONG;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, length);
  *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
  return 0;
}

static int close_with(int fd, int error) {
  close(fd);
  return -error;
}

// SOCK_STREAM or SOCK_SEQPACKET.
static int unix_socket(bool packets) {
  return socket(AF_UNIX, (packets ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int listen_at(const char *path, int64_t mode, bool packets) {
  struct sockaddr_un address;
  socklen_t size;
  int error = unix_address(path, &address, &size);
  if (error) return error;
  int fd = unix_socket(packets);
  if (fd < 0) return -errno;
  if (bind(fd, (struct sockaddr *)&address, size) < 0) return close_with(fd, errno);
  // The mode is set before listen(): nobody can connect in between.
  if ((mode >= 0 && chmod(path, (mode_t)mode) < 0) || listen(fd, 64) < 0) {
    error = errno;
    unlink(path);
    return close_with(fd, error);
  }
  return fd;
}

static napi_value unix_listen(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  char path[PATH_BYTES];
  int64_t mode;
  bool packets;
  if (!get_args(env, info, 3, argv) || !get_string(env, argv[0], "path", path, sizeof path) ||
      !get_int(env, argv[1], "mode", -1, 07777, &mode) || !get_flag(env, argv[2], "packets", &packets))
    return NULL;
  return make_int(env, listen_at(path, mode, packets));
}

// Non-blocking from the start: a full backlog is EAGAIN, not a wait.
static napi_value unix_connect(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  char path[PATH_BYTES];
  bool packets;
  if (!get_args(env, info, 2, argv) || !get_string(env, argv[0], "path", path, sizeof path) ||
      !get_flag(env, argv[1], "packets", &packets))
    return NULL;
  struct sockaddr_un address;
  socklen_t size;
  int error = unix_address(path, &address, &size);
  if (error) return make_int(env, error);
  int fd = unix_socket(packets);
  if (fd < 0) return make_int(env, -errno);
  if (connect(fd, (struct sockaddr *)&address, size) < 0) return make_int(env, close_with(fd, errno));
  return make_int(env, fd);
}

static napi_value accept_one(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  int peer;
  do peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  while (peer < 0 && (errno == EINTR || errno == ECONNABORTED));
  return make_result(env, peer);
}

static napi_value make_pair(napi_env env, const int fds[2]) {
  napi_value pair, item;
  if (napi_create_array_with_length(env, 2, &pair) != napi_ok) return NULL;
  for (uint32_t i = 0; i < 2; i++) {
    item = make_int(env, fds[i]);
    if (!item || napi_set_element(env, pair, i, item) != napi_ok) return NULL;
  }
  return pair;
}

static napi_value socket_pair(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) return make_int(env, -errno);
  return make_pair(env, fds);
}

static napi_value make_pipe(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) return make_int(env, -errno);
  return make_pair(env, fds);
}

static napi_value close_fd(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  // Linux has released the descriptor even when close() says EINTR: never retry.
  int result = close(fd);
  return make_int(env, result < 0 && errno != EINTR ? -errno : 0);
}

static napi_value dup_fd(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_result(env, fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

// [pid, uid, gid] of the process that connected (SO_PEERCRED).
static napi_value peer_credentials(napi_env env, napi_callback_info info) {
  napi_value argv[1], triple;
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return make_int(env, -errno);
  const int64_t values[3] = {peer.pid, peer.uid, peer.gid};
  if (napi_create_array_with_length(env, 3, &triple) != napi_ok) return NULL;
  for (uint32_t i = 0; i < 3; i++)
    if (napi_set_element(env, triple, i, make_int(env, values[i])) != napi_ok) return NULL;
  return triple;
}

static bool get_slice(napi_env env, const napi_value *argv, uint8_t **start, size_t *length) {
  uint8_t *data;
  size_t size;
  int64_t offset, wanted;
  if (!get_bytes(env, argv[0], "buf", &data, &size) || !get_int(env, argv[1], "offset", 0, (int64_t)size, &offset) ||
      !get_int(env, argv[2], "length", 0, (int64_t)size - offset, &wanted))
    return false;
  *start = data + offset;
  *length = (size_t)wanted;
  return true;
}

// Stores up to capacity-1 descriptors in out[1..], their count in out[0], and closes the others.
static void take_fds(struct msghdr *message, int32_t *out, size_t capacity) {
  size_t count = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t received = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < received; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (count + 1 < capacity)
        out[++count] = fd;
      else
        close(fd);
    }
  }
  if (capacity > 0) out[0] = (int32_t)count;
}

static napi_value recv_with_fds(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  int fd;
  uint8_t *start;
  size_t length, capacity;
  int32_t *fds;
  if (!get_args(env, info, 5, argv) || !get_fd(env, argv[0], &fd) || !get_slice(env, argv + 1, &start, &length) ||
      !get_int32s(env, argv[4], "fds", &fds, &capacity))
    return NULL;
  // Always room for the kernel's maximum, so that it is this function that decides which descriptors are surplus.
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
  struct iovec part = {start, length};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  if (capacity > 0) fds[0] = 0;
  ssize_t got;
  do got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return make_int(env, -errno);
  take_fds(&message, fds, capacity);
  return make_int(env, got);
}

static napi_value send_with_fds(napi_env env, napi_callback_info info) {
  napi_value argv[6];
  int fd;
  uint8_t *start;
  size_t length, capacity = 0;
  int32_t *fds = NULL;
  int64_t count = 0;
  if (!get_args(env, info, 6, argv) || !get_fd(env, argv[0], &fd) || !get_slice(env, argv + 1, &start, &length))
    return NULL;
  if (!is_nullish(env, argv[4])) {
    if (!get_int32s(env, argv[4], "fds", &fds, &capacity)) return NULL;
    int64_t most = capacity < MAX_FDS ? (int64_t)capacity : MAX_FDS;
    if (!get_int(env, argv[5], "nfds", 0, most, &count)) return NULL;
  }
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
  struct iovec part = {start, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    // A stream carries descriptors only along with at least one byte (unix(7)).
    if (length == 0) return make_int(env, -EINVAL);
    size_t bytes = (size_t)count * sizeof(int);
    memset(control, 0, CMSG_SPACE(bytes));
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(header), fds, bytes);
  }
  ssize_t sent;
  do sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return make_result(env, sent);
}

// Opens (creating it) and locks a file; the lock lives as long as the descriptor. -EWOULDBLOCK when another holds it.
static napi_value lock_file(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  char path[PATH_BYTES];
  if (!get_args(env, info, 1, argv) || !get_string(env, argv[0], "path", path, sizeof path)) return NULL;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return make_int(env, -errno);
  if (flock(fd, LOCK_EX | LOCK_NB) < 0) return make_int(env, close_with(fd, errno));
  return make_int(env, fd);
}

const napi_property_descriptor socket_exports[] = {
    METHOD("unixListen", unix_listen),
    METHOD("unixConnect", unix_connect),
    METHOD("accept", accept_one),
    METHOD("socketPair", socket_pair),
    METHOD("pipe", make_pipe),
    METHOD("close", close_fd),
    METHOD("dup", dup_fd),
    METHOD("peerCredentials", peer_credentials),
    METHOD("recvWithFds", recv_with_fds),
    METHOD("sendWithFds", send_with_fds),
    METHOD("lockFile", lock_file),
    TABLE_END,
};
