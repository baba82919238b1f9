// Registration: exports the tables of all topics and keeps one `struct instance` per environment.
#include "common.h"

#include <stdlib.h>

const napi_property_descriptor *const export_tables[] = {
    socket_exports, memory_exports, fault_exports, event_exports, watcher_exports, thread_exports, copy_exports, xdp_exports,
    kernel_exports, frames_exports, userfault_exports, NULL,
};

struct instance *instance_of(napi_env env) {
  void *data = NULL;
  return napi_get_instance_data(env, &data) == napi_ok ? data : NULL;
}

// Runs after all cleanup hooks: the reactor has been closed by then.
static void free_instance(napi_env env, void *data, void *hint) {
  (void)hint;
  struct instance *instance = data;
  for (uint32_t i = 0; i < instance->copy_count; i++) napi_delete_reference(env, instance->copies[i].keep);
  if (instance->tsc_view) napi_delete_reference(env, instance->tsc_view);
  free(instance);
}

NAPI_MODULE_INIT() {
  int error = guard_install();
  if (error) {
    napi_throw_error(env, "ERR_SIGBUS_GUARD", "cannot install the SIGBUS guard");
    return NULL;
  }
  copy_select();
  clock_start();
  struct instance *instance = calloc(1, sizeof *instance);
  if (!instance || napi_set_instance_data(env, instance, free_instance, NULL) != napi_ok) {
    free(instance);
    napi_throw_error(env, "ENOMEM", "cannot create the addon's instance data");
    return NULL;
  }
  for (const napi_property_descriptor *const *table = export_tables; *table; table++) {
    size_t count = 0;
    while ((*table)[count].utf8name) count++;
    if (napi_define_properties(env, exports, count, *table) != napi_ok) return NULL;
  }
  return exports;
}
