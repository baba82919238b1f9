// The reactor: one epoll thread per environment that turns readiness into calls on the JavaScript thread.
//
// Every registration carries an id that JavaScript hands out once and never reuses. All registrations are one-shot; the
// JavaScript side re-arms after its callback. So at most one event per registration is on its way, an event of a removed
// registration is recognised by its unknown id, and a callback that does not drain its descriptor does not spin.
//
// The thread only waits and posts; epoll_ctl is called on the JavaScript thread (epoll allows both at once).
#include "common.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 64
#define STOP_ID UINT64_MAX

struct reactor {
  int epoll;
  int stop;  // eventfd
  pthread_t thread;
  napi_threadsafe_function post;
  struct instance *instance;
};

struct batch {
  int count;
  struct epoll_event events[BATCH];
};

static void *run(void *argument) {
  struct reactor *reactor = argument;
  struct batch *batch = NULL;
  for (;;) {
    if (!batch) batch = malloc(sizeof *batch);
    if (!batch) {
      usleep(1000);
      continue;
    }
    batch->count = epoll_wait(reactor->epoll, batch->events, BATCH, -1);
    if (batch->count < 0 && errno == EINTR) continue;
    if (batch->count < 0) break;
    bool stop = false;
    for (int i = 0; i < batch->count; i++) stop |= batch->events[i].data.u64 == STOP_ID;
    if (stop) break;
    // Unbounded queue, bounded by one event per registration.
    if (napi_call_threadsafe_function(reactor->post, batch, napi_tsfn_nonblocking) != napi_ok) break;
    batch = NULL;
  }
  free(batch);
  return NULL;
}

// On the JavaScript thread; env is NULL while the environment is torn down.
static void deliver(napi_env env, napi_value callback, void *context, void *data) {
  (void)context;
  struct batch *batch = data;
  napi_value receiver;
  if (env && napi_get_undefined(env, &receiver) == napi_ok) {
    for (int i = 0; i < batch->count; i++) {
      napi_handle_scope scope;
      if (napi_open_handle_scope(env, &scope) != napi_ok) break;
      napi_value argv[2] = {make_double(env, (double)batch->events[i].data.u64),
                            make_int(env, (int64_t)batch->events[i].events)};
      // An exception in one callback is reported as uncaught; the other events are still delivered.
      if (napi_call_function(env, receiver, callback, 2, argv, NULL) == napi_pending_exception) {
        napi_value error;
        if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
      }
      napi_close_handle_scope(env, scope);
    }
  }
  free(batch);
}

static void stop_at_teardown(void *argument) { reactor_stop(argument); }

void reactor_stop(struct reactor *reactor) {
  const uint64_t one = 1;
  // Cannot fail: the counter is 0 and the descriptor is ours.
  if (write(reactor->stop, &one, sizeof one) == sizeof one) pthread_join(reactor->thread, NULL);
  napi_release_threadsafe_function(reactor->post, napi_tsfn_abort);
  close(reactor->epoll);
  close(reactor->stop);
  reactor->instance->reactor = NULL;
  free(reactor);
}

static int start_thread(struct reactor *reactor) {
  sigset_t all, before;
  // Signals of the process are Node's business, on its own threads.
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGSEGV);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&reactor->thread, NULL, run, reactor);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!error) pthread_setname_np(reactor->thread, "rw-watcher");
  return -error;
}

static int open_reactor(napi_env env, napi_value callback, struct reactor *reactor) {
  reactor->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (reactor->epoll < 0) return -errno;
  reactor->stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = STOP_ID};
  if (reactor->stop < 0 || epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, reactor->stop, &event) < 0) return -errno;
  napi_value name;
  if (napi_create_string_utf8(env, "ringway watcher", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, callback, NULL, name, 0, 1, NULL, NULL, NULL, deliver, &reactor->post) !=
          napi_ok)
    return -ENOMEM;
  napi_unref_threadsafe_function(env, reactor->post);
  int error = start_thread(reactor);
  if (!error) return 0;
  napi_release_threadsafe_function(reactor->post, napi_tsfn_abort);
  return error;
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
  reactor->epoll = reactor->stop = -1;
  reactor->instance = instance;
  int error = open_reactor(env, argv[0], reactor);
  if (error) {
    if (reactor->epoll >= 0) close(reactor->epoll);
    if (reactor->stop >= 0) close(reactor->stop);
    free(reactor);
    return make_int(env, error);
  }
  instance->reactor = reactor;
  // Hooks run last in, first out: the thread is gone before the thread-safe function closes itself.
  napi_add_env_cleanup_hook(env, stop_at_teardown, reactor);
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
  napi_status status = on ? napi_ref_threadsafe_function(env, instance->reactor->post)
                          : napi_unref_threadsafe_function(env, instance->reactor->post);
  return make_int(env, status == napi_ok ? 0 : -EINVAL);
}

const napi_property_descriptor watcher_exports[] = {
    METHOD("watchStart", watch_start),
    METHOD("watchSet", watch_set),
    METHOD("watchRemove", watch_remove),
    METHOD("watchRef", watch_ref),
    TABLE_END,
};
