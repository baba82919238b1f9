// Page faults that another process serves (userfaultfd(2), ioctl_userfaultfd(2)): for post-copy migration, where pages of a
// guest's memory are still to come while the guest runs already.
#include "common.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// The device lets in whoever may open it, the system call CAP_SYS_PTRACE or vm.unprivileged_userfaultfd. Without either
// only faults of the process itself are served, not those that the kernel meets in its memory (EFAULT then).
static int open_any(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0 || errno != EPERM) return fd < 0 ? -errno : fd;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    if (fd >= 0) return fd;
  }
  fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  return fd < 0 ? -errno : fd;
}

static napi_value userfault_open(napi_env env, napi_callback_info info) {
  (void)info;
  int fd = open_any();
  if (fd < 0) return make_int(env, fd);
  struct uffdio_api api = {.api = UFFD_API};
  int error = ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
  if (!error && !(api.features & UFFD_FEATURE_MISSING_SHMEM)) error = -EOPNOTSUPP;
  if (!error) return make_int(env, fd);
  close(fd);
  return make_int(env, error);
}

// The whole mapping that holds [address]: what `map` made is whole pages.
static bool get_map(napi_env env, napi_value value, struct uffdio_range *range) {
  int64_t address;
  void *base;
  size_t length;
  if (!get_int(env, value, "address", 1, (int64_t)1 << 52, &address)) return false;
  if (!guard_find((void *)(uintptr_t)address, &base, &length)) {
    throw_range(env, "address", "is not that of a map");
    return false;
  }
  *range = (struct uffdio_range){.start = (uintptr_t)base, .len = length};
  return true;
}

// userfaultRegister(fd, address): 0 or -errno. Pages that are mapped already are let go, so that all are asked for.
static napi_value userfault_register(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int fd;
  struct uffdio_register wanted = {.mode = UFFDIO_REGISTER_MODE_MISSING};
  if (!get_args(env, info, 2, argv) || !get_fd(env, argv[0], &fd) || !get_map(env, argv[1], &wanted.range)) return NULL;
  void *base = (void *)(uintptr_t)wanted.range.start;
  // Pages come one by one; a huge page would have to come whole. Not every kernel knows huge pages.
  madvise(base, wanted.range.len, MADV_NOHUGEPAGE);
  if (madvise(base, wanted.range.len, MADV_DONTNEED) < 0) return make_int(env, -errno);
  return make_result(env, ioctl(fd, UFFDIO_REGISTER, &wanted));
}

static napi_value userfault_unregister(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int fd;
  struct uffdio_range range;
  if (!get_args(env, info, 2, argv) || !get_fd(env, argv[0], &fd) || !get_map(env, argv[1], &range)) return NULL;
  return make_result(env, ioctl(fd, UFFDIO_UNREGISTER, &range));
}

// userfaultAbandon(fd, address): 0 or -errno. The map becomes private zero pages, and whoever waits for a page goes on.
static napi_value userfault_abandon(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  int fd;
  struct uffdio_range range;
  if (!get_args(env, info, 2, argv) || !get_fd(env, argv[0], &fd) || !get_map(env, argv[1], &range)) return NULL;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  void *base = (void *)(uintptr_t)range.start;
  if (mmap(base, range.len, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return make_int(env, -errno);
  return make_result(env, ioctl(fd, UFFDIO_WAKE, &range));
}

struct touch {
  volatile const char *at;
  size_t length;
  napi_deferred deferred;
  napi_async_work work;
};

static void touch_pages(napi_env env, void *data) {
  (void)env;
  struct touch *touch = data;
  for (size_t i = 0; i < touch->length; i += 4096) (void)touch->at[i];
  if (touch->length > 0) (void)touch->at[touch->length - 1];
}

static void touched(napi_env env, napi_status status, void *data) {
  (void)status;
  struct touch *touch = data;
  napi_resolve_deferred(env, touch->deferred, make_int(env, 0));
  napi_delete_async_work(env, touch->work);
  free(touch);
}

// userfaultTouch(address, length): a promise that resolves when every page there has been read, by another thread.
static napi_value userfault_touch(napi_env env, napi_callback_info info) {
  napi_value argv[2], promise, name;
  int64_t length;
  int64_t address;
  struct uffdio_range range;
  if (!get_args(env, info, 2, argv) || !get_int(env, argv[0], "address", 1, (int64_t)1 << 52, &address) ||
      !get_int(env, argv[1], "length", 0, (int64_t)1 << 32, &length) || !get_map(env, argv[0], &range))
    return NULL;
  if ((uint64_t)(address + length) > range.start + range.len) return throw_range(env, "length", "leads out of the map");
  struct touch *touch = calloc(1, sizeof *touch);
  if (!touch) return make_int(env, -ENOMEM);
  touch->at = (const char *)(uintptr_t)address;
  touch->length = (size_t)length;
  if (napi_create_string_utf8(env, "userfaultTouch", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_async_work(env, NULL, name, touch_pages, touched, touch, &touch->work) != napi_ok) {
    free(touch);
    return make_int(env, -ENOMEM);
  }
  if (napi_create_promise(env, &touch->deferred, &promise) != napi_ok ||
      napi_queue_async_work(env, touch->work) != napi_ok) {
    napi_delete_async_work(env, touch->work);
    free(touch);
    return make_int(env, -ENOMEM);
  }
  return promise;
}

const napi_property_descriptor userfault_exports[] = {
    METHOD("userfaultOpen", userfault_open),
    METHOD("userfaultRegister", userfault_register),
    METHOD("userfaultUnregister", userfault_unregister),
    METHOD("userfaultAbandon", userfault_abandon),
    METHOD("userfaultTouch", userfault_touch),
    TABLE_END,
};
