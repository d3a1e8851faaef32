/* SPDX-License-Identifier: MIT
 *
 * What is set up once a process. */
#ifndef ZC_PROTECT_OPEN_H
#define ZC_PROTECT_OPEN_H

/* What pools need to know of protection: arena, options, limits. 0 or -errno with a message. */
int protect_prepare(void);

/* The same with all that protecting needs: costs, handler. */
int protect_open(void);

#endif
