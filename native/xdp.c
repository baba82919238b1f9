// AF_XDP sockets (Documentation/networking/af_xdp.rst) and the bpf() system call (bpf(2)).
//
// Structures of the kernel are laid out in TypeScript (ports/kernel/xdp/layout.ts) and pass through here as bytes.
#include "common.h"

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif

// bpf(command, attributes): its result, or -errno. Addresses within the attributes are the caller's responsibility.
static napi_value bpf_call(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int64_t command;
  uint8_t *attributes;
  size_t length;
  if (!get_args(env, info, 2, argv) || !get_int(env, argv[0], "command", 0, 1000, &command) ||
      !get_bytes(env, argv[1], "attributes", &attributes, &length))
    return NULL;
  return make_result(env, syscall(SYS_bpf, (int)command, attributes, (unsigned)length));
}

static napi_value xsk_open(napi_env env, napi_callback_info info) {
  (void)info;
  return make_result(env, socket(AF_XDP, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// xskBind(fd, flags, ifindex, queue): 0 or -errno.
static napi_value xsk_bind(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  int fd;
  int64_t flags, ifindex, queue;
  if (!get_args(env, info, 4, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "flags", 0, UINT16_MAX, &flags) ||
      !get_int(env, argv[2], "ifindex", 1, INT32_MAX, &ifindex) ||
      !get_int(env, argv[3], "queue", 0, UINT16_MAX, &queue))
    return NULL;
  struct sockaddr_xdp address = {
      .sxdp_family = AF_XDP,
      .sxdp_flags = (uint16_t)flags,
      .sxdp_ifindex = (uint32_t)ifindex,
      .sxdp_queue_id = (uint32_t)queue,
  };
  return make_result(env, bind(fd, (struct sockaddr *)&address, sizeof address));
}

static bool get_option(napi_env env, napi_value *argv, int *fd, int64_t *level, int64_t *option, uint8_t **value,
                       size_t *length) {
  return get_fd(env, argv[0], fd) && get_int(env, argv[1], "level", 0, INT32_MAX, level) &&
         get_int(env, argv[2], "option", 0, INT32_MAX, option) && get_bytes(env, argv[3], "value", value, length);
}

// xskSet(fd, level, option, value): 0 or -errno.
static napi_value xsk_set(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  int fd;
  int64_t level, option;
  uint8_t *value;
  size_t length;
  if (!get_args(env, info, 4, argv) || !get_option(env, argv, &fd, &level, &option, &value, &length)) return NULL;
  return make_result(env, setsockopt(fd, (int)level, (int)option, value, (socklen_t)length));
}

// xskGet(fd, level, option, value): bytes written to value, or -errno.
static napi_value xsk_get(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  int fd;
  int64_t level, option;
  uint8_t *value;
  size_t length;
  if (!get_args(env, info, 4, argv) || !get_option(env, argv, &fd, &level, &option, &value, &length)) return NULL;
  socklen_t bytes = (socklen_t)length;
  if (getsockopt(fd, (int)level, (int)option, value, &bytes) < 0) return make_int(env, -errno);
  return make_int(env, bytes);
}

// xskSend(fd): asks the kernel to send what lies in the tx ring; 0 or -errno.
static napi_value xsk_send(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0);
}

// xskReceive(fd): asks the kernel to look at the fill ring, and with busy polling to run the driver; 0 or -errno.
static napi_value xsk_receive(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 ? -errno : 0);
}

// promiscuous(ifindex): a packet socket that receives nothing; the interface is promiscuous while it is open. Or -errno.
static napi_value promiscuous(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int64_t ifindex;
  if (!get_args(env, info, 1, argv) || !get_int(env, argv[0], "ifindex", 1, INT32_MAX, &ifindex)) return NULL;
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return make_int(env, -errno);
  struct packet_mreq wanted = {.mr_ifindex = (int)ifindex, .mr_type = PACKET_MR_PROMISC};
  if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wanted, sizeof wanted) == 0) return make_int(env, fd);
  int error = errno;
  close(fd);
  return make_int(env, -error);
}

static void finalize_nothing(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  (void)hint;
}

// alias(address, length): another ArrayBuffer over part of a live map of this process, or -EINVAL when it is none.
// The map's own buffer decides when the memory goes.
static napi_value alias(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int64_t address, length;
  if (!get_args(env, info, 2, argv) || !get_int(env, argv[0], "address", 1, (int64_t)1 << 47, &address) ||
      !get_int(env, argv[1], "length", 1, (int64_t)1 << 46, &length))
    return NULL;
  void *base;
  size_t mapped;
  char *start = (char *)(uintptr_t)address;
  if (!guard_find(start, &base, &mapped) || start + length > (char *)base + mapped) return make_int(env, -EINVAL);
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, start, (size_t)length, finalize_nothing, NULL, &buffer) != napi_ok)
    return make_int(env, -ENOMEM);
  return buffer;
}

const napi_property_descriptor xdp_exports[] = {
    METHOD("bpf", bpf_call),
    METHOD("xskOpen", xsk_open),
    METHOD("xskBind", xsk_bind),
    METHOD("xskSet", xsk_set),
    METHOD("xskGet", xsk_get),
    METHOD("xskSend", xsk_send),
    METHOD("xskReceive", xsk_receive),
    METHOD("promiscuous", promiscuous),
    METHOD("alias", alias),
    TABLE_END,
};
