// The SIGBUS guard, and the registry of live maps that it reads.
//
// A peer may truncate the file behind memory that it shared. The next access to a page past the new end raises SIGBUS in
// the accessing thread, be it in JIT code, in the interpreter or in memcpy. The handler puts a private zero page under the
// address and returns, so that the access is repeated and succeeds; it counts the fault for the map's owner and bumps one
// process-wide word that hot loops read as an ordinary typed-array element.
//
// Who writes a slot: the thread that creates, releases or finalizes the map; `faults` also the handler and takeFaults().
// Who reads it: the handler, on any thread, at any moment. `base` publishes the slot (release) and is read again after the
// other fields: a changed base means that the slot was reused meanwhile. The slot of the map that faulted cannot change
// under the handler, as its owner is the thread that is faulting, or keeps the map alive for it.
#include "common.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define SLOTS 4096
// After so many single pages the rest of the map is replaced in one go: a peer must not be able to spend the process's
// limit of memory areas (vm.max_map_count), nor a fault per page of a large region.
#define SINGLE_PAGES 16
// Unpublished values of `base`; no map starts there.
#define BASE_FREE 0
#define BASE_CLAIMED 1
#define BASE_GONE 2  // finalized, its last faults not yet taken

struct slot {
  _Atomic uintptr_t base;
  _Atomic size_t length;
  _Atomic size_t page_size;
  _Atomic int32_t owner;
  _Atomic uint32_t faults;  // since the last take
  _Atomic uint32_t pages;   // single pages replaced in this map
};

static struct slot slots[SLOTS];
static _Atomic int used_slots;  // no slot at or above this index was ever used
static _Alignas(4096) _Atomic int32_t fault_word[1024];
static struct sigaction earlier;
static atomic_int installed;

int guard_register(void *base, size_t length, size_t page_size, int32_t owner) {
  for (int i = 0; i < SLOTS; i++) {
    struct slot *slot = &slots[i];
    uintptr_t expected = BASE_FREE;
    if (!atomic_compare_exchange_strong(&slot->base, &expected, BASE_CLAIMED)) continue;
    atomic_store(&slot->length, length);
    atomic_store(&slot->page_size, page_size);
    atomic_store(&slot->owner, owner);
    atomic_store(&slot->faults, 0);
    atomic_store(&slot->pages, 0);
    int seen = atomic_load(&used_slots);
    while (seen <= i && !atomic_compare_exchange_weak(&used_slots, &seen, i + 1)) continue;
    atomic_store_explicit(&slot->base, (uintptr_t)base, memory_order_release);
    return i;
  }
  return -ENFILE;
}

void guard_unregister(int index, const void *base) {
  struct slot *slot = &slots[index];
  // Released before, the slot may be another map's by now; no two live ranges have the same start.
  if (atomic_load(&slot->base) != (uintptr_t)base) return;
  atomic_store(&slot->base, atomic_load(&slot->faults) ? BASE_GONE : BASE_FREE);
}

void guard_release(const void *base) {
  int count = atomic_load_explicit(&used_slots, memory_order_acquire);
  for (int i = 0; i < count; i++) guard_unregister(i, base);
}

static struct slot *find(uintptr_t address, uintptr_t *base, size_t *length) {
  int count = atomic_load_explicit(&used_slots, memory_order_acquire);
  for (int i = 0; i < count; i++) {
    uintptr_t start = atomic_load_explicit(&slots[i].base, memory_order_acquire);
    size_t size = atomic_load_explicit(&slots[i].length, memory_order_acquire);
    if (start <= BASE_GONE || address < start || address - start >= size) continue;
    if (atomic_load_explicit(&slots[i].base, memory_order_acquire) != start) continue;
    *base = start;
    *length = size;
    return &slots[i];
  }
  return NULL;
}

bool guard_find(const void *address, void **base, size_t *length) {
  uintptr_t start;
  if (!find((uintptr_t)address, &start, length)) return false;
  *base = (void *)start;
  return true;
}

static bool replace_page(uintptr_t address) {
  uintptr_t base;
  size_t length;
  struct slot *slot = find(address, &base, &length);
  if (!slot) return false;
  size_t page = atomic_load(&slot->page_size);
  uintptr_t start = address & ~(uintptr_t)(page - 1);
  size_t size = atomic_fetch_add(&slot->pages, 1) < SINGLE_PAGES ? page : base + length - start;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap((void *)start, size, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return false;
  atomic_fetch_add(&slot->faults, 1);
  atomic_fetch_add(&fault_word[0], 1);
  return true;
}

// A fault that is not ours goes where it would have gone without the guard.
static void pass_on(int number, siginfo_t *info, void *context) {
  if (earlier.sa_flags & SA_SIGINFO) {
    earlier.sa_sigaction(number, info, context);
  } else if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN) {
    earlier.sa_handler(number);
  } else if (info->si_code > 0) {
    // The access is repeated on return and then ends the process with the signal's own status.
    signal(number, SIG_DFL);
  } else if (earlier.sa_handler == SIG_DFL) {
    signal(number, SIG_DFL);
    raise(number);
  }
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
  int saved = errno;
  // si_code > 0: raised by the kernel for an access, so that si_addr is an address and not a sender's pid.
  if (info->si_code <= 0 || !replace_page((uintptr_t)info->si_addr)) pass_on(number, info, context);
  errno = saved;
}

int guard_install(void) {
  if (atomic_exchange(&installed, 1)) return 0;
  struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &earlier) == 0) return 0;
  atomic_store(&installed, 0);
  return -errno;
}

static napi_value get_fault_word(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value buffer, view;
  // Static memory, never freed: no finalizer.
  if (napi_create_external_arraybuffer(env, fault_word, sizeof fault_word, NULL, NULL, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_int32_array, 1, buffer, 0, &view) != napi_ok) {
    napi_throw_error(env, NULL, "cannot create the fault word's view");
    return NULL;
  }
  return view;
}

// [owner, faults, owner, faults, ...] of all maps with faults since the last call, which any thread may make.
static napi_value take_faults(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value list;
  if (napi_create_array(env, &list) != napi_ok) return NULL;
  uint32_t next = 0;
  int count = atomic_load(&used_slots);
  for (int i = 0; i < count; i++) {
    struct slot *slot = &slots[i];
    if (atomic_load(&slot->faults) == 0) continue;
    int32_t owner = atomic_load(&slot->owner);
    uint32_t faults = atomic_exchange(&slot->faults, 0);
    uintptr_t gone = BASE_GONE;
    atomic_compare_exchange_strong(&slot->base, &gone, BASE_FREE);
    if (faults == 0) continue;
    if (napi_set_element(env, list, next++, make_int(env, owner)) != napi_ok ||
        napi_set_element(env, list, next++, make_int(env, faults)) != napi_ok)
      return NULL;
  }
  return list;
}

const napi_property_descriptor fault_exports[] = {
    METHOD("getFaultWord", get_fault_word),
    METHOD("takeFaults", take_faults),
    TABLE_END,
};
