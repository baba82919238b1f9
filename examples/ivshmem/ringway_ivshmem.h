/*
 * Ringway's ivshmem pools, from a C program: docs/ivshmem-layout.md as code. SPDX-License-Identifier: Apache-2.0
 *
 * One header, no dependency but libc and Linux: copy it. Define _GNU_SOURCE before the first #include, compile as C11.
 *
 *   struct rwi_device device;                    memory and doorbells: of a container, or of a virtual machine
 *   rwi_attach_socket(&device, "/run/p1.sock");  or rwi_attach_file(…), or rwi_attach_pci(…)
 *   struct rwi_port port;
 *   rwi_join(&port, &device, NULL, "my program", 1000);
 *
 *   struct rwi_piece out[32], in[RWI_MAX_CHAIN];
 *   struct rwi_queue *queue = &port.queue[0];
 *   int n = rwi_tx_reserve(queue, out, 32);      buffers to build frames in, in place
 *   … out[i].data, out[i].room; set out[i].length …
 *   rwi_tx_send(queue, out, n);
 *   n = rwi_rx_poll(queue, in, RWI_MAX_CHAIN);   frames to read, in place
 *   rwi_rx_release(queue, in, n);
 *   rwi_wait(queue, RWI_WAIT_RX, 1000);          sleep until there are some
 *
 * A queue belongs to one thread at a time. Functions give a count or 0, or -errno; -ESTALE: the switch took the slot away, call
 * rwi_join again (and where that fails, detach and attach). Nothing that other clients can write to the pool makes this code touch memory
 * outside of it.
 */
#ifndef RINGWAY_IVSHMEM_H
#define RINGWAY_IVSHMEM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the words of the pool are little-endian"
#endif

/* ---- The pool ---- */

#define RWI_MAGIC "RINGWAY" /* and its NUL: 8 bytes */
#define RWI_VERSION 1
#define RWI_KNOWN_FEATURES 0
#define RWI_MAX_SLOTS 32
#define RWI_MAX_QUEUES 8
/* Pieces of one frame, at most. */
#define RWI_MAX_CHAIN 64

typedef _Atomic uint32_t rwi_word;

struct rwi_header {
  uint8_t magic[8];
  uint32_t version;
  uint32_t features;
  uint64_t size;
  uint32_t slot_offset;
  uint32_t slot_stride;
  uint32_t slot_count;
  uint32_t queue_count;
  uint32_t queue_offset;
  uint32_t queue_stride;
  uint32_t ring_entries;
  uint32_t buffer_offset;
  uint32_t buffer_bytes;
  uint32_t buffer_count;
  uint32_t headroom;
  uint32_t credit;
  uint8_t reserved[56];
  rwi_word epoch;
  rwi_word heartbeat;
};
_Static_assert(offsetof(struct rwi_header, size) == 16, "header");
_Static_assert(offsetof(struct rwi_header, ring_entries) == 48, "header");
_Static_assert(offsetof(struct rwi_header, credit) == 68, "header");
_Static_assert(offsetof(struct rwi_header, epoch) == 128, "header");

enum rwi_state { RWI_FREE = 0, RWI_READY = 1, RWI_BROKEN = 2, RWI_CLOSED = 3 };
enum { RWI_FLAG_PLAIN = 1, RWI_FLAG_LINK = 2 };

struct rwi_slot {
  /* Written by the switch. */
  rwi_word state;
  rwi_word generation;
  rwi_word queues;
  rwi_word mtu;
  rwi_word port;
  rwi_word flags;
  rwi_word error;
  uint32_t reserved0;
  char port_name[32];
  /* Written by the client. */
  rwi_word hello;
  rwi_word reset;
  rwi_word heartbeat;
  uint8_t reserved1[20];
  char client_name[32];
  uint8_t reserved2[128];
};
_Static_assert(offsetof(struct rwi_slot, port_name) == 32, "slot");
_Static_assert(offsetof(struct rwi_slot, hello) == 64, "slot");
_Static_assert(offsetof(struct rwi_slot, client_name) == 96, "slot");
_Static_assert(sizeof(struct rwi_slot) == 256, "slot");

struct rwi_ring_header {
  rwi_word producer;
  uint8_t reserved0[60];
  rwi_word wake;
  rwi_word consumer;
  uint8_t reserved1[56];
};
_Static_assert(offsetof(struct rwi_ring_header, wake) == 64, "ring");
_Static_assert(sizeof(struct rwi_ring_header) == 128, "ring");

struct rwi_descriptor {
  uint32_t buffer;
  uint32_t offset;
  uint32_t length;
  uint32_t flags;
};
#define RWI_NEXT 1
_Static_assert(sizeof(struct rwi_descriptor) == 16, "descriptor");

/* The four rings of a queue pair, and where their entries lie. */
enum rwi_ring_number { RWI_TX = 0, RWI_TX_FREE = 1, RWI_RX = 2, RWI_RX_RETURN = 3, RWI_RINGS = 4 };

static inline uint64_t rwi_ring_entries_at(enum rwi_ring_number ring, uint64_t entries) {
  const uint64_t start = RWI_RINGS * sizeof(struct rwi_ring_header);
  switch (ring) {
    case RWI_TX:
      return start;
    case RWI_RX:
      return start + 16 * entries;
    case RWI_TX_FREE:
      return start + 32 * entries;
    default:
      return start + 36 * entries;
  }
}

/* ---- Attaching: the shared memory and its doorbells ---- */

#define RWI_VECTORS 64
#define RWI_SWITCH_ID 0

enum rwi_way { RWI_SOCKET = 1, RWI_FILE, RWI_SYSFS, RWI_VFIO };

/* The shared memory and the interrupts of one peer. */
struct rwi_device {
  uint8_t *base;
  size_t size;
  /* This peer's number on the server; -1 where there is none (a file, ivshmem-plain). */
  int id;
  enum rwi_way way;
  /* Interrupts that come in, one descriptor per vector. */
  int vectors;
  int wait_fd[RWI_VECTORS];
  /* Interrupts that go out: the switch's vectors, by descriptors or by the doorbell register. */
  int ring_count;
  int ring_fd[RWI_VECTORS];
  volatile uint32_t *registers;
  void *registers_page;
  size_t registers_size;
  off_t registers_at; /* in the vfio device, where they cannot be mapped */
  /* The server's socket, or vfio's container, group and device. */
  int fds[3];
};

static inline void rwi_device_clear(struct rwi_device *d) {
  memset(d, 0, sizeof *d);
  d->id = -1;
  for (int i = 0; i < RWI_VECTORS; i++) d->wait_fd[i] = d->ring_fd[i] = -1;
  for (int i = 0; i < 3; i++) d->fds[i] = -1;
}

/* Gives memory and descriptors back. Safe on a device that was attached in part. */
static inline void rwi_detach(struct rwi_device *d) {
  if (d->base) munmap(d->base, d->size);
  if (d->registers_page) munmap(d->registers_page, d->registers_size);
  for (int i = 0; i < RWI_VECTORS; i++) {
    if (d->wait_fd[i] >= 0) close(d->wait_fd[i]);
    if (d->ring_fd[i] >= 0) close(d->ring_fd[i]);
  }
  for (int i = 2; i >= 0; i--)
    if (d->fds[i] >= 0) close(d->fds[i]);
  rwi_device_clear(d);
}

/* Ends a failed step of attaching: lets go of everything, gives -errno. */
static inline int rwi_failed(struct rwi_device *d, int error) {
  rwi_detach(d);
  return error < 0 ? error : -EIO;
}

static inline int rwi_map_shared(struct rwi_device *d, int fd, off_t offset, size_t size) {
  void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
  if (base == MAP_FAILED) return -errno;
  d->base = base;
  d->size = size;
  return 0;
}

static inline int rwi_map_whole(struct rwi_device *d, int fd) {
  struct stat about;
  if (fstat(fd, &about) < 0) return -errno;
  if (about.st_size <= 0) return -ENODATA;
  return rwi_map_shared(d, fd, 0, (size_t)about.st_size);
}

/* One message of the server: 8 bytes, perhaps with a descriptor (else -1). 1, 0 at the end of the stream, or -errno. */
static inline int rwi_receive(int socket, int flags, int64_t *value, int *fd) {
  uint8_t bytes[8];
  size_t have = 0;
  *fd = -1;
  while (have < sizeof bytes) {
    union {
      struct cmsghdr header;
      char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {bytes + have, sizeof bytes - have};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (have ? 0 : flags));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      int error = got < 0 ? -errno : 0;
      if (*fd >= 0) close(*fd);
      *fd = -1;
      return error;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
      if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && *fd < 0) memcpy(fd, CMSG_DATA(c), sizeof *fd);
    have += (size_t)got;
  }
  uint64_t number = 0;
  for (int i = 7; i >= 0; i--) number = number << 8 | bytes[i];
  *value = (int64_t)number;
  return 1;
}

/* Connects to a server; `rwi_server_news` takes the vectors. */
static inline int rwi_connect(struct rwi_device *d, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
  strcpy(address.sun_path, path);
  int server = d->fds[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) < 0) return -errno;
  int64_t value;
  int fd, got;
  if ((got = rwi_receive(server, 0, &value, &fd)) <= 0) return got;
  if (value != 0 || fd >= 0) return -EPROTO;
  if ((got = rwi_receive(server, 0, &value, &fd)) <= 0) return got;
  if (value < 0 || value > 0xffff || fd >= 0) return -EPROTO;
  d->id = (int)value;
  if ((got = rwi_receive(server, 0, &value, &fd)) <= 0) return got;
  if (value != -1 || fd < 0) return -EPROTO;
  got = rwi_map_whole(d, fd);
  close(fd);
  return got < 0 ? got : 1;
}

/* Takes what the server has told meanwhile. 0, or -EPIPE when it has gone. */
static inline int rwi_server_news(struct rwi_device *d) {
  int64_t value;
  int fd, got;
  while ((got = rwi_receive(d->fds[0], MSG_DONTWAIT, &value, &fd)) > 0) {
    int *list = value == d->id ? d->wait_fd : d->ring_fd;
    int *count = value == d->id ? &d->vectors : &d->ring_count;
    if (fd < 0) {
      if (value == RWI_SWITCH_ID) return -EPIPE;
    } else if ((value == d->id || value == RWI_SWITCH_ID) && *count < RWI_VECTORS) {
      list[(*count)++] = fd;
    } else {
      close(fd); /* Another guest's: this one talks to the switch only. */
    }
  }
  return got == -EAGAIN || got == -EWOULDBLOCK ? 0 : -EPIPE;
}

/* Through the port's server socket, as a container does. 0 or -errno. */
static inline int rwi_attach_socket(struct rwi_device *d, const char *path) {
  rwi_device_clear(d);
  d->way = RWI_SOCKET;
  int error = rwi_connect(d, path);
  if (error <= 0) return rwi_failed(d, error);
  /* The server tells the vectors last, and does not say how many there are: as many as queue pairs are of use. */
  const struct rwi_header *header = (const struct rwi_header *)(const void *)d->base;
  for (int tries = 0; tries < 200 && (error = rwi_server_news(d)) == 0; tries++) {
    const struct rwi_slot *slots = (const struct rwi_slot *)(const void *)(d->base + 4096);
    size_t end = 4096 + ((size_t)d->id + 1) * sizeof *slots;
    if (header->slot_offset != 4096 || end > d->size) break;
    uint32_t wanted = atomic_load(&slots[d->id].queues);
    if (d->vectors > 0 && (uint32_t)d->vectors >= wanted) break;
    struct pollfd more = {.fd = d->fds[0], .events = POLLIN};
    if (poll(&more, 1, 10) < 0 && errno != EINTR) return rwi_failed(d, -errno);
  }
  return error < 0 ? rwi_failed(d, error) : 0;
}

/* Through the file that backs the pool: no doorbells. 0 or -errno. */
static inline int rwi_attach_file(struct rwi_device *d, const char *path) {
  rwi_device_clear(d);
  d->way = RWI_FILE;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -errno;
  int error = rwi_map_whole(d, fd);
  close(fd);
  return error < 0 ? rwi_failed(d, error) : 0;
}

/* Registers of the device (QEMU, docs/specs/ivshmem-spec.rst): 2 = IVPosition, 3 = doorbell. */
enum { RWI_IV_POSITION = 2, RWI_DOORBELL = 3 };

static inline uint32_t rwi_register_read(struct rwi_device *d, int number) {
  uint32_t value = 0;
  if (d->registers) return d->registers[number];
  if (pread(d->fds[2], &value, sizeof value, d->registers_at + 4 * number) != sizeof value) return 0;
  return value;
}

static inline void rwi_register_write(struct rwi_device *d, int number, uint32_t value) {
  if (d->registers) d->registers[number] = value;
  else if (pwrite(d->fds[2], &value, sizeof value, d->registers_at + 4 * number) < 0) return;
}

/* MSI-X vectors of a device by its configuration space (PCI 3.0, section 6.8.2): as many as the switch has for it. */
static inline int rwi_msix_vectors(const char *bdf) {
  char path[128];
  uint8_t config[256];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.64s/config", bdf);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t length = read(fd, config, sizeof config);
  close(fd);
  /* Without the right to read all of it there are 64 bytes. */
  if (length < (ssize_t)sizeof config) return 0;
  int at = config[0x34] & ~3;
  for (int tries = 0; at >= 64 && tries < 48; tries++, at = config[at + 1] & ~3)
    if (config[at] == 0x11) return ((config[at + 2] | config[at + 3] << 8) & 0x7ff) + 1;
  return 0;
}

/* Without a driver: memory and doorbell, but no interrupts (Linux, Documentation/PCI/sysfs-pci.rst). */
static inline int rwi_attach_sysfs(struct rwi_device *d, const char *bdf) {
  static const int bars[2] = {0, 2};
  char path[128], line[128];
  d->way = RWI_SYSFS;
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.64s/resource", bdf);
  FILE *resources = fopen(path, "re");
  if (!resources) return -errno;
  unsigned long long start = 0;
  int known = fgets(line, sizeof line, resources) && sscanf(line, "%llx", &start) == 1;
  fclose(resources);
  if (!known) return -EIO;
  for (int i = 0; i < 2; i++) {
    struct stat about;
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%.64s/resource%d", bdf, bars[i]);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return rwi_failed(d, -errno);
    int error = fstat(fd, &about) < 0 ? -errno : 0;
    size_t size = (size_t)about.st_size;
    void *at = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED && !error) error = -errno;
    close(fd);
    if (error) return rwi_failed(d, error);
    if (i == 0) {
      /* A map begins with the page that the registers lie in. */
      d->registers_page = at;
      d->registers_size = size;
      d->registers = (volatile uint32_t *)(void *)((uint8_t *)at + (start & ((unsigned)sysconf(_SC_PAGESIZE) - 1)));
    } else {
      d->base = at;
      d->size = size;
    }
  }
  return 0;
}

static inline int rwi_vfio_region(int device, uint32_t index, struct vfio_region_info *region, void **base) {
  *region = (struct vfio_region_info){.argsz = sizeof *region, .index = index};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, region) < 0) return -errno;
  if (region->size == 0) return -ENXIO;
  *base = NULL;
  if (!(region->flags & VFIO_REGION_INFO_FLAG_MMAP)) return 0;
  void *at = mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)region->offset);
  if (at == MAP_FAILED) return -errno;
  *base = at;
  return 0;
}

/* Lets the device send interrupts (bus master), and turns each MSI-X vector into an event descriptor. */
static inline int rwi_vfio_interrupts(struct rwi_device *d, int device) {
  struct vfio_irq_info info = {.argsz = sizeof info, .index = VFIO_PCI_MSIX_IRQ_INDEX};
  struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0) return -errno;
  if (info.count == 0) return 0; /* ivshmem-plain */
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) < 0) return -errno;
  uint16_t command;
  if (pread(device, &command, 2, (off_t)config.offset + 4) != 2) return -EIO;
  command |= 4;
  if (pwrite(device, &command, 2, (off_t)config.offset + 4) != 2) return -EIO;
  int count = info.count < RWI_VECTORS ? (int)info.count : RWI_VECTORS;
  union {
    struct vfio_irq_set set;
    uint8_t bytes[sizeof(struct vfio_irq_set) + RWI_VECTORS * sizeof(int32_t)];
  } request;
  memset(&request, 0, sizeof request);
  for (; d->vectors < count; d->vectors++) {
    int32_t fd = d->wait_fd[d->vectors] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) return -errno;
    memcpy(request.bytes + offsetof(struct vfio_irq_set, data) + sizeof fd * (size_t)d->vectors, &fd, sizeof fd);
  }
  request.set.argsz = (uint32_t)(sizeof request.set + sizeof(int32_t) * (size_t)count);
  request.set.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  request.set.index = VFIO_PCI_MSIX_IRQ_INDEX;
  request.set.count = (uint32_t)count;
  return ioctl(device, VFIO_DEVICE_SET_IRQS, &request) < 0 ? -errno : 0;
}

/* Through vfio-pci, which the device must be bound to: memory, doorbell and interrupts (Linux, Documentation/driver-api/vfio.rst). */
static inline int rwi_attach_vfio(struct rwi_device *d, const char *bdf) {
  char path[128], group[128];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.64s/iommu_group", bdf);
  ssize_t length = readlink(path, group, sizeof group - 1);
  if (length < 0) return -errno;
  group[length] = 0;
  snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(group, '/') + 1);
  d->way = RWI_VFIO;
  if ((d->fds[0] = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC)) < 0) return rwi_failed(d, -errno);
  if ((d->fds[1] = open(path, O_RDWR | O_CLOEXEC)) < 0) return rwi_failed(d, -errno); /* not bound to vfio-pci */
  if (ioctl(d->fds[1], VFIO_GROUP_SET_CONTAINER, &d->fds[0]) < 0) return rwi_failed(d, -errno);
  if (ioctl(d->fds[0], VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0) return rwi_failed(d, -errno);
  int device = d->fds[2] = ioctl(d->fds[1], VFIO_GROUP_GET_DEVICE_FD, bdf);
  if (device < 0) return rwi_failed(d, -errno);
  struct vfio_region_info region;
  void *memory = NULL;
  int error = rwi_vfio_region(device, VFIO_PCI_BAR0_REGION_INDEX, &region, &d->registers_page);
  d->registers = d->registers_page;
  d->registers_size = region.size;
  d->registers_at = (off_t)region.offset;
  if (error == 0) error = rwi_vfio_region(device, VFIO_PCI_BAR2_REGION_INDEX, &region, &memory);
  d->base = memory;
  d->size = region.size;
  if (error == 0 && !memory) error = -ENXIO;
  if (error == 0) error = rwi_vfio_interrupts(d, device);
  return error < 0 ? rwi_failed(d, error) : 0;
}

/*
 * The PCI device at `bdf` ("0000:00:04.0"; 1af4:1110) of a virtual machine: through vfio where it is bound to vfio-pci, else through its
 * resource files, without interrupts. 0 or -errno.
 */
static inline int rwi_attach_pci(struct rwi_device *d, const char *bdf) {
  rwi_device_clear(d);
  int error = rwi_attach_vfio(d, bdf);
  if (error < 0) error = rwi_attach_sysfs(d, bdf);
  if (error < 0) return error;
  d->ring_count = rwi_msix_vectors(bdf);
  /* ivshmem-plain has the position of the switch: none. */
  uint32_t position = rwi_register_read(d, RWI_IV_POSITION);
  d->id = position > 0 && position < RWI_MAX_SLOTS ? (int)position : -1;
  return 0;
}

/* ---- Joining a slot ---- */

struct rwi_port;

/* One ring: its words in the pool, and this side's own index. */
struct rwi_ring {
  struct rwi_ring_header *header;
  void *entries;
  uint32_t index;
};

struct rwi_queue {
  struct rwi_ring ring[RWI_RINGS];
  struct rwi_port *port;
  struct rwi_slot *slot;
  uint32_t generation;
  uint32_t mask;
  uint8_t *buffers;
  uint32_t buffer_bytes;
  uint32_t buffer_count;
  uint32_t headroom;
  int number;
  /* Entries of the switch that made no sense; doorbells rung. */
  uint64_t bad;
  uint64_t doorbells;
};

struct rwi_port {
  struct rwi_device *device;
  struct rwi_slot *slot;
  int slot_number;
  uint32_t generation;
  int plain;
  int queues;
  struct rwi_queue queue[RWI_MAX_QUEUES];
};

/* The header page, once all of it is known to fit what is mapped; NULL and `*error` otherwise. */
static inline const struct rwi_header *rwi_checked_header(const struct rwi_device *d, int *error) {
  const struct rwi_header *h = (const struct rwi_header *)(const void *)d->base;
  uint64_t entries, queues_end, buffers_end;
  *error = -EINVAL;
  if (d->size < 8192 || memcmp(h->magic, RWI_MAGIC, sizeof h->magic) != 0) return NULL;
  *error = -EPROTONOSUPPORT;
  if (h->version != RWI_VERSION || (h->features & ~(uint32_t)RWI_KNOWN_FEATURES) != 0) return NULL;
  *error = -EPROTO;
  entries = h->ring_entries;
  if (h->slot_offset != 4096 || h->slot_stride != sizeof(struct rwi_slot)) return NULL;
  if (h->slot_count < 2 || h->slot_count > RWI_MAX_SLOTS || h->queue_count < 1 || h->queue_count > RWI_MAX_QUEUES) return NULL;
  if (entries < 64 || entries > 32768 || (entries & (entries - 1)) != 0) return NULL;
  if (h->queue_stride != RWI_RINGS * sizeof(struct rwi_ring_header) + 40 * entries) return NULL;
  if (h->queue_offset % 64 != 0 || h->queue_offset < 4096 + h->slot_count * sizeof(struct rwi_slot)) return NULL;
  queues_end = h->queue_offset + (uint64_t)h->slot_count * h->queue_count * h->queue_stride;
  if (h->buffer_offset % 64 != 0 || h->buffer_offset < queues_end) return NULL;
  if (h->buffer_bytes < 256 || h->buffer_bytes > 32768 || h->buffer_bytes % 64 != 0) return NULL;
  if (h->headroom >= h->buffer_bytes) return NULL;
  buffers_end = h->buffer_offset + (uint64_t)h->buffer_count * h->buffer_bytes;
  if (buffers_end > d->size) return NULL;
  *error = 0;
  return h;
}

/* Slot of a client whom no server told one: the one of that port, or the only one without doorbells. -ENOENT, -ENOTUNIQ. */
static inline int rwi_find_slot(struct rwi_slot *slots, uint32_t count, const char *port_name) {
  int found = -ENOENT;
  for (uint32_t i = 1; i < count; i++) {
    uint32_t state = atomic_load(&slots[i].state);
    if (state == RWI_FREE || state == RWI_CLOSED) continue;
    if (port_name) {
      if (strncmp(port_name, slots[i].port_name, sizeof slots[i].port_name) == 0) return (int)i;
    } else if (atomic_load(&slots[i].flags) & RWI_FLAG_PLAIN) {
      if (found >= 0) return -ENOTUNIQ;
      found = (int)i;
    }
  }
  return found;
}

/* Interrupts the switch: its vector `vector`. */
static inline void rwi_ring_doorbell(struct rwi_device *d, int vector) {
  const uint64_t one = 1;
  if (d->ring_count == 0) return;
  vector %= d->ring_count;
  if (d->way == RWI_SYSFS || d->way == RWI_VFIO) {
    rwi_register_write(d, RWI_DOORBELL, (uint32_t)RWI_SWITCH_ID << 16 | (uint32_t)vector);
  } else if (write(d->ring_fd[vector], &one, sizeof one) < 0) {
    return; /* A full counter is as good as one more. */
  }
}

static inline void rwi_nap(long microseconds) {
  struct timespec time = {.tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000};
  nanosleep(&time, NULL);
}

/* Waits until the slot is READY with another generation than `not`. Its generation in `*generation`; 0 or -ETIMEDOUT. */
static inline int rwi_await_ready(struct rwi_slot *slot, uint32_t not, uint32_t *generation, int *left_ms) {
  for (;; *left_ms -= 1) {
    if (atomic_load(&slot->state) == RWI_READY) {
      *generation = atomic_load(&slot->generation);
      if (*generation != not) return 0;
    }
    if (*left_ms <= 0) return -ETIMEDOUT;
    rwi_nap(1000);
  }
}

static inline void rwi_set_up_queue(struct rwi_port *p, const struct rwi_header *h, int number) {
  static const enum rwi_ring_number rings[RWI_RINGS] = {RWI_TX, RWI_TX_FREE, RWI_RX, RWI_RX_RETURN};
  struct rwi_queue *q = &p->queue[number];
  uint64_t place = (uint64_t)p->slot_number * h->queue_count + (uint64_t)number;
  uint8_t *block = p->device->base + h->queue_offset + place * h->queue_stride;
  memset(q, 0, sizeof *q);
  for (int i = 0; i < RWI_RINGS; i++) {
    q->ring[i].header = (struct rwi_ring_header *)(void *)block + rings[i];
    q->ring[i].entries = block + rwi_ring_entries_at(rings[i], h->ring_entries);
  }
  q->port = p;
  q->slot = p->slot;
  q->generation = p->generation;
  q->mask = h->ring_entries - 1;
  q->buffers = p->device->base + h->buffer_offset;
  q->buffer_bytes = h->buffer_bytes;
  q->buffer_count = h->buffer_count;
  q->headroom = h->headroom;
  q->number = number;
}

static inline void rwi_copy_name(char to[32], const char *name) {
  memset(to, 0, 32);
  if (name) memcpy(to, name, strnlen(name, 32));
}

/*
 * Takes the slot that the server gave this peer or, without a server, that of port `port_name` (NULL: the only one without doorbells).
 * What a client that died left there goes back to the switch. 0; -ETIMEDOUT when the switch does not make the slot ready within
 * `timeout_ms`; -EINVAL: not a pool; -EPROTONOSUPPORT: of another version; -EPROTO: it contradicts itself; -ENOENT, -ENOTUNIQ: which slot?
 */
static inline int rwi_join(struct rwi_port *p, struct rwi_device *d, const char *port_name, const char *name, int timeout_ms) {
  int error, number = d->id;
  const struct rwi_header *h = rwi_checked_header(d, &error);
  memset(p, 0, sizeof *p);
  p->device = d;
  if (!h) return error;
  struct rwi_slot *slots = (struct rwi_slot *)(void *)(d->base + h->slot_offset);
  while (number <= 0) {
    number = rwi_find_slot(slots, h->slot_count, port_name);
    if (number > 0) break;
    if (number == -ENOTUNIQ || timeout_ms-- <= 0) return number;
    number = 0;
    rwi_nap(1000);
  }
  if ((uint32_t)number >= h->slot_count) return -EPROTO;
  p->slot = &slots[number];
  p->slot_number = number;
  uint32_t generation = 0;
  if (atomic_load(&p->slot->state) == RWI_BROKEN) {
    generation = atomic_load(&p->slot->generation);
  } else {
    error = rwi_await_ready(p->slot, 0, &generation, &timeout_ms);
    if (error < 0) return error;
    if (atomic_load(&p->slot->hello) != generation && atomic_load(&p->slot->reset) != generation + 1) generation = 0;
  }
  if (generation != 0) {
    /* Somebody worked with this generation before. */
    uint32_t used = generation;
    atomic_store(&p->slot->reset, used + 1);
    rwi_ring_doorbell(d, 0);
    error = rwi_await_ready(p->slot, used, &generation, &timeout_ms);
    if (error < 0) return error;
  } else {
    generation = atomic_load(&p->slot->generation);
  }
  p->generation = generation;
  p->plain = (atomic_load(&p->slot->flags) & RWI_FLAG_PLAIN) != 0;
  p->queues = (int)atomic_load(&p->slot->queues);
  if (p->queues < 1 || (uint32_t)p->queues > h->queue_count) return -EPROTO;
  for (int i = 0; i < p->queues; i++) rwi_set_up_queue(p, h, i);
  rwi_copy_name(p->slot->client_name, name);
  atomic_store_explicit(&p->slot->hello, generation, memory_order_release);
  return 0;
}

/* Leaves the slot: the switch takes all buffers back. The device stays attached. */
static inline void rwi_leave(struct rwi_port *p) {
  if (p->slot && atomic_load(&p->slot->generation) == p->generation) {
    /* Who joins before the switch has looked must wait for the next generation: this one is used up. */
    atomic_store(&p->slot->reset, p->generation + 1);
    atomic_store(&p->slot->hello, 0);
  }
  p->slot = NULL;
  p->queues = 0;
}

/* To be called about once a second by clients that want to be seen alive. 0, or -EPIPE when the server has gone. */
static inline int rwi_heartbeat(struct rwi_port *p) {
  if (atomic_fetch_add(&p->slot->heartbeat, 1) == UINT32_MAX) atomic_store(&p->slot->heartbeat, 1);
  return p->device->way == RWI_SOCKET ? rwi_server_news(p->device) : 0;
}

/* ---- Bursts ---- */

/* A buffer, or a part of a frame: frames longer than a buffer are several pieces, all but the last with `next` set. */
struct rwi_piece {
  uint8_t *data;
  /* Bytes of the frame that lie here. */
  uint32_t length;
  /* Bytes that fit here, of a piece to be sent. */
  uint32_t room;
  uint32_t buffer;
  uint32_t next;
};

/* 0, or -ESTALE when the slot is another's by now. */
static inline int rwi_check(const struct rwi_queue *q) {
  uint32_t state = atomic_load_explicit(&q->slot->state, memory_order_relaxed);
  uint32_t generation = atomic_load_explicit(&q->slot->generation, memory_order_relaxed);
  return state == RWI_READY && generation == q->generation ? 0 : -ESTALE;
}

/* Entries that wait in a ring that the switch fills; -ESTALE when its index cannot be. */
static inline int rwi_waiting(const struct rwi_queue *q, enum rwi_ring_number ring) {
  const struct rwi_ring *r = &q->ring[ring];
  uint32_t waiting = atomic_load_explicit(&r->header->producer, memory_order_acquire) - r->index;
  return waiting <= q->mask + 1 ? (int)waiting : -ESTALE;
}

/* Publishes what was written to a ring up to `index`; rings the doorbell where the switch sleeps. */
static inline void rwi_publish(struct rwi_queue *q, enum rwi_ring_number ring, uint32_t index) {
  struct rwi_ring *r = &q->ring[ring];
  r->index = index;
  atomic_store_explicit(&r->header->producer, index, memory_order_release);
  if (ring != RWI_TX || q->port->plain) return;
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&r->header->wake, memory_order_relaxed)) {
    q->doorbells++;
    rwi_ring_doorbell(q->port->device, q->number);
  }
}

/*
 * Shows up to `max` buffers to build frames in. They are used up by rwi_tx_send, in this order; those not sent are shown again.
 * The first piece of a frame has head-room in front. Gives their number, or -ESTALE.
 */
static inline int rwi_tx_reserve(struct rwi_queue *q, struct rwi_piece *pieces, int max) {
  if (rwi_check(q) < 0) return -ESTALE;
  int waiting = rwi_waiting(q, RWI_TX_FREE);
  const rwi_word *entries = q->ring[RWI_TX_FREE].entries;
  if (waiting < max) max = waiting;
  for (int i = 0; i < max; i++) {
    uint32_t buffer = atomic_load_explicit(&entries[(q->ring[RWI_TX_FREE].index + (uint32_t)i) & q->mask], memory_order_relaxed);
    if (buffer >= q->buffer_count) return -ESTALE;
    pieces[i].data = q->buffers + (uint64_t)buffer * q->buffer_bytes + q->headroom;
    pieces[i].room = q->buffer_bytes - q->headroom;
    pieces[i].length = 0;
    pieces[i].buffer = buffer;
    pieces[i].next = 0;
  }
  return max;
}

/*
 * Sends the first `n` pieces of the last reservation, with their lengths (at least 1) and `next` flags; the last has none. `data` may have
 * been moved within the buffer. Gives `n`, or -ESTALE.
 */
static inline int rwi_tx_send(struct rwi_queue *q, const struct rwi_piece *pieces, int n) {
  if (n <= 0) return n;
  struct rwi_ring *tx = &q->ring[RWI_TX], *unused = &q->ring[RWI_TX_FREE];
  struct rwi_descriptor *entries = tx->entries;
  uint32_t index = tx->index;
  for (int i = 0; i < n; i++, index++) {
    struct rwi_descriptor *entry = &entries[index & q->mask];
    const uint8_t *start = q->buffers + (uint64_t)pieces[i].buffer * q->buffer_bytes;
    entry->buffer = pieces[i].buffer;
    entry->offset = (uint32_t)(pieces[i].data - start);
    entry->length = pieces[i].length;
    entry->flags = pieces[i].next ? RWI_NEXT : 0;
  }
  unused->index += (uint32_t)n;
  atomic_store_explicit(&unused->header->consumer, unused->index, memory_order_relaxed);
  rwi_publish(q, RWI_TX, index);
  return n;
}

/*
 * Takes whole frames of together at most `max` pieces; `max` is RWI_MAX_CHAIN or more. Read them, do not write: others may have the same
 * buffers. Gives the number of pieces, or -ESTALE.
 */
static inline int rwi_rx_poll(struct rwi_queue *q, struct rwi_piece *pieces, int max) {
  if (rwi_check(q) < 0) return -ESTALE;
  struct rwi_ring *rx = &q->ring[RWI_RX];
  const struct rwi_descriptor *entries = rx->entries;
  int waiting = rwi_waiting(q, RWI_RX), whole = 0;
  if (waiting < max) max = waiting;
  for (int i = 0; i < max; i++) {
    /* A copy: what was checked is what is used. */
    const volatile struct rwi_descriptor *entry = &entries[(rx->index + (uint32_t)i) & q->mask];
    uint32_t buffer = entry->buffer, offset = entry->offset, length = entry->length;
    if (buffer >= q->buffer_count || offset > q->buffer_bytes || length > q->buffer_bytes - offset) return -ESTALE;
    pieces[i].data = q->buffers + (uint64_t)buffer * q->buffer_bytes + offset;
    pieces[i].length = length;
    pieces[i].room = 0;
    pieces[i].buffer = buffer;
    pieces[i].next = entry->flags & RWI_NEXT;
    if (!pieces[i].next) whole = i + 1;
  }
  if (max < 0) return max;
  /* A chain that does not end within the longest possible one is none. */
  if (whole == 0 && max >= RWI_MAX_CHAIN) return -ESTALE;
  rx->index += (uint32_t)whole;
  atomic_store_explicit(&rx->header->consumer, rx->index, memory_order_relaxed);
  return whole;
}

/* Gives received pieces back, each once, in any order. */
static inline void rwi_rx_release(struct rwi_queue *q, const struct rwi_piece *pieces, int n) {
  struct rwi_ring *back = &q->ring[RWI_RX_RETURN];
  rwi_word *entries = back->entries;
  if (n <= 0) return;
  for (int i = 0; i < n; i++) {
    atomic_store_explicit(&entries[(back->index + (uint32_t)i) & q->mask], pieces[i].buffer, memory_order_relaxed);
  }
  rwi_publish(q, RWI_RX_RETURN, back->index + (uint32_t)n);
}

/*
 * Waits until the switch has taken all that was sent: to be called before rwi_leave, which takes back what is still in the ring. 0, or
 * -ETIMEDOUT, -ESTALE.
 */
static inline int rwi_flush(const struct rwi_queue *q, int timeout_ms) {
  const struct rwi_ring *tx = &q->ring[RWI_TX];
  for (long left = 20L * timeout_ms; atomic_load(&tx->header->consumer) != tx->index; left--) {
    if (rwi_check(q) < 0) return -ESTALE;
    if (left <= 0) return -ETIMEDOUT;
    rwi_nap(50);
  }
  return 0;
}

enum { RWI_WAIT_RX = 1, RWI_WAIT_TX = 2 };

/* Which of the wanted rings have entries. */
static inline int rwi_ready(const struct rwi_queue *q, int what) {
  int ready = 0;
  if (rwi_check(q) < 0) return -ESTALE;
  if ((what & RWI_WAIT_RX) && rwi_waiting(q, RWI_RX) != 0) ready |= RWI_WAIT_RX;
  if ((what & RWI_WAIT_TX) && rwi_waiting(q, RWI_TX_FREE) != 0) ready |= RWI_WAIT_TX;
  return ready;
}

static inline void rwi_wish(struct rwi_queue *q, int what, uint32_t wake) {
  if (what & RWI_WAIT_RX) atomic_store_explicit(&q->ring[RWI_RX].header->wake, wake, memory_order_relaxed);
  if (what & RWI_WAIT_TX) atomic_store_explicit(&q->ring[RWI_TX_FREE].header->wake, wake, memory_order_relaxed);
  atomic_thread_fence(memory_order_seq_cst);
}

/*
 * Sleeps until frames (RWI_WAIT_RX) or buffers to send with (RWI_WAIT_TX) are there: by doorbell or, where there is none, by looking every
 * 50 microseconds. Gives which, 0 after `timeout_ms`, -ESTALE, or -EPIPE when the server has gone.
 */
static inline int rwi_wait(struct rwi_queue *q, int what, int timeout_ms) {
  struct rwi_device *d = q->port->device;
  int fd = q->port->plain || q->number >= d->vectors ? -1 : d->wait_fd[q->number];
  int ready = rwi_ready(q, what);
  if (fd < 0) {
    for (long left = 20L * timeout_ms; ready == 0 && left > 0; left--) {
      rwi_nap(50);
      ready = rwi_ready(q, what);
    }
    return ready;
  }
  /* A slot that the switch takes away is no doorbell: look once a second. */
  while (ready == 0 && timeout_ms > 0) {
    int slice = timeout_ms < 1000 ? timeout_ms : 1000;
    struct pollfd sources[2] = {{.fd = fd, .events = POLLIN}, {.fd = d->way == RWI_SOCKET ? d->fds[0] : -1, .events = POLLIN}};
    uint64_t rung;
    rwi_wish(q, what, 1);
    if ((ready = rwi_ready(q, what)) == 0) {
      if (poll(sources, 2, slice) <= 0) timeout_ms -= slice;
      if ((sources[0].revents & POLLIN) && read(fd, &rung, sizeof rung) < 0 && errno != EAGAIN) ready = -errno;
      if (ready == 0 && sources[1].revents && rwi_server_news(d) < 0) ready = -EPIPE;
      if (ready == 0) ready = rwi_ready(q, what);
    }
    rwi_wish(q, what, 0);
  }
  return ready;
}

#endif
