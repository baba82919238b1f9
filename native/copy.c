// The burst copy: many short copies between mapped memories in one call.
//
// A row is three doubles: destination address, source address, length in bytes. Callers have translated and bounds-checked
// the addresses; a row that cannot be one (length below 0 or above 1 MiB, address outside user space, not a number) is
// skipped and counted. Source and destination must not overlap.
//
// Prefetch. Payloads lie in memory that no core here has touched. The first lines of rows AHEAD of the current one are
// requested, so that the misses of a burst overlap; while a long row is copied, all lines of the next one are, line by
// line (1500-byte frames between two testpmd guests: a twelfth less time per packet than with the first four lines only).
//
// Short copies. Most rows are below 256 bytes; there the call, the dispatch and the branches of a library memcpy cost more
// than the copy. Blocks of one size class are all loaded, then all stored, the last ones overlapping, without a loop.
// GCC's vector types make two 16-byte accesses out of each 32-byte one unless AVX2 is allowed; which of the two builds of
// the same body runs is decided once at load.
#include "common.h"

#include <string.h>

#define AHEAD 6
#define LINE 64
#define LONG 512
#define MAX_ROW ((uint64_t)1 << 20)
#define LOWEST_ADDRESS ((uint64_t)4096)
#define USER_SPACE ((uint64_t)1 << 47)
#define ADDRESSES (USER_SPACE - LOWEST_ADDRESS)

#define INLINE static inline __attribute__((always_inline))

typedef uint8_t block16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint8_t block32 __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint64_t word8 __attribute__((aligned(1), may_alias));
typedef uint32_t word4 __attribute__((aligned(1), may_alias));
typedef uint16_t word2 __attribute__((aligned(1), may_alias));

INLINE void copy_upto_32(uint8_t *to, const uint8_t *from, size_t length) {
  if (length >= 16) {
    block16 a = *(const block16 *)from, b = *(const block16 *)(from + length - 16);
    *(block16 *)to = a;
    *(block16 *)(to + length - 16) = b;
  } else if (length >= 8) {
    uint64_t a = *(const word8 *)from, b = *(const word8 *)(from + length - 8);
    *(word8 *)to = a;
    *(word8 *)(to + length - 8) = b;
  } else if (length >= 4) {
    uint32_t a = *(const word4 *)from, b = *(const word4 *)(from + length - 4);
    *(word4 *)to = a;
    *(word4 *)(to + length - 4) = b;
  } else if (length >= 2) {
    uint16_t a = *(const word2 *)from, b = *(const word2 *)(from + length - 2);
    *(word2 *)to = a;
    *(word2 *)(to + length - 2) = b;
  } else if (length == 1) {
    *to = *from;
  }
}

// count (a constant) blocks from the start and as many up to the end; covers lengths from count*32 to count*64.
#define COPY_BLOCKS(count)                                                                   \
  do {                                                                                       \
    block32 head[count], tail[count];                                                        \
    for (size_t i = 0; i < count; i++) head[i] = ((const block32 *)from)[i];                 \
    for (size_t i = 0; i < count; i++) tail[i] = ((const block32 *)(from + length))[(ptrdiff_t)i - count]; \
    for (size_t i = 0; i < count; i++) ((block32 *)to)[i] = head[i];                         \
    for (size_t i = 0; i < count; i++) ((block32 *)(to + length))[(ptrdiff_t)i - count] = tail[i];         \
  } while (0)

// For a line that will be stored to: a plain prefetch would bring it shared, and the store would wait for it again. On a
// processor without it the instruction does nothing (Intel SDM, PREFETCHW).
INLINE void prefetch_store(const char *at) {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*at));
#else
  __builtin_prefetch(at, 1);
#endif
}

// A long row: while its lines are copied, those of the row after it are requested, line by line. `next_to` and `next_from`
// may be anything; `lines` bounds what is requested.
INLINE void copy_long(uint8_t *to, const uint8_t *from, size_t length, const char *next_to, const char *next_from, size_t lines) {
  size_t at = 0;
  for (size_t line = 0; at + LINE <= length; at += LINE, line++) {
    block32 a = *(const block32 *)(from + at), b = *(const block32 *)(from + at + 32);
    if (line < lines) {
      __builtin_prefetch(next_from + at);
      prefetch_store(next_to + at);
    }
    *(block32 *)(to + at) = a;
    *(block32 *)(to + at + 32) = b;
  }
  if (at < length) {
    block32 a = *(const block32 *)(from + length - 64), b = *(const block32 *)(from + length - 32);
    *(block32 *)(to + length - 64) = a;
    *(block32 *)(to + length - 32) = b;
  }
}

INLINE void copy_row(uint8_t *to, const uint8_t *from, size_t length) {
  if (length <= 32)
    copy_upto_32(to, from, length);
  else if (length <= 64)
    COPY_BLOCKS(1);
  else if (length <= 128)
    COPY_BLOCKS(2);
  else if (length <= 256)
    COPY_BLOCKS(4);
  else
    memcpy(to, from, length);
}

// Towards zero. What no int64_t can hold, NaN included, becomes a value that fails the range checks below.
INLINE uint64_t whole(double number) {
#if defined(__x86_64__)
  return (uint64_t)__builtin_ia32_cvttsd2si64((__attribute__((vector_size(16))) double){number, 0});
#else
  return number >= 0 && number < USER_SPACE ? (uint64_t)number : UINT64_MAX;
#endif
}

// Unchecked: a prefetch of a wrong address does nothing.
INLINE void prefetch_row(const double *row) {
  const char *to = (const char *)whole(row[0]), *from = (const char *)whole(row[1]);
  __builtin_prefetch(from);
  prefetch_store(to);
  if (row[2] > LINE) {
    __builtin_prefetch(from + LINE);
    prefetch_store(to + LINE);
  }
  if (row[2] > 2 * LINE) {
    __builtin_prefetch(from + 2 * LINE);
    __builtin_prefetch(from + 3 * LINE);
    prefetch_store(to + 2 * LINE);
    prefetch_store(to + 3 * LINE);
  }
}

INLINE int32_t copy_rows_body(const double *rows, uint32_t count) {
  int32_t skipped = 0;
  uint32_t first = count < AHEAD ? count : AHEAD;
  for (uint32_t i = 0; i < first; i++) prefetch_row(rows + 3 * (size_t)i);
  for (uint32_t i = 0; i < count; i++) {
    const double *row = rows + 3 * (size_t)i;
    if (i + AHEAD < count) prefetch_row(row + 3 * AHEAD);
    uint64_t to = whole(row[0]), from = whole(row[1]), length = whole(row[2]);
    if (length > MAX_ROW || to - LOWEST_ADDRESS >= ADDRESSES || from - LOWEST_ADDRESS >= ADDRESSES) {
      skipped++;
      continue;
    }
    if (length > LONG) {
      const double *next = i + 1 < count ? row + 3 : row;
      double bytes = next == row ? 0 : next[2];
      size_t lines = bytes > LONG && bytes <= MAX_ROW ? ((size_t)bytes + LINE - 1) / LINE : 0;
      copy_long((uint8_t *)to, (const uint8_t *)from, length, (const char *)whole(next[0]), (const char *)whole(next[1]), lines);
    } else {
      copy_row((uint8_t *)to, (const uint8_t *)from, length);
    }
  }
  return skipped;
}

static int32_t copy_rows_base(const double *rows, uint32_t count) { return copy_rows_body(rows, count); }

static int32_t (*copy_all)(const double *, uint32_t) = copy_rows_base;

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int32_t copy_rows_avx2(const double *rows, uint32_t count) {
  return copy_rows_body(rows, count);
}

void copy_select(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) copy_all = copy_rows_avx2;
}
#else
void copy_select(void) {}
#endif

// copyRows(rows, count): rows skipped.
static napi_value copy_rows(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  double *rows;
  size_t length;
  int64_t count;
  if (!get_args(env, info, 2, argv) || !get_doubles(env, argv[0], "rows", &rows, &length) ||
      !get_int(env, argv[1], "count", 0, (int64_t)(length / 3), &count))
    return NULL;
  return make_int(env, copy_all(rows, (uint32_t)count));
}

// copyContext(rows): handle, or -errno. The array is kept alive with the environment.
static napi_value copy_context(napi_env env, napi_callback_info info) {
  napi_value argv[1];
  double *rows;
  size_t length;
  struct instance *instance = instance_of(env);
  if (!instance || !get_args(env, info, 1, argv) || !get_doubles(env, argv[0], "rows", &rows, &length)) return NULL;
  void *base;
  size_t mapped;
  if (!guard_find(rows, &base, &mapped)) return make_int(env, -EINVAL);
  if (instance->copy_count == MAX_COPY_CONTEXTS) return make_int(env, -ENOSPC);
  struct copy_context *context = &instance->copies[instance->copy_count];
  if (napi_create_reference(env, argv[0], 1, &context->keep) != napi_ok) return make_int(env, -ENOMEM);
  context->rows = rows;
  context->capacity = length / 3 > UINT32_MAX ? UINT32_MAX : (uint32_t)(length / 3);
  return make_int(env, instance->copy_count++);
}

// copyRun(handle, count): rows skipped, or -EINVAL for a handle or count out of range.
static napi_value copy_run(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t given = 2;
  int32_t handle = -1, count = -1;
  struct instance *instance = instance_of(env);
  if (!instance || napi_get_cb_info(env, info, &given, argv, NULL, NULL) != napi_ok ||
      napi_get_value_int32(env, argv[0], &handle) != napi_ok || napi_get_value_int32(env, argv[1], &count) != napi_ok ||
      (uint32_t)handle >= instance->copy_count || (uint32_t)count > instance->copies[handle].capacity)
    return make_int(env, -EINVAL);
  return make_int(env, copy_all(instance->copies[handle].rows, (uint32_t)count));
}

const napi_property_descriptor copy_exports[] = {
    METHOD("copyRows", copy_rows),
    METHOD("copyContext", copy_context),
    METHOD("copyRun", copy_run),
    TABLE_END,
};
