/* SPDX-License-Identifier: MIT */
#include "transport/verbs_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/thread.h"

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static struct device *devices; /* open ones */

static const char *device_name(const struct device *device)
{
    return ibv_get_device_name(device->context->device);
}

/* ---- devices ---- */

/* A child that kept a device open would hide its parent's death: the connections end when nobody has it open. */
static void close_in_child(void)
{
    for (struct device *device = devices; device; device = device->next) {
        close(device->context->cmd_fd);
        close(device->context->async_fd);
    }
    devices = NULL;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

void device_hide_mappings(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        char *dash;
        uintptr_t start = strtoul(line, &dash, 16);
        if (strstr(line, "/dev/infiniband/uverbs"))
            sys_madvise((void *)start, strtoul(dash + 1, NULL, 16) - start, MADV_DONTFORK);
    }
    if (maps)
        fclose(maps);
}

static int device_new(struct ibv_device *which, bool optional, struct device **out)
{
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return fail(-ENOMEM, "zc_open: no memory");
    const char *name = ibv_get_device_name(which);
    int error = 0;
    device->context = ibv_open_device(which);
    if (!device->context)
        error = fail(-errno, "zc_open: the device %s cannot be opened: %s (may this process use /dev/infiniband?)",
                     name, error_text(errno));
    if (!error && (error = -ibv_query_device(device->context, &device->attributes)))
        error_say("zc_open: the device %s cannot be asked what it is: %s", name, error_text(-error));
    if (!error && !(device->pd = ibv_alloc_pd(device->context)))
        error = fail(-errno, "zc_open: the device %s gives no protection domain: %s", name, error_text(errno));
    if (!error)
        error =
            memory_open(&device->memory, device->pd, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ, false, optional);
    if (!error) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        thread_once(&once, watch_forks);
        device->users = 1;
        device->next = devices;
        *out = devices = device;
        return 0;
    }
    if (device->pd)
        ibv_dealloc_pd(device->pd);
    if (device->context)
        ibv_close_device(device->context);
    free(device);
    return error;
}

/* The device is open already, or is opened. */
static int device_get(struct ibv_device *which, bool optional, struct device **out)
{
    int error = 0;
    pthread_mutex_lock(&devices_lock);
    struct device *device = devices;
    while (device && strcmp(device_name(device), ibv_get_device_name(which)) != 0)
        device = device->next;
    if (device) {
        device->users++;
        device->memory.optional |= optional;
        *out = device;
    } else {
        error = device_new(which, optional, out);
    }
    pthread_mutex_unlock(&devices_lock);
    return error;
}

static void device_put(struct device *device)
{
    pthread_mutex_lock(&devices_lock);
    if (--device->users == 0) {
        struct device **link = &devices;
        while (*link != device)
            link = &(*link)->next;
        *link = device->next;
        memory_close(&device->memory);
        ibv_dealloc_pd(device->pd);
        ibv_close_device(device->context);
        free(device);
    }
    pthread_mutex_unlock(&devices_lock);
}

/* ---- ports and their addresses ---- */

static bool is_ipv4(const union ibv_gid *gid)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(gid->raw, mapped, sizeof mapped) == 0;
}

static bool is_link_local(const union ibv_gid *gid)
{
    return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

/* How much a GID is to be preferred; 0: it cannot be used. */
static int rank_gid(const struct ibv_gid_entry *entry, bool ethernet)
{
    if (entry->gid_type != (ethernet ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_IB))
        return 0;
    return is_ipv4(&entry->gid) ? 3 : is_link_local(&entry->gid) ? 1 : 2;
}

/* `wanted` < 0: the best there is. */
static int choose_gid(struct port *port, int wanted)
{
    bool ethernet = port->attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
    int best = 0;
    for (int i = 0; i < port->attributes.gid_tbl_len && i <= UINT8_MAX; i++) {
        struct ibv_gid_entry entry;
        if ((wanted >= 0 && i != wanted) ||
            ibv_query_gid_ex(port->device->context, port->number, (uint32_t)i, &entry, 0) != 0)
            continue;
        int rank = rank_gid(&entry, ethernet);
        if (rank <= best)
            continue;
        best = rank;
        port->gid = entry.gid;
        port->gid_index = (uint8_t)i;
    }
    if (best)
        return 0;
    if (wanted >= 0)
        return fail(-ENODEV, "zc_open: %s has no GID %d of type %s (show_gids, or rdma link, lists them)",
                    device_name(port->device), wanted, ethernet ? "RoCE v2" : "InfiniBand");
    return fail(-ENODEV, "zc_open: port %d of %s has no GID of type %s: has its network interface an address?",
                port->number, device_name(port->device), ethernet ? "RoCE v2" : "InfiniBand");
}

static bool is_up(struct ibv_context *context, int number, struct ibv_port_attr *attributes)
{
    return ibv_query_port(context, (uint8_t)number, attributes) == 0 && attributes->state == IBV_PORT_ACTIVE;
}

/* `wanted` 0: the first that is up. */
static int choose_port(struct port *port, int wanted)
{
    int most = port->device->attributes.phys_port_cnt;
    if (wanted > most)
        return fail(-ENODEV, "zc_open: %s has no port %d; it has %d", device_name(port->device), wanted, most);
    for (int i = wanted ? wanted : 1; i <= (wanted ? wanted : most); i++) {
        if (is_up(port->device->context, i, &port->attributes)) {
            port->number = (uint8_t)i;
            return 0;
        }
    }
    return fail(-ENODEV, "zc_open: %s: %s is up (is its network interface up?)", device_name(port->device),
                wanted ? "that port is not one that" : "no port");
}

static int choose_mtu(struct port *port, uint64_t bytes)
{
    static const unsigned sizes[] = {
        [IBV_MTU_256] = 256, [IBV_MTU_512] = 512, [IBV_MTU_1024] = 1024, [IBV_MTU_2048] = 2048, [IBV_MTU_4096] = 4096};
    port->mtu = port->attributes.active_mtu;
    if (!bytes)
        return 0;
    for (enum ibv_mtu mtu = IBV_MTU_256; mtu <= port->attributes.active_mtu; mtu++)
        if (sizes[mtu] == bytes) {
            port->mtu = mtu;
            return 0;
        }
    return fail(-EINVAL, "zc_open: mtu=%llu: expected 256, 512, 1024, 2048 or 4096, and at most the %u of %s",
                (unsigned long long)bytes, sizes[port->attributes.active_mtu], device_name(port->device));
}

/* ---- what the address names ---- */

struct wishes {
    uint64_t port, gid, mtu;
    bool optional;
};

enum { ANY_GID = UINT8_MAX + 1 };

static int parse(const struct address *address, struct wishes *wishes)
{
    const char *unregistered = address_text(address, "unregistered", "");
    int error;
    if ((error = address_number(address, "port", 1, UINT8_MAX, 0, &wishes->port)) ||
        (error = address_number(address, "gid", 0, UINT8_MAX, ANY_GID, &wishes->gid)) ||
        (error = address_number(address, "mtu", 256, 4096, 0, &wishes->mtu)))
        return error;
    wishes->optional = strcmp(unregistered, "copy") == 0;
    if (*unregistered && !wishes->optional)
        return fail(-EINVAL, "zc_open: verbs: unregistered=%s, expected copy", unregistered);
    return 0;
}

static int port_try(struct ibv_device *which, const struct wishes *wishes, struct port *port)
{
    int error = device_get(which, wishes->optional, &port->device);
    if (error)
        return error;
    error = choose_port(port, (int)wishes->port);
    if (!error)
        error = choose_gid(port, wishes->gid == ANY_GID ? -1 : (int)wishes->gid);
    if (!error)
        error = choose_mtu(port, wishes->mtu);
    if (error)
        port_close(port);
    return error;
}

static int no_device(const char *wanted, struct ibv_device **list, int count)
{
    char names[200] = "";
    for (int i = 0; list && i < count && strlen(names) + 40 < sizeof names; i++) {
        strcat(names, " ");
        strncat(names, ibv_get_device_name(list[i]), 32);
    }
    if (count)
        return fail(-ENODEV, "zc_open: there is no RDMA device %s; there are:%s", wanted, names);
    return fail(-ENODEV,
                "zc_open: there is no RDMA device here. ibv_devices lists them; `rdma link add NAME type rxe netdev "
                "INTERFACE` makes one of a network interface (kernel module rdma_rxe)");
}

int port_open(const struct address *address, struct port *port)
{
    struct wishes wishes;
    int count = 0, error = parse(address, &wishes);
    if (error)
        return error;
    /* Pinned pages and fork(2) do not go together on old kernels; does nothing on others. */
    ibv_fork_init();
    struct ibv_device **list = ibv_get_device_list(&count);
    error = -ENODEV;
    bool tried = false;
    for (int i = 0; list && i < count && error; i++) {
        if (*address->name && strcmp(address->name, ibv_get_device_name(list[i])) != 0)
            continue;
        tried = true;
        error = port_try(list[i], &wishes, port);
        if (error == -ENOMEM || error == -EINVAL)
            break; /* another device will not do better */
    }
    if (!tried)
        error = no_device(address->name, list, count);
    if (list)
        ibv_free_device_list(list);
    return error;
}

void port_close(struct port *port)
{
    if (port->device)
        device_put(port->device);
    port->device = NULL;
}
