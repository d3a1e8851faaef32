/* SPDX-License-Identifier: MIT */
#include "core/sized.h"

#include <string.h>

#include "core/error.h"

enum { MOST = 4096 }; /* bytes: more were never initialised */

int sized_take(void *own, size_t size, const void *given, const char *call, const char *macro)
{
    size_t theirs = 0;
    if (given)
        memcpy(&theirs, given, sizeof theirs);
    if (theirs < sizeof theirs || theirs > MOST)
        return fail(-EINVAL, "%s: options of size %zu, expected %zu: start from %s", call, theirs, size, macro);
    for (size_t i = size; i < theirs; i++)
        if (((const char *)given)[i])
            return fail(-EINVAL, "%s: options of size %zu, and byte %zu is set: this zc knows %zu, is it older?", call,
                        theirs, i, size);
    memcpy(own, given, theirs < size ? theirs : size);
    return 0;
}
