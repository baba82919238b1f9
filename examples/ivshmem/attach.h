/* How the examples name what they attach to. SPDX-License-Identifier: Apache-2.0 */
#ifndef RWI_ATTACH_H
#define RWI_ATTACH_H

#include <dirent.h>
#include <stdlib.h>

#include "ringway_ivshmem.h"

#define ATTACH_USAGE                                                                  \
  "  socket:PATH        the port's server socket (containers)\n"                      \
  "  file:PATH[,PORT]   the file behind the pool; PORT: name of the switch's port\n" \
  "  pci[:BDF][,PORT]   the ivshmem device of this virtual machine, e.g. pci:0000:00:04.0\n"

static inline int holds(const char *folder, const char *file, const char *text) {
  char path[512], line[32] = "";
  snprintf(path, sizeof path, "%s/%s", folder, file);
  FILE *stream = fopen(path, "re");
  if (!stream) return 0;
  int same = fgets(line, sizeof line, stream) && strncmp(line, text, strlen(text)) == 0;
  fclose(stream);
  return same;
}

/* Address of the first ivshmem device (PCI 1af4:1110). 0 or -ENODEV. */
static inline int find_device(char bdf[32]) {
  DIR *all = opendir("/sys/bus/pci/devices");
  struct dirent *entry;
  int found = -ENODEV;
  while (all && found < 0 && (entry = readdir(all))) {
    char folder[300];
    snprintf(folder, sizeof folder, "/sys/bus/pci/devices/%s", entry->d_name);
    if (entry->d_name[0] == '.' || !holds(folder, "vendor", "0x1af4") || !holds(folder, "device", "0x1110")) continue;
    snprintf(bdf, 32, "%.31s", entry->d_name);
    found = 0;
  }
  if (all) closedir(all);
  return found;
}

/* The switch's port that `where` names, or NULL. */
static inline const char *port_named(const char *where) {
  const char *comma = strncmp(where, "socket:", 7) == 0 ? NULL : strchr(where, ',');
  return comma ? comma + 1 : NULL;
}

/* Attaches to and joins what `where` names. 0 or -errno. */
static inline int attach_and_join(const char *where, struct rwi_device *device, struct rwi_port *port, const char *name) {
  char text[256], bdf[32];
  int error = -EINVAL;
  if (strlen(where) >= sizeof text) return -ENAMETOOLONG;
  snprintf(text, sizeof text, "%s", where);
  const char *port_name = port_named(where);
  if (port_name) text[strlen(text) - strlen(port_name) - 1] = 0;
  rwi_device_clear(device);
  if (strncmp(text, "socket:", 7) == 0) {
    error = rwi_attach_socket(device, text + 7);
  } else if (strncmp(text, "file:", 5) == 0) {
    error = rwi_attach_file(device, text + 5);
  } else if (strncmp(text, "pci:", 4) == 0) {
    error = rwi_attach_pci(device, text + 4);
  } else if (strcmp(text, "pci") == 0) {
    error = find_device(bdf);
    if (error == 0) error = rwi_attach_pci(device, bdf);
  }
  if (error < 0) return error;
  error = rwi_join(port, device, port_name, name, 10000);
  if (error < 0) rwi_detach(device);
  return error;
}

/* As above, or the program ends with a message. */
static inline void must_attach(const char *where, struct rwi_device *device, struct rwi_port *port, const char *name) {
  int error = attach_and_join(where, device, port, name);
  if (error == 0) return;
  fprintf(stderr, "cannot attach to %s: %s\n", where, strerror(-error));
  exit(2);
}

/* After -ESTALE or -EPIPE: joins anew or, where the switch itself went away, attaches anew, for as long as it takes. */
static inline void attach_again(const char *where, struct rwi_device *device, struct rwi_port *port, const char *name) {
  int gone = device->way == RWI_SOCKET && rwi_server_news(device) < 0;
  /* The memory of a device stays what it was: there is nothing to attach anew. */
  int fixed = device->way == RWI_VFIO || device->way == RWI_SYSFS;
  while (!gone) {
    if (rwi_join(port, device, port_named(where), name, 1000) == 0) return;
    if (!fixed) break;
  }
  rwi_detach(device);
  while (attach_and_join(where, device, port, name) < 0) rwi_nap(100000);
}

/* Counts a heart-beat when a second has passed: without a server that is all by which the switch knows that we live. 0 or -EPIPE. */
static inline int beat(struct rwi_port *port) {
  static time_t last;
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  if (time.tv_sec == last) return 0;
  last = time.tv_sec;
  return rwi_heartbeat(port);
}

#endif
