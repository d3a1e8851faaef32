/* SPDX-License-Identifier: MIT
 *
 * Part of libzc.so and libzc.a, not of the preload: shows it the pools of this library. */
#include "protect/preload.h"

ZC_API extern const struct preload *const zc_preload;
const struct preload *const zc_preload = &preload;
