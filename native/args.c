// Argument checks: every value from JavaScript passes through one of these before C uses it.
#include "common.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool bad_type(napi_env env, const char *name, const char *wanted) {
  char message[160];
  snprintf(message, sizeof message, "%s must be %s", name, wanted);
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
  return false;
}

napi_value throw_range(napi_env env, const char *name, const char *problem) {
  char message[200];
  snprintf(message, sizeof message, "%s %s", name, problem);
  napi_throw_range_error(env, "ERR_OUT_OF_RANGE", message);
  return NULL;
}

bool get_args(napi_env env, napi_callback_info info, size_t count, napi_value *argv) {
  // Node fills missing arguments with undefined, which every getter below refuses.
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, argv, NULL, NULL) == napi_ok) return true;
  napi_throw_error(env, NULL, "cannot read arguments");
  return false;
}

bool get_int(napi_env env, napi_value value, const char *name, int64_t low, int64_t high, int64_t *out) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) return bad_type(env, name, "a number");
  if (!(number >= -MAX_SAFE_INTEGER && number <= MAX_SAFE_INTEGER) || number != trunc(number) ||
      (int64_t)number < low || (int64_t)number > high) {
    char problem[120];
    snprintf(problem, sizeof problem, "must be an integer from %lld to %lld, not %g", (long long)low, (long long)high,
             number);
    throw_range(env, name, problem);
    return false;
  }
  *out = (int64_t)number;
  return true;
}

bool get_fd(napi_env env, napi_value value, int *out) {
  int64_t fd;
  if (!get_int(env, value, "fd", 0, INT32_MAX, &fd)) return false;
  *out = (int)fd;
  return true;
}

bool get_flag(napi_env env, napi_value value, const char *name, bool *out) {
  return napi_get_value_bool(env, value, out) == napi_ok || bad_type(env, name, "a boolean");
}

bool get_string(napi_env env, napi_value value, const char *name, char *out, size_t capacity) {
  size_t length, copied;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) return bad_type(env, name, "a string");
  if (length >= capacity) {
    char problem[80];
    snprintf(problem, sizeof problem, "must be at most %zu bytes, not %zu", capacity - 1, length);
    throw_range(env, name, problem);
    return false;
  }
  if (napi_get_value_string_utf8(env, value, out, capacity, &copied) != napi_ok) return bad_type(env, name, "a string");
  if (strlen(out) != copied) {
    throw_range(env, name, "must not contain a NUL byte");
    return false;
  }
  return true;
}

static bool get_typed(napi_env env, napi_value value, const char *name, napi_typedarray_type want, const char *wanted,
                      void **data, size_t *length) {
  bool is_typed = false;
  napi_typedarray_type type;
  if (napi_is_typedarray(env, value, &is_typed) != napi_ok || !is_typed ||
      napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) != napi_ok || type != want)
    return bad_type(env, name, wanted);
  return true;
}

bool get_bytes(napi_env env, napi_value value, const char *name, uint8_t **data, size_t *length) {
  return get_typed(env, value, name, napi_uint8_array, "a Uint8Array", (void **)data, length);
}

bool get_int32s(napi_env env, napi_value value, const char *name, int32_t **data, size_t *length) {
  return get_typed(env, value, name, napi_int32_array, "an Int32Array", (void **)data, length);
}

bool get_doubles(napi_env env, napi_value value, const char *name, double **data, size_t *length) {
  return get_typed(env, value, name, napi_float64_array, "a Float64Array", (void **)data, length);
}

bool is_nullish(napi_env env, napi_value value) {
  napi_valuetype type;
  return napi_typeof(env, value, &type) == napi_ok && (type == napi_null || type == napi_undefined);
}

napi_value make_int(napi_env env, int64_t number) {
  napi_value value = NULL;
  if (number >= INT32_MIN && number <= INT32_MAX)
    napi_create_int32(env, (int32_t)number, &value);
  else
    napi_create_int64(env, number, &value);
  return value;
}

napi_value make_double(napi_env env, double number) {
  napi_value value = NULL;
  napi_create_double(env, number, &value);
  return value;
}

napi_value make_result(napi_env env, int64_t result) { return make_int(env, result < 0 ? -errno : result); }
