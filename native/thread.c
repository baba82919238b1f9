// The calling thread: affinity, name, id; and the cycle counter.
#include "common.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CALIBRATION_NS 20000000

static inline uint64_t read_cycles(void) {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t count;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
  return count;
#else
#error "no cycle counter known for this processor"
#endif
}

struct instant {
  uint64_t cycles;
  uint64_t ns;
};

static struct instant loaded_at;
static atomic_int clock_started;
static _Atomic double cycles_per_second;

// Both clocks at one moment: the closest of a few tries.
static struct instant now(void) {
  struct instant best = {0, 0};
  uint64_t shortest = UINT64_MAX;
  for (int i = 0; i < 16; i++) {
    struct timespec time;
    uint64_t before = read_cycles();
    clock_gettime(CLOCK_MONOTONIC_RAW, &time);
    uint64_t after = read_cycles();
    if (after - before >= shortest) continue;
    shortest = after - before;
    best.cycles = before + shortest / 2;
    best.ns = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
  }
  return best;
}

void clock_start(void) {
  if (atomic_exchange(&clock_started, 1) == 0) loaded_at = now();
}

static napi_value tsc(napi_env env, napi_callback_info info) {
  (void)info;
  return make_double(env, (double)read_cycles());
}

// tscCell(): Float64Array(1) that sampleTsc() of the same environment writes.
static napi_value tsc_cell(napi_env env, napi_callback_info info) {
  (void)info;
  struct instance *instance = instance_of(env);
  napi_value buffer, view;
  void *data;
  if (!instance) return NULL;
  if (instance->tsc_view) return napi_get_reference_value(env, instance->tsc_view, &view) == napi_ok ? view : NULL;
  if (napi_create_arraybuffer(env, sizeof(double), &data, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_float64_array, 1, buffer, 0, &view) != napi_ok ||
      napi_create_reference(env, view, 1, &instance->tsc_view) != napi_ok) {
    napi_throw_error(env, NULL, "cannot create the cycle cell");
    return NULL;
  }
  instance->tsc_cell = data;
  return view;
}

// sampleTsc(): a returned double would be an allocation, a stored one is not.
static napi_value sample_tsc(napi_env env, napi_callback_info info) {
  (void)info;
  struct instance *instance = instance_of(env);
  if (instance && instance->tsc_cell) *instance->tsc_cell = (double)read_cycles();
  return NULL;
}

static napi_value tsc_hz(napi_env env, napi_callback_info info) {
  (void)info;
  double known = atomic_load(&cycles_per_second);
  if (known > 0) return make_double(env, known);
  struct instant end = now();
  while (end.ns - loaded_at.ns < CALIBRATION_NS) {
    struct timespec rest = {.tv_nsec = (long)(CALIBRATION_NS - (end.ns - loaded_at.ns))};
    nanosleep(&rest, NULL);
    end = now();
  }
  known = (double)(end.cycles - loaded_at.cycles) * 1e9 / (double)(end.ns - loaded_at.ns);
  atomic_store(&cycles_per_second, known);
  return make_double(env, known);
}

// setAffinity(cpus: Int32Array): 0 or -errno, for the calling thread.
static napi_value set_affinity(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  int32_t *cpus;
  size_t count;
  if (!get_args(env, info, 1, argv) || !get_int32s(env, argv[0], "cpus", &cpus, &count)) return NULL;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (size_t i = 0; i < count; i++) {
    if (cpus[i] < 0 || cpus[i] >= CPU_SETSIZE) return throw_range(env, "cpu", "must be an integer from 0 to 1023");
    CPU_SET((size_t)cpus[i], &set);
  }
  return make_result(env, sched_setaffinity(0, sizeof set, &set));
}

// getAffinity(pid): CPU numbers that the process's main thread (or, for 0, the calling thread) may run on; or -errno.
static napi_value get_affinity(napi_env env, napi_callback_info info) {
  napi_value argv[1], list;
  int64_t pid;
  if (!get_args(env, info, 1, argv) || !get_int(env, argv[0], "pid", 0, INT32_MAX, &pid)) return NULL;
  cpu_set_t set;
  if (sched_getaffinity((pid_t)pid, sizeof set, &set) < 0) return make_int(env, -errno);
  if (napi_create_array(env, &list) != napi_ok) return NULL;
  uint32_t next = 0;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &set) && napi_set_element(env, list, next++, make_int(env, (int64_t)cpu)) != napi_ok) return NULL;
  return list;
}

static napi_value get_tid(napi_env env, napi_callback_info info) {
  (void)info;
  return make_int(env, syscall(SYS_gettid));
}

static napi_value set_thread_name(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  char name[16];  // prctl(2): 15 bytes
  if (!get_args(env, info, 1, argv) || !get_string(env, argv[0], "name", name, sizeof name)) return NULL;
  return make_result(env, prctl(PR_SET_NAME, name, 0, 0, 0));
}

static napi_value cpu_count(napi_env env, napi_callback_info info) {
  (void)info;
  return make_int(env, sysconf(_SC_NPROCESSORS_ONLN));
}

const napi_property_descriptor thread_exports[] = {
    METHOD("tsc", tsc),
    METHOD("tscCell", tsc_cell),
    METHOD("sampleTsc", sample_tsc),
    METHOD("tscHz", tsc_hz),
    METHOD("setAffinity", set_affinity),
    METHOD("getAffinity", get_affinity),
    METHOD("getTid", get_tid),
    METHOD("setThreadName", set_thread_name),
    METHOD("cpuCount", cpu_count),
    TABLE_END,
};
