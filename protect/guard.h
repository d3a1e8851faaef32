/* SPDX-License-Identifier: MIT
 *
 * The application's own holds: guards and pins, and how conflicts with them are handled. */
#ifndef ZC_PROTECT_GUARD_H
#define ZC_PROTECT_GUARD_H

#include "protect/hold.h"

const struct hold_rules *guard_rules(void);

#endif
