// Shared by all files of the addon.
//
// Rules of this folder
// - One JavaScript call is one system call, as near as it gets; no packet logic.
// - A failing system call comes back as a negative errno; a wrong argument throws a TypeError or RangeError and the
//   function returns at once. Nothing exits or aborts.
// - Loaded by any number of environments (main thread, worker_threads) of one process: what belongs to one environment
//   is in `struct instance`; what is process-wide (map registry, fault counters) is static and lock-free.
#ifndef RINGWAY_COMMON_H
#define RINGWAY_COMMON_H

#include <errno.h>
#include <node_api.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_COPY_CONTEXTS 64
#define MAX_SAFE_INTEGER 9007199254740991.0

struct reactor;

struct copy_context {
  const double *rows;  // triples dst, src, len
  uint32_t capacity;   // in triples
  napi_ref keep;       // keeps the array, and so the memory, alive until the environment ends
};

// One per environment.
struct instance {
  struct reactor *reactor;
  struct copy_context copies[MAX_COPY_CONTEXTS];
  uint32_t copy_count;
  double *tsc_cell;
  napi_ref tsc_view;
};

struct instance *instance_of(napi_env env);

// args.c. Each returns false after throwing; the caller then returns NULL at once.
bool get_args(napi_env env, napi_callback_info info, size_t count, napi_value *argv);
bool get_int(napi_env env, napi_value value, const char *name, int64_t low, int64_t high, int64_t *out);
bool get_fd(napi_env env, napi_value value, int *out);
bool get_flag(napi_env env, napi_value value, const char *name, bool *out);
// Copies a string without inner NUL into out[capacity]; longer ones are a RangeError.
bool get_string(napi_env env, napi_value value, const char *name, char *out, size_t capacity);
bool get_bytes(napi_env env, napi_value value, const char *name, uint8_t **data, size_t *length);
bool get_int32s(napi_env env, napi_value value, const char *name, int32_t **data, size_t *length);
bool get_doubles(napi_env env, napi_value value, const char *name, double **data, size_t *length);
bool is_nullish(napi_env env, napi_value value);
napi_value throw_range(napi_env env, const char *name, const char *problem);
napi_value make_int(napi_env env, int64_t number);
napi_value make_double(napi_env env, double number);
// 0 or -errno from a system call's return value of 0 or -1.
napi_value make_result(napi_env env, int64_t result);

// fault.c: the registry of live maps, and the SIGBUS guard that reads it.
int guard_install(void);
// Index of the new map's slot, or -errno.
int guard_register(void *base, size_t length, size_t page_size, int32_t owner);
void guard_unregister(int slot, const void *base);
// The map at `base` has no file behind it any more: its slot is free before its memory is.
void guard_release(const void *base);
// Range of the live map that holds `address`; false when there is none.
bool guard_find(const void *address, void **base, size_t *length);

// copy.c
void copy_select(void);

// thread.c
void clock_start(void);

// Tables of exported functions, one per topic, each ended by a NULL name.
extern const napi_property_descriptor *const export_tables[];
#define METHOD(js_name, function) {js_name, NULL, function, NULL, NULL, NULL, napi_enumerable, NULL}
#define TABLE_END {NULL, NULL, NULL, NULL, NULL, NULL, napi_default, NULL}
extern const napi_property_descriptor socket_exports[];
extern const napi_property_descriptor memory_exports[];
extern const napi_property_descriptor fault_exports[];
extern const napi_property_descriptor event_exports[];
extern const napi_property_descriptor watcher_exports[];
extern const napi_property_descriptor thread_exports[];
extern const napi_property_descriptor copy_exports[];
extern const napi_property_descriptor kernel_exports[];
extern const napi_property_descriptor frames_exports[];
extern const napi_property_descriptor xdp_exports[];
extern const napi_property_descriptor userfault_exports[];

#endif
