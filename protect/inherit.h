/* SPDX-License-Identifier: MIT
 *
 * A forked child's copy of the live buffers, for programs that do not know that their memory is zc's (the malloc
 * preload). Without it a child inherits nothing.
 *
 * Shared pages would not do, since parent and child each store to memory that it takes for its own. So the parent
 * copies what is live into private memory before it forks, and the child moves that to where the buffers were. What
 * comes of it is ordinary memory: nothing is in flight from it, and later children share it as any other. */
#ifndef ZC_PROTECT_INHERIT_H
#define ZC_PROTECT_INHERIT_H

/* From now on children inherit the live buffers, but not those that are being received into. */
void inherit_open(void);

/* Handlers for pthread_atfork, which do nothing before. Registered before all others, so that the copy is made after
 * those have taken their locks, and is there when they release them in the child. */
void inherit_prepare(void);
void inherit_parent(void);
void inherit_child(void);

#endif
