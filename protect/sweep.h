/* SPDX-License-Identifier: MIT
 *
 * Where mappings have run out: those that nothing in flight needs. */
#ifndef ZC_PROTECT_SWEEP_H
#define ZC_PROTECT_SWEEP_H

/* Takes back what idle buffers and free slots have of the account of mappings. Looks at every slot there is, without
 * any lock of one. */
void sweep(void);

#endif
