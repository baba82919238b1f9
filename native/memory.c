// Shared memory: memfd, maps as external ArrayBuffers, seals and sizes.
//
// Each map is one mmap of its own, with one external ArrayBuffer, one registry slot (fault.c) and a finalizer that
// unmaps. An ArrayBuffer is never detached: that would invalidate V8's protector and slow every typed array down.
#include "common.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

struct map {
  void *base;
  size_t length;  // of the mapping, whole pages
  int slot;
};

static void finalize_map(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  struct map *map = hint;
  guard_unregister(map->slot, map->base);
  munmap(map->base, map->length);
  free(map);
}

// Wraps [base + skip, base + skip + length) of a fresh mapping; takes the mapping over, also on failure.
static napi_value wrap_map(napi_env env, void *base, size_t mapped, size_t skip, size_t length, size_t page,
                           int32_t owner) {
  struct map *map = malloc(sizeof *map);
  int slot = map ? guard_register(base, mapped, page, owner) : -ENOMEM;
  if (slot < 0) {
    munmap(base, mapped);
    free(map);
    return make_int(env, slot);
  }
  *map = (struct map){base, mapped, slot};
  napi_value buffer;
  if (napi_create_external_arraybuffer(env, (char *)base + skip, length, finalize_map, map, &buffer) != napi_ok) {
    finalize_map(env, NULL, map);
    return make_int(env, -ENOMEM);
  }
  return buffer;
}

static size_t page_size_of(int fd) {
  struct statfs about;
  if (fstatfs(fd, &about) == 0 && about.f_type == HUGETLBFS_MAGIC) return (size_t)about.f_bsize;
  return (size_t)sysconf(_SC_PAGESIZE);
}

// map(fd, offset, length, write, owner): ArrayBuffer, or -errno.
static napi_value map_fd(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  int fd;
  int64_t offset, length, owner;
  bool write;
  if (!get_args(env, info, 5, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "offset", 0, (int64_t)1 << 52, &offset) ||
      !get_int(env, argv[2], "length", 1, (int64_t)1 << 46, &length) || !get_flag(env, argv[3], "write", &write) ||
      !get_int(env, argv[4], "owner", 0, INT32_MAX, &owner))
    return NULL;
  size_t page = page_size_of(fd);
  size_t skip = (size_t)offset & (page - 1);
  size_t mapped = (skip + (size_t)length + page - 1) & ~(page - 1);
  // Without `write` the map is private and still writable: a stray store is then lost instead of ending the process.
  int flags = (write ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE;
  void *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset - (off_t)skip);
  if (base == MAP_FAILED) return make_int(env, -errno);
  madvise(base, mapped, MADV_DONTDUMP);
  return wrap_map(env, base, mapped, skip, (size_t)length, page, (int32_t)owner);
}

// mapPieces(rows, owner): rows of fd, offset, length in whole pages, shared and writable, become one map. Or -errno.
static napi_value map_pieces(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  double *rows;
  size_t count;
  int64_t owner;
  if (!get_args(env, info, 2, argv) || !get_doubles(env, argv[0], "rows", &rows, &count) ||
      !get_int(env, argv[1], "owner", 0, INT32_MAX, &owner))
    return NULL;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t total = 0;
  for (size_t i = 0; i + 2 < count; i += 3) {
    double offset = rows[i + 1], length = rows[i + 2];
    if (!(rows[i] >= 0 && rows[i] <= INT32_MAX && offset >= 0 && offset < 0x1p52 && length >= 1 && length < 0x1p32) ||
        (uint64_t)offset % page || (uint64_t)length % page)
      return throw_range(env, "rows", "must be descriptors and whole pages");
    total += (size_t)length;
  }
  if (count == 0 || count % 3 || total > (size_t)1 << 32) return throw_range(env, "rows", "must be triples");
  char *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return make_int(env, -errno);
  size_t at = 0;
  for (size_t i = 0; i < count; i += 3) {
    size_t length = (size_t)rows[i + 2];
    int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;
    if (mmap(base + at, length, PROT_READ | PROT_WRITE, flags, (int)rows[i], (off_t)rows[i + 1]) == MAP_FAILED) {
      int error = errno;
      munmap(base, total);
      return make_int(env, -error);
    }
    at += length;
  }
  madvise(base, total, MADV_DONTDUMP);
  return wrap_map(env, base, total, 0, total, page, (int32_t)owner);
}

static void *reserve(size_t length, size_t align) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t extra = align > page ? align : 0;
  char *start = mmap(NULL, length + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED || !extra) return start;
  char *base = (char *)(((uintptr_t)start + align - 1) & ~(uintptr_t)(align - 1));
  if (base > start) munmap(start, (size_t)(base - start));
  munmap(base + length, (size_t)(start + extra - base));
  return base;
}

// mapAnonymous(length): zeroed private memory; from 2 MiB on aligned for transparent huge pages, where the system has them.
static napi_value map_anonymous(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int64_t length;
  if (!get_args(env, info, 1, argv) || !get_int(env, argv[0], "length", 1, (int64_t)1 << 46, &length)) return NULL;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t mapped = ((size_t)length + page - 1) & ~(page - 1);
  bool huge = mapped >= HUGE_PAGE;
  void *base = reserve(mapped, huge ? HUGE_PAGE : page);
  if (base == MAP_FAILED) return make_int(env, -errno);
  if (huge) madvise(base, mapped, MADV_HUGEPAGE);
  return wrap_map(env, base, mapped, 0, (size_t)length, page, -1);
}

static bool get_buffer(napi_env env, napi_value value, void **data, size_t *length) {
  bool is_buffer = false;
  if (napi_is_arraybuffer(env, value, &is_buffer) != napi_ok || !is_buffer ||
      napi_get_arraybuffer_info(env, value, data, length) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "buffer must be an ArrayBuffer");
    return false;
  }
  return true;
}

static napi_value address_of(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  void *data;
  size_t length;
  if (!get_args(env, info, 1, argv) || !get_buffer(env, argv[0], &data, &length)) return NULL;
  return make_double(env, (double)(uintptr_t)data);
}

// release(buffer): once per map. The whole mapping becomes private zero pages at the same address. 0 or -errno.
static napi_value release_map(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  void *data, *base;
  size_t length, mapped;
  if (!get_args(env, info, 1, argv) || !get_buffer(env, argv[0], &data, &length)) return NULL;
  if (!guard_find(data, &base, &mapped)) return make_int(env, -EINVAL);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(base, mapped, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return make_int(env, -errno);
  // Finalizers come late, or never while a worker does not return to its event loop: a peer that makes us map again and
  // again must not use up the registry until then.
  guard_release(base);
  return make_int(env, 0);
}

static int open_memfd(const char *name, int64_t size, bool seal) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  if (ftruncate(fd, (off_t)size) == 0 &&
      (!seal || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0))
    return fd;
  int error = errno;
  close(fd);
  return -error;
}

static napi_value memfd(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  char name[250];  // memfd_create(2): 249 bytes
  int64_t size;
  bool seal;
  if (!get_args(env, info, 3, argv) || !get_string(env, argv[0], "name", name, sizeof name) ||
      !get_int(env, argv[1], "size", 0, (int64_t)1 << 52, &size) || !get_flag(env, argv[2], "seal", &seal))
    return NULL;
  return make_int(env, open_memfd(name, size, seal));
}

static napi_value seals(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, fcntl(fd, F_GET_SEALS));
}

static napi_value file_size(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  struct stat about;
  if (!get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  return make_int(env, fstat(fd, &about) < 0 ? -errno : about.st_size);
}

static napi_value truncate_fd(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int fd;
  int64_t size;
  if (!get_args(env, info, 2, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "size", 0, (int64_t)1 << 52, &size))
    return NULL;
  return make_result(env, ftruncate(fd, (off_t)size));
}

const napi_property_descriptor memory_exports[] = {
    METHOD("map", map_fd),
    METHOD("mapPieces", map_pieces),
    METHOD("mapAnonymous", map_anonymous),
    METHOD("address", address_of),
    METHOD("release", release_map),
    METHOD("memfd", memfd),
    METHOD("seals", seals),
    METHOD("fileSize", file_size),
    METHOD("truncate", truncate_fd),
    TABLE_END,
};
