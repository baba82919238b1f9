// Kernel interfaces: TAP devices (tun(4), linux/if_tun.h), packet sockets (packet(7)), netlink sockets (netlink(7)).
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

// The virtio-net header without num_buffers, which both kinds of interface know by default.
#define VNET_BYTES 10

static int close_with(int fd, int error) {
  close(fd);
  return -error;
}

static int open_tap(const char *name, bool fresh, bool several) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct ifreq request = {0};
  memcpy(request.ifr_name, name, strlen(name) + 1);
  request.ifr_flags =
      (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (fresh ? IFF_TUN_EXCL : 0) | (several ? IFF_MULTI_QUEUE : 0));
  int header = VNET_BYTES;
  if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) return close_with(fd, errno);
  return fd;
}

// tapOpen(name, fresh, several): descriptor of a queue, or -errno; `fresh`: the device must not exist (-EBUSY).
static napi_value tap_open(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  char name[IFNAMSIZ];
  bool fresh, several;
  if (!get_args(env, info, 3, argv) || !get_string(env, argv[0], "name", name, sizeof name) ||
      !get_flag(env, argv[1], "fresh", &fresh) || !get_flag(env, argv[2], "several", &several))
    return NULL;
  return make_int(env, open_tap(name, fresh, several));
}

// tapOffload(fd, flags): which unfinished frames the device hands out, as bits TUN_F_*. 0 or -errno.
static napi_value tap_offload(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int fd;
  int64_t flags;
  if (!get_args(env, info, 2, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "flags", 0, 0xffff, &flags))
    return NULL;
  return make_result(env, ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags));
}

// packetOpen(): a packet socket that receives nothing before packetBind.
static napi_value packet_open(napi_env env, napi_callback_info info) {
  (void)info;
  return make_result(env, socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// packetOption(fd, name, value): an option of level SOL_PACKET with an int. 0 or -errno.
static napi_value packet_option(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  int fd;
  int64_t name, number;
  if (!get_args(env, info, 3, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "name", 0, INT32_MAX, &name) ||
      !get_int(env, argv[2], "value", INT32_MIN, INT32_MAX, &number))
    return NULL;
  int value = (int)number;
  return make_result(env, setsockopt(fd, SOL_PACKET, (int)name, &value, sizeof value));
}

// packetRing(fd, blockBytes, blocks, frameBytes): the receive ring of TPACKET_V2. 0 or -errno.
static napi_value packet_ring(napi_env env, napi_callback_info info) {
  napi_value argv[4];
  int fd;
  int64_t block, blocks, frame;
  if (!get_args(env, info, 4, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "blockBytes", 1, INT32_MAX, &block) ||
      !get_int(env, argv[2], "blocks", 1, INT32_MAX, &blocks) ||
      !get_int(env, argv[3], "frameBytes", 1, block, &frame))
    return NULL;
  struct tpacket_req request = {
      .tp_block_size = (unsigned)block,
      .tp_block_nr = (unsigned)blocks,
      .tp_frame_size = (unsigned)frame,
      .tp_frame_nr = (unsigned)(block / frame * blocks),
  };
  return make_result(env, setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
}

// packetBind(fd, ifindex, promiscuous): receives all protocols of one interface. 0 or -errno.
static napi_value packet_bind(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  int fd;
  int64_t index;
  bool promiscuous;
  if (!get_args(env, info, 3, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "ifindex", 1, INT32_MAX, &index) || !get_flag(env, argv[2], "promiscuous", &promiscuous))
    return NULL;
  struct packet_mreq member = {.mr_ifindex = (int)index, .mr_type = PACKET_MR_PROMISC};
  if (promiscuous && setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &member, sizeof member) < 0)
    return make_int(env, -errno);
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)index};
  return make_result(env, bind(fd, (struct sockaddr *)&address, sizeof address));
}

// packetDrops(fd): frames that found no room since the last call, or -errno.
static napi_value packet_drops(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  struct tpacket_stats stats;
  socklen_t size = sizeof stats;
  if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) < 0) return make_int(env, -errno);
  return make_int(env, stats.tp_drops > INT32_MAX ? INT32_MAX : (int64_t)stats.tp_drops);
}

// socketBuffers(fd, sendBytes, receiveBytes): beyond the limits of the system where the process may. 0 or -errno.
static napi_value socket_buffers(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  int fd;
  int64_t send, receive;
  if (!get_args(env, info, 3, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "sendBytes", 0, INT32_MAX, &send) ||
      !get_int(env, argv[2], "receiveBytes", 0, INT32_MAX, &receive))
    return NULL;
  const int wanted[2] = {(int)send, (int)receive};
  const int forced[2] = {SO_SNDBUFFORCE, SO_RCVBUFFORCE}, limited[2] = {SO_SNDBUF, SO_RCVBUF};
  for (int i = 0; i < 2; i++) {
    if (setsockopt(fd, SOL_SOCKET, forced[i], &wanted[i], sizeof wanted[i]) < 0 &&
        setsockopt(fd, SOL_SOCKET, limited[i], &wanted[i], sizeof wanted[i]) < 0)
      return make_int(env, -errno);
  }
  return make_int(env, 0);
}

// netlinkOpen(protocol, groups): a bound netlink socket, or -errno.
static napi_value netlink_open(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int64_t protocol, groups;
  if (!get_args(env, info, 2, argv) || !get_int(env, argv[0], "protocol", 0, 31, &protocol) ||
      !get_int(env, argv[1], "groups", 0, UINT32_MAX, &groups))
    return NULL;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, (int)protocol);
  if (fd < 0) return make_int(env, -errno);
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = (uint32_t)groups};
  return make_int(env, bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? close_with(fd, errno) : fd);
}

const napi_property_descriptor kernel_exports[] = {
    METHOD("tapOpen", tap_open),
    METHOD("tapOffload", tap_offload),
    METHOD("packetOpen", packet_open),
    METHOD("packetOption", packet_option),
    METHOD("packetRing", packet_ring),
    METHOD("packetBind", packet_bind),
    METHOD("packetDrops", packet_drops),
    METHOD("socketBuffers", socket_buffers),
    METHOD("netlinkOpen", netlink_open),
    TABLE_END,
};
