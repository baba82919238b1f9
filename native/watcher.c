// The reactor: the descriptors that an environment watches, in one epoll set that its own event loop polls.
//
// An epoll descriptor is readable while one of its members is ready (epoll(7)); so libuv, which offers no JavaScript call to
// watch any descriptor, watches this one, and its readiness becomes calls on the loop's thread, with no thread in between.
//
// Every registration carries an id that JavaScript hands out once and never reuses. All registrations are one-shot; the
// JavaScript side re-arms after its callback. So an event of a removed registration is recognised by its unknown id, and a
// callback that does not drain its descriptor does not starve the others.
#include "common.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 64

// libuv's own declarations (uv.h, stable in 1.x), since Node-API's headers come without them.
typedef struct uv_handle_s uv_handle_t;
typedef struct uv_loop_s uv_loop_t;
enum { UV_POLL_HANDLE = 8, UV_READABLE_EVENT = 1 };
extern size_t uv_handle_size(int type);
extern int uv_poll_init(uv_loop_t *loop, uv_handle_t *handle, int fd);
extern int uv_poll_start(uv_handle_t *handle, int events, void (*callback)(uv_handle_t *, int, int));
extern int uv_poll_stop(uv_handle_t *handle);
extern void uv_close(uv_handle_t *handle, void (*closed)(uv_handle_t *));
extern void uv_ref(uv_handle_t *handle);
extern void uv_unref(uv_handle_t *handle);
extern void uv_handle_set_data(uv_handle_t *handle, void *data);
extern void *uv_handle_get_data(const uv_handle_t *handle);

struct reactor {
  int epoll;
  uv_handle_t *poll;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;
  struct instance *instance;
};

static void deliver(struct reactor *reactor, const struct epoll_event *event) {
  napi_env env = reactor->env;
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value callback, receiver;
  if (napi_get_reference_value(env, reactor->callback, &callback) == napi_ok &&
      napi_get_global(env, &receiver) == napi_ok) {
    napi_value argv[2] = {make_double(env, (double)event->data.u64), make_int(env, (int64_t)event->events)};
    // An exception in one callback is reported as uncaught; the other events are still delivered.
    if (napi_make_callback(env, reactor->context, receiver, callback, 2, argv, NULL) == napi_pending_exception) {
      napi_value error;
      if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
    }
  }
  napi_close_handle_scope(env, scope);
}

static void ready(uv_handle_t *handle, int status, int events) {
  (void)status;
  (void)events;
  struct reactor *reactor = uv_handle_get_data(handle);
  struct epoll_event list[BATCH];
  int count = epoll_wait(reactor->epoll, list, BATCH, 0);
  for (int i = 0; i < count; i++) deliver(reactor, &list[i]);
}

static void release(struct reactor *reactor) {
  if (reactor->epoll >= 0) close(reactor->epoll);
  free(reactor->poll);
  free(reactor);
}

static void closed(uv_handle_t *handle) {
  struct reactor *reactor = uv_handle_get_data(handle);
  napi_async_cleanup_hook_handle hook = reactor->hook;
  release(reactor);
  napi_remove_async_cleanup_hook(hook);
}

static void stop_at_teardown(napi_async_cleanup_hook_handle hook, void *argument) {
  struct reactor *reactor = argument;
  reactor->hook = hook;
  reactor->instance->reactor = NULL;
  uv_poll_stop(reactor->poll);
  uv_close(reactor->poll, closed);
}

// 0 or -errno. Once the poll handle is initialised only `closed` may free it.
static int open_reactor(napi_env env, napi_value callback, struct reactor *reactor) {
  uv_loop_t *loop;
  napi_value name;
  reactor->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (reactor->epoll < 0) return -errno;
  reactor->poll = calloc(1, uv_handle_size(UV_POLL_HANDLE));
  if (!reactor->poll || napi_get_uv_event_loop(env, (struct uv_loop_s **)&loop) != napi_ok ||
      napi_create_string_utf8(env, "ringway watcher", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_reference(env, callback, 1, &reactor->callback) != napi_ok ||
      napi_async_init(env, NULL, name, &reactor->context) != napi_ok)
    return -ENOMEM;
  int error = uv_poll_init(loop, reactor->poll, reactor->epoll);
  if (error) return error;
  uv_handle_set_data(reactor->poll, reactor);
  napi_add_async_cleanup_hook(env, stop_at_teardown, reactor, &reactor->hook);
  uv_poll_start(reactor->poll, UV_READABLE_EVENT, ready);
  uv_unref(reactor->poll);
  return 0;
}

// watchStart(callback(id, events)): 0 or -errno; once per environment.
static napi_value watch_start(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  napi_valuetype type;
  struct instance *instance = instance_of(env);
  if (!instance || !get_args(env, info, 1, argv)) return NULL;
  if (napi_typeof(env, argv[0], &type) != napi_ok || type != napi_function) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "callback must be a function");
    return NULL;
  }
  if (instance->reactor) return make_int(env, -EALREADY);
  struct reactor *reactor = calloc(1, sizeof *reactor);
  if (!reactor) return make_int(env, -ENOMEM);
  reactor->epoll = -1;
  reactor->env = env;
  reactor->instance = instance;
  int error = open_reactor(env, argv[0], reactor);
  if (error) {
    release(reactor);
    return make_int(env, error);
  }
  instance->reactor = reactor;
  return make_int(env, 0);
}

// watchSet(fd, id, events): registers or re-arms, one-shot. 0 or -errno.
static napi_value watch_set(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  int fd;
  int64_t id, events;
  struct instance *instance = instance_of(env);
  if (!instance || !get_args(env, info, 3, argv) || !get_fd(env, argv[0], &fd) ||
      !get_int(env, argv[1], "id", 1, (int64_t)MAX_SAFE_INTEGER, &id) ||
      !get_int(env, argv[2], "events", 0, 0xffff, &events))
    return NULL;
  if (!instance->reactor) return make_int(env, -EBADF);
  struct epoll_event event = {.events = (uint32_t)events | EPOLLONESHOT, .data.u64 = (uint64_t)id};
  int epoll = instance->reactor->epoll;
  int result = epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
  if (result < 0 && errno == ENOENT) result = epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return make_result(env, result);
}

// watchRemove(fd): 0 or -errno (ENOENT, EBADF: the descriptor was closed before).
static napi_value watch_remove(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int fd;
  struct instance *instance = instance_of(env);
  if (!instance || !get_args(env, info, 1, argv) || !get_fd(env, argv[0], &fd)) return NULL;
  if (!instance->reactor) return make_int(env, -EBADF);
  return make_result(env, epoll_ctl(instance->reactor->epoll, EPOLL_CTL_DEL, fd, NULL));
}

// watchRef(on): whether the reactor keeps the event loop alive.
static napi_value watch_ref(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  bool on;
  struct instance *instance = instance_of(env);
  if (!instance || !get_args(env, info, 1, argv) || !get_flag(env, argv[0], "on", &on)) return NULL;
  if (!instance->reactor) return make_int(env, -EBADF);
  if (on) uv_ref(instance->reactor->poll);
  else uv_unref(instance->reactor->poll);
  return make_int(env, 0);
}

const napi_property_descriptor watcher_exports[] = {
    METHOD("watchStart", watch_start),
    METHOD("watchSet", watch_set),
    METHOD("watchRemove", watch_remove),
    METHOD("watchRef", watch_ref),
    TABLE_END,
};
