/* SPDX-License-Identifier: MIT
 *
 * The device and the port of it that an address names. Endpoints of a process share what a device has once: its
 * context, one protection domain, and the memory regions of segments. */
#ifndef ZC_TRANSPORT_VERBS_DEVICE_H
#define ZC_TRANSPORT_VERBS_DEVICE_H

#include <infiniband/verbs.h>

#include "transport/address.h"
#include "transport/verbs_memory.h"

struct device {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_device_attr attributes;
    struct memory memory;
    int users;
    struct device *next;
};

struct port {
    struct device *device;
    uint8_t number;
    uint8_t gid_index;
    union ibv_gid gid;
    enum ibv_mtu mtu;
    struct ibv_port_attr attributes;
};

/* Opens what "verbs:DEVICE?port=P&gid=I&mtu=M&unregistered=copy" names; what it leaves open is chosen: the first
 * device with a port that is up, its first such port, a GID of RoCE v2 with an IPv4 address if there is one, the
 * port's MTU.
 *   -ENODEV  there is no such device, no port of it is up, or it has no such GID
 *   -EINVAL  a parameter;  -ENOMEM  what is mapped already cannot be registered; or another error of the device */
int port_open(const struct address *address, struct port *port);
void port_close(struct port *port);

/* Hides what is mapped of devices by now, queues and doorbells, from children: each mapping keeps the device open. */
void device_hide_mappings(void);

#endif
