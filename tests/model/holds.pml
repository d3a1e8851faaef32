/* SPDX-License-Identifier: MIT */
/*
 * holds.pml - the state machine of holds, faults and renames, as a Spin model
 *
 * What a slot shows, who holds it, who may touch it, and how a conflict ends.  Run `check` beside this file: it verifies every
 * scene below exhaustively, and then that each fault which can be switched on is found.
 *
 *   App(0), App(1)  application threads: store, load, send, receive, free; an access that the user mapping denies runs fault()
 *   Net             the transport and the peer: at any moment reads what is posted to be sent, fills what is posted to be received
 *   Reaper          reaps completions.  Each rank has two: the helper thread, at work while a thread of its rank sleeps in the
 *                   handler; and one that stands for the progress made by zc calls, at the latest when a thread has come to zc_close
 *   Monitor         stops the search as soon as an invariant breaks
 *
 * What is abstracted
 *   - A slot has two pages and three cells; a cell is a run of bytes.  Cells 0 and 1 are on page 0, cell 2 is on page 1.  So ranges can
 *     overlap, be disjoint on one page, or cover the slot.  Sets of cells and sets of pages are bit masks.
 *   - An operation is its own hold: op[i].hold says which kind, op[i].on where; going[], filling[] and landing[] sum them up.  The C
 *     code may count or chain holds instead.
 *   - The user mapping is maps[] (the backing that the page tables show) with ro[] and none[] (pages where stores, or all accesses,
 *     are denied).  The wire mapping is data[] itself: library code and Net use it and never ask ro[] and none[].
 *   - A critical section that changes the visible state once is one atomic step.  A rename has several visible steps and keeps its
 *     lock between them.
 *   - mprotect and remap are one step each.  The C code may remap run by run, as long as each run goes straight from its old
 *     protection to its final one (see rename).
 *   - A futex word is a counter that never wraps: "t has read the word of b" is watch[t] == b, "it has changed since" is stale[t].
 *   - Time and polling: a bounded sleep may end at any moment; the helper blocks until there is something to reap.  That it wakes
 *     when the first thread goes to sleep, and not to sleep before the last has woken, is taken for granted.
 *   - A bounce that finds no unreserved pair uses memory outside the pool (HEAP), which does not run out.
 *   - A backing that comes back is filled with JUNK, so that whoever shows or sends it is caught.
 *
 * Ghosts, known to the model and not to the C code: want[] is what a slot must show, op[].val what a message must be.
 *
 * Choices, by -D: SCENE (what the threads do), CONFLICT (AUTO, WAIT, COPY), SPARES (free pairs at the start), and one fault; `check`
 * lists them all.
 */

/* ---- scenes ---- */

#define TWO_SENDS	1	/* two sends that may overlap, two threads that store */
#define RESEND		2	/* send, store, send again, store again, while another thread stores to the other page */
#define SEND_RECV	3	/* a send, then a receive into the same slot (bounced), then stores and loads */
#define TWO_RECVS	4	/* a send, then two receives that may share a page */
#define RECV_SEND	5	/* a receive, then a send of the same slot: copied, or waiting for the bytes it needs */
#define TWO_RANKS	6	/* both ranks send, overwrite, and only then receive */
#define HALO		7	/* both ranks receive, store elsewhere in the slot, and only then send */
#define FREE_IN_FLIGHT	8	/* free with operations in flight, then allocate again */
#define OWN_MPI		9	/* the store happens inside the application's own MPI call, so that nobody can reap meanwhile */
#define STARVE		10	/* one thread sends for ever, the other wants to store once */

#ifndef SCENE
#define SCENE TWO_SENDS
#endif

/* ---- how a conflict with a send ends ---- */

#define AUTO	1		/* by renaming, after a bounded wait */
#define WAIT	2		/* never by renaming: as in the paper; can deadlock */
#define COPY	3		/* by renaming at once */

#ifdef WAIT_FOREVER
#define CONFLICT WAIT
#endif
#ifndef CONFLICT
#define CONFLICT AUTO
#endif

/* ---- sizes ---- */

#if SCENE == TWO_RANKS || SCENE == HALO
#define LIVE	2		/* slot r belongs to rank r, and so do operations r and r + 2 */
#define RANKS	2
#define rank_of_op(i)		((i) & 1)
#define rank_of_thread(t)	(t)
#else
#define LIVE	1
#define RANKS	1
#define rank_of_op(i)		0
#define rank_of_thread(t)	0
#endif
#ifndef SPARES
#define SPARES	2
#endif
#define SLOTS	(LIVE + SPARES)		/* the first are allocated at the start, the others are free pairs */
#define THREADS	2
#define OPS	4
#define CELLS	3

#define ALL	7		/* all cells */
#define WHOLE	3		/* all pages */
#define cell(c)		(1 << (c))
#define page_of(c)	(1 << ((c) >> 1))
#define pages(cells)	((((cells) | ((cells) >> 1)) & 1) | (((cells) >> 1) & 2))

#define NONE	15		/* no slot, no backing, no operation */
#define HEAP	14		/* memory outside the pool */
#define JUNK	99
#define LAST	99		/* past the end of a thread's program */
#define TURNS	6		/* the most that any access takes in any scene; the number matters little, that there is one does */

/* ---- state ---- */

mtype = { NOHOLD, READER, WRITER, LANDING };
	/* READER and WRITER hold a backing.  LANDING is a bounced receive: it denies every access as a writer does, but holds the slot,
	   and so stays with it through a rename. */
mtype = { NEW, POSTED, ARRIVED, REAPING, OVER };
mtype = { STORES, LOADS, SENDS, RECEIVES, FREES, ALLOCATES, PASSES, ENTERS_MPI, LEAVES_MPI, ENDS };

typedef operation {
	mtype kind;			/* SENDS or RECEIVES */
	mtype state = NEW;
	mtype hold = NOHOLD;
	byte on = NONE;			/* what it holds: a backing; a LANDING, a slot */
	byte buf = NONE;		/* what the transport reads or fills: a backing, or HEAP */
	byte cells;
	byte val[CELLS]			/* ghost; where buf is HEAP also the bytes themselves */
};
operation op[OPS];

/* slots */
byte backing[SLOTS];			/* the slot's word: the backing it is paired with */
bool live[SLOTS];			/* the application has it; one that is not live is pooled, or carries what is in flight */
bool pooled[SLOTS];			/* in the free list, together with its backing */
byte maps[SLOTS];
byte ro[SLOTS];
byte none[SLOTS];
byte landing[SLOTS];			/* cells that bounced receives will bring */
byte want[SLOTS * CELLS];

/* backings */
byte owner[SLOTS];			/* the slot it is paired with */
bool locked[SLOTS];
byte going[SLOTS];			/* cells under readers */
byte filling[SLOTS];			/* cells under writers */
bool reserved[SLOTS];			/* one free pair is kept for the rename that may be needed */
byte data[SLOTS * CELLS];

byte avail;				/* free pairs that nobody has reserved */

/* threads */
byte watch[THREADS] = NONE;
bool stale[THREADS];
byte wants[THREADS] = NONE;		/* the slot that the thread waits to write (rule 7) */
bool in_mpi;				/* a thread holds MPI's lock: nobody else reaps */

bool through[THREADS];			/* the thread has nothing left to post, to store or to load */
bool late_peer;				/* ghost: the peer receives nothing before our stores and loads are done */
bool progress;				/* ghost: some thread is always in a zc call, so that anything may be reaped at any moment */

/* Assertions have names, so that an error says which promise broke. */
hidden byte message_is_the_value_at_send = true;
hidden byte slot_shows_what_was_stored = true;
hidden byte protection_covers_holds = true;
hidden byte never_both_readers_and_writers = true;
hidden byte reserved_pairs_are_there = true;
hidden byte rename_finds_a_spare = true;
hidden byte returned_once = true;
hidden byte all_came_back = true;
hidden byte an_access_ends = true;
hidden byte x;				/* scratch within one atomic step */

#define coming(s, b)	(filling[b] | landing[s])	/* cells of slot s, which shows b, that are being received */
#define idle(b)		(going[b] == 0 && filling[b] == 0)
#define wanted(s)	(wants[0] == s || wants[1] == s)

#define may_load(s, c)	((none[s] & page_of(c)) == 0)
#define may_store(s, c)	(((none[s] | ro[s]) & page_of(c)) == 0)

/* ---- holds ---- */

inline take_hold(i, kind_of_hold, where)
{
	op[i].hold = kind_of_hold;
	op[i].on = where;
	if
	:: op[i].hold == READER -> going[where] = going[where] | op[i].cells
	:: op[i].hold == WRITER -> filling[where] = filling[where] | op[i].cells
	:: op[i].hold == LANDING -> landing[where] = landing[where] | op[i].cells
	fi
}

#define cells_if(i, h, w)	((op[i].hold == h && op[i].on == w) * op[i].cells)
#define held(h, w)		(cells_if(0, h, w) | cells_if(1, h, w) | cells_if(2, h, w) | cells_if(3, h, w))

/* What other holds cover stays covered. */
inline drop_hold(i)
{
	x = op[i].hold;
	op[i].hold = NOHOLD;
	if
	:: x == READER -> going[op[i].on] = held(READER, op[i].on)
	:: x == WRITER -> filling[op[i].on] = held(WRITER, op[i].on)
	:: x == LANDING -> landing[op[i].on] = held(LANDING, op[i].on)
	fi;
	op[i].on = NONE
}

/* ---- locks and futexes ---- */

/* The slot may be renamed after its word was read and before the lock is had: so look again.  Comes first in an atomic step, which
   gives the lock up at its end or keeps it for a rename. */
inline lock_slot(s, b)
{
	b = backing[s];
	do
	:: !locked[b] ->
#ifndef NO_RECHECK
		if
		:: backing[s] != b -> b = backing[s]
		:: else -> locked[b] = true; break
		fi
#else
		locked[b] = true; break
#endif
	od
}

inline unlock(b)
{
	locked[b] = false
}

/* Under the lock: whoever has read b's word will not sleep on it, or is woken. */
inline wake(b)
{
	stale[0] = stale[0] || watch[0] == b;
	stale[1] = stale[1] || watch[1] == b
}

/* ---- the pool ---- */

/* A free pair, for which the caller has a token. */
inline pop(k)
{
	k = 0;
	do
	:: k < SLOTS && !pooled[k] -> k++
	:: else -> break
	od;
	rename_finds_a_spare = k < SLOTS;
	assert(rename_finds_a_spare);
	pooled[k] = false
}

/* Nothing holds the pair and nobody can reach it.  In C this comes after the unlock, and the free list before avail: or else a token
   could be had for a pair that is not there yet. */
inline push(k)
{
	returned_once = !pooled[k] && !live[k];
	assert(returned_once);
	x = backing[k];
	data[x * CELLS] = JUNK; data[x * CELLS + 1] = JUNK; data[x * CELLS + 2] = JUNK;
	want[k * CELLS] = 0; want[k * CELLS + 1] = 0; want[k * CELLS + 2] = 0;
#ifndef NO_REMAP
	ro[k] = 0; none[k] = 0; maps[k] = NONE;		/* whatever it shows, alloc() maps it anew; this saves states */
#endif
	pooled[k] = true;
	avail++
}

inline give_back_token(b)
{
	if
	:: reserved[b] -> reserved[b] = false; avail++
	:: else
	fi
}

/* The pair (k, f) that was reserved when the first reader came. */
inline spend_token(b, k, f)
{
#ifdef NO_RESERVE
	rename_finds_a_spare = avail > 0;
	assert(rename_finds_a_spare);
	avail--;
#endif
	reserved[b] = false;
	pop(k);
	f = backing[k]
}

/* ---- bytes ---- */

inline copy_cell(to, from, which, n)
{
	if
	:: (which) & cell(n) -> data[to * CELLS + n] = data[from * CELLS + n]
	:: else
	fi
}

inline copy(to, from, these)
{
	copy_cell(to, from, these, 0);
	copy_cell(to, from, these, 1);
	copy_cell(to, from, these, 2)
}

inline copy_in_cell(b, i, n)
{
	if
	:: (op[i].cells & cell(n)) && op[i].buf == HEAP -> data[b * CELLS + n] = op[i].val[n]
	:: (op[i].cells & cell(n)) && op[i].buf != HEAP -> data[b * CELLS + n] = data[op[i].buf * CELLS + n]
	:: else
	fi
}

/* The bytes of the bounced receive i, into backing b; where b is the bounce itself they are there. */
inline copy_in(b, i)
{
	copy_in_cell(b, i, 0);
	copy_in_cell(b, i, 1);
	copy_in_cell(b, i, 2)
}

inline reveal_cell(s, i, n)
{
	if
	:: op[i].cells & cell(n) -> want[s * CELLS + n] = op[i].val[n]
	:: else
	fi
}

/* Receive i is over: the program sees in s what it brought. */
inline reveal(s, i)
{
	drop_hold(i);
	reveal_cell(s, i, 0);
	reveal_cell(s, i, 1);
	reveal_cell(s, i, 2)
}

/* ---- rename ---- */

/*
 * Slot s, which shows b, gets the backing f of pair (k, f); what is in flight keeps b, which k carries from now on.  b is locked on
 * entry and unlocked at the end.  i is the bounced receive that lands by this, or NONE.
 *
 * First every page is made read-only: other threads still store to pages that no hold covers, and what they store between the copy
 * and the remap would be lost.
 *
 * Pages that another bounced receive covers stay inaccessible throughout.  A remap from the wire mapping comes out read-write: such
 * runs have to be protected elsewhere and then moved into place.
 *
 * The slot's word is written last.  Who has read it before queues at b and looks again; were it written before the remap, a send
 * could protect f and the remap open it again.
 */
inline rename(s, b, k, f, i)
{
#ifndef NO_WHOLE_RO
	ro[s] = WHOLE;
#endif
	atomic {
		if
		:: i == NONE -> copy(f, b, ALL)
		:: else -> copy(f, b, ALL & ~op[i].cells); copy_in(f, i)
		fi
	};
#ifdef PUBLISH_FIRST
	atomic { backing[s] = f; owner[f] = s };
#endif
	atomic {
		if
		:: i != NONE -> reveal(s, i)
		:: else
		fi;
		maps[s] = f;
		ro[s] = 0;
#ifndef RENAME_SHOWS
		none[s] = pages(landing[s])
#else
		none[s] = 0
#endif
	};
	atomic {
		backing[s] = f; owner[f] = s;
		backing[k] = b; owner[b] = k;
		give_back_token(b);	/* b is shown no more and needs no rename; a no-op where this rename has spent it */
#ifndef RENAME_NO_WAKE
		wake(b);		/* who sleeps here for another landing has to sleep on f instead */
#endif
		unlock(b);
		if
		:: idle(b) -> push(k)
		:: else
		fi
	}
}

/* ---- faults ---- */

/* The word is read under the lock, before anything can change. */
inline will_sleep(b, has_bound)
{
	bounded = has_bound;
#ifndef LOST_WAKE
	watch[me] = b
#endif
}

/* After the unlock.  From here on the helper is awake. */
inline sleep(b)
{
#ifdef LOST_WAKE
	watch[me] = b;
#endif
	if
	:: atomic { stale[me] -> stale[me] = false; watch[me] = NONE }
	:: atomic { bounded && CONFLICT == AUTO -> late = true; stale[me] = false; watch[me] = NONE }
	fi
}

/* Every turn of a loop that waits is owed to somebody else's progress.  So there are few, and no access goes round for ever. */
inline count_turn()
{
#if SCENE != STARVE
	turns++;
	an_access_ends = turns <= TURNS;
	assert(an_access_ends)
#else
	skip
#endif
}

/*
 * The handler.  Returns when the access is worth another try.
 *
 * Rule 7: sends that come later than the fault are copied, even where the handler finds nothing to wait for, and until the store has
 * gone through.  The C code cannot see the latter; it has its history (a fault makes the next sends of the slot copies, twice as many
 * each time).  Only STARVE needs it: elsewhere the mark goes when the handler returns, which is the worse case.
 */
inline fault(s, c, stores)
{
	do
	:: atomic {
		lock_slot(s, b);
		count_turn();
#ifndef NO_RULE_7
		wants[me] = (stores -> s : NONE);
#endif
		if
		:: pages(coming(s, b)) & page_of(c) ->
			/* being received: wait for the landing, however long it takes */
			will_sleep(b, false);
			unlock(b)
		:: else ->
			if
			:: stores && (pages(going[b]) & page_of(c)) ->
				/* a conflict */
				if
				:: late || CONFLICT == COPY -> spend_token(b, k, f); break
				:: else -> will_sleep(b, true); unlock(b)
				fi
			:: else ->
				/* no hold denies this: open all pages that none covers */
				ro[s] = pages(going[b]);
				none[s] = pages(coming(s, b));
				unlock(b);
				break
			fi
		fi
	   };
	   sleep(b)
	od;
	if
	:: k != NONE -> rename(s, b, k, f, NONE)
	:: else
	fi;
	atomic {
#if SCENE != STARVE || defined(MARK_DROPPED)
		wants[me] = NONE;
#endif
		k = NONE; b = NONE; f = NONE; late = false; bounded = false
	}
}

/* What is seen is right whenever it can be seen, see Monitor: so a load only has to get through. */
inline touch(s, c, stores, v)
{
	do
	:: atomic {
		stores && may_store(s, c) ->
		data[maps[s] * CELLS + c] = v;
		want[s * CELLS + c] = v;
		wants[me] = NONE;
		break
	   }
	:: !stores && may_load(s, c) -> break
	:: (stores && !may_store(s, c)) || !may_load(s, c) -> fault(s, c, stores)
	od
}

/* ---- operations ---- */

#define value(s, cells, n)	((cells) & cell(n) -> want[s * CELLS + n] : 0)

inline send(s, these, i)
{
	do
	:: atomic {
		lock_slot(s, b);
		count_turn();
		if
		:: coming(s, b) & these ->
			/* sending what is still being received is a touch: it waits */
			will_sleep(b, false);
			unlock(b)
		:: else ->
			op[i].kind = SENDS;
			op[i].cells = these;
			op[i].val[0] = value(s, these, 0);
			op[i].val[1] = value(s, these, 1);
			op[i].val[2] = value(s, these, 2);
			if
#ifndef NO_RULE_2
			:: coming(s, b) == 0 && !wanted(s) && (reserved[b] || avail > 0) ->
#else
			:: !wanted(s) && (reserved[b] || avail > 0) ->
#endif
				/* protect; idle-protected pages are read-only already */
				ro[s] = ro[s] | pages(these);
#ifndef NO_RESERVE
				avail = (reserved[b] -> avail : avail - 1);
				reserved[b] = true;
#endif
				op[i].buf = b;
				take_hold(i, READER, b)
			:: else ->
				/* copy */
				if
				:: avail > 0 ->
					avail--;
					pop(k);
					f = backing[k];
					copy(f, b, these);
					op[i].buf = f;
					take_hold(i, READER, f);
					k = NONE; f = NONE
				:: else -> op[i].buf = HEAP
				fi
			fi;
			op[i].state = POSTED;
			unlock(b);
			b = NONE;
			break
		fi
	   };
	   sleep(b)
	od
}

/* v is what the peer sends. */
inline receive(s, these, i, v)
{
	atomic {
		lock_slot(s, b);
		assert((coming(s, b) & these) == 0);		/* -EBUSY; no scene does it */
		op[i].kind = RECEIVES;
		op[i].cells = these;
		op[i].val[0] = (these & 1 -> v : 0);
		op[i].val[1] = (these & 2 -> v : 0);
		op[i].val[2] = (these & 4 -> v : 0);
		none[s] = none[s] | pages(these);
		if
#ifndef NO_RULE_2
		:: going[b] ->
			if
			:: avail > 0 -> avail--; pop(k); op[i].buf = backing[k]; k = NONE
			:: else -> op[i].buf = HEAP
			fi;
			take_hold(i, LANDING, s)
#endif
		:: else ->
			op[i].buf = b;
			take_hold(i, WRITER, b)
		fi;
		op[i].state = POSTED;
		unlock(b);
		b = NONE
	}
}

inline free(s)
{
	atomic {
		lock_slot(s, b);
		live[s] = false;
#ifndef FREE_KEEPS_LANDING
		/* a bounced receive must forget the slot, which may soon be somebody else's */
		k = 0;
		do
		:: k < OPS && op[k].hold == LANDING && op[k].on == s -> drop_hold(k)
		:: k < OPS && !(op[k].hold == LANDING && op[k].on == s) -> k++
		:: k == OPS -> k = NONE; break
		od;
#endif
		unlock(b);
		if
		:: idle(b) -> push(s)
		:: else					/* the last hold will */
		fi;
		b = NONE
	}
}

inline alloc(s)
{
	atomic {
		if
		:: avail > 0 ->
			avail--;
			pop(s);
			live[s] = true;
#ifndef NO_REMAP
			maps[s] = backing[s]; ro[s] = 0; none[s] = 0;	/* it may have come back with another backing */
#endif
			want[s * CELLS] = JUNK; want[s * CELLS + 1] = JUNK; want[s * CELLS + 2] = JUNK
		:: else -> pc = LAST			/* nothing to be had: skip the rest */
		fi
	}
}

/* ---- completions ---- */

/* A hold on a backing ends. */
inline release(i)
{
	atomic {
		(op[i].hold == READER || op[i].hold == WRITER) && !locked[op[i].on] ->
		b = op[i].on;
		s = owner[b];
		if
		:: op[i].hold == WRITER && live[s] -> reveal(s, i)
		:: else -> drop_hold(i)
		fi;
		if
		:: live[s] ->
			/* rule 4: only the last hold that needs a page releases it */
#ifndef PAPER_BUG
			none[s] = pages(coming(s, b));
			if
			:: ro[s] = pages(going[b])
			:: true				/* or they stay as they are: idle-protected */
			fi;
#else
			none[s] = none[s] & ~pages(op[i].cells);
			ro[s] = ro[s] & ~pages(op[i].cells);
#endif
			if
			:: going[b] == 0 -> give_back_token(b)
			:: else
			fi
		:: !live[s] && idle(b) -> give_back_token(b); push(s)
		:: else
		fi;
		wake(b);
		op[i].state = OVER;
		b = NONE; s = NONE
	}
}

/* A bounced receive comes home.  Its slot is read in one step with the fact that it has one: free() may take it away. */
inline land(i)
{
	atomic {
		op[i].hold == LANDING ->
		s = op[i].on;
		lock_slot(s, b);
		if
		:: op[i].hold != LANDING -> unlock(b)		/* freed meanwhile */
#ifndef LAND_IN_PLACE
		:: op[i].hold == LANDING && op[i].buf != HEAP && (op[i].cells == ALL || (going[b] & op[i].cells)) ->
			f = op[i].buf; k = owner[f]		/* the bounce itself becomes the new backing */
		:: op[i].hold == LANDING && op[i].buf == HEAP && (going[b] & op[i].cells) ->
			spend_token(b, k, f)
#endif
		:: else ->
			copy_in(b, i);
			reveal(s, i);
			none[s] = pages(coming(s, b));
			wake(b);
			unlock(b)
		fi
	};
	if
	:: k != NONE -> rename(s, b, k, f, i)
	:: else
	fi;
	atomic {
		if
		:: op[i].buf != HEAP && op[i].buf != f -> s = owner[op[i].buf]; push(s)
		:: else
		fi;
		op[i].state = OVER;
		k = NONE; b = NONE; f = NONE; s = NONE
	}
}

inline complete(i)
{
	if
	:: release(i)
	:: land(i)
	:: atomic {
		op[i].hold == NOHOLD ->
		if
		:: op[i].buf != HEAP -> s = owner[op[i].buf]; push(s); s = NONE		/* a receive whose slot was freed */
		:: else
		fi;
		op[i].state = OVER
	   }
	fi;
	i = NONE
}

#define over(i)		(op[i].state == NEW || op[i].state == OVER)
#define ripe(i)		(op[i].state == ARRIVED && rank_of_op(i) == r && !in_mpi)

#define sleeps(t)	(watch[t] != NONE && rank_of_thread(t) == r)
#define waits(t)	(through[t] && rank_of_thread(t) == r)
#define at_work		(helper -> sleeps(0) || sleeps(1) : waits(0) || waits(1) || progress)

proctype Reaper(byte r; bool helper)
{
	byte i = NONE, s = NONE, b = NONE, k = NONE, f = NONE;
end:
	do
	:: atomic {
		at_work && (ripe(0) || ripe(1) || ripe(2) || ripe(3)) ->
		if
		:: ripe(0) -> i = 0
		:: ripe(1) -> i = 1
		:: ripe(2) -> i = 2
		:: ripe(3) -> i = 3
		fi;
		op[i].state = REAPING
	   };
	   complete(i)
	od
}

/* ---- the wire ---- */

#define is_right(i, n)	((op[i].cells & cell(n)) == 0 || op[i].buf == HEAP || data[op[i].buf * CELLS + n] == op[i].val[n])

inline read_message(i)
{
	message_is_the_value_at_send = is_right(i, 0) && is_right(i, 1) && is_right(i, 2);
	assert(message_is_the_value_at_send);
	op[i].state = ARRIVED
}

inline fill_cell(i, n)
{
	if
	:: (op[i].cells & cell(n)) && op[i].buf != HEAP -> data[op[i].buf * CELLS + n] = op[i].val[n]
	:: else
	fi
}

inline fill(i)
{
	fill_cell(i, 0);
	fill_cell(i, 1);
	fill_cell(i, 2);
	op[i].state = ARRIVED
}

#define sendable(i)	(op[i].state == POSTED && op[i].kind == SENDS && (!late_peer || (through[0] && through[1])))
#define fillable(i)	(op[i].state == POSTED && op[i].kind == RECEIVES)

proctype Net()
{
	byte i;
end:
	do
#if RANKS == 2			/* what rank 0 sends, rank 1 receives, and the other way round */
	:: atomic { sendable(0) && fillable(3) -> read_message(0); fill(3) }
	:: atomic { sendable(1) && fillable(2) -> read_message(1); fill(2) }
#else
	:: atomic {
		if
		:: sendable(0) -> i = 0
		:: sendable(1) -> i = 1
		:: sendable(2) -> i = 2
		:: sendable(3) -> i = 3
		fi;
		read_message(i);
		i = 0
	   }
	:: atomic {
		if
		:: fillable(1) -> i = 1
		:: fillable(2) -> i = 2
		fi;
		fill(i);
		i = 0
	   }
#endif
	od
}

/* ---- invariants ---- */

#define shows(s, n)	((coming(s, maps[s]) & cell(n)) || data[maps[s] * CELLS + n] == want[s * CELLS + n])
#define shows_right(s)	(!live[s] || (shows(s, 0) && shows(s, 1) && shows(s, 2)))
#define covered(s)	(!live[s] || ((pages(going[maps[s]]) & ~(ro[s] | none[s])) == 0 && \
				      (pages(coming(s, maps[s])) & ~none[s]) == 0))
#define not_both(b)	(going[b] == 0 || filling[b] == 0)
#if SLOTS == 4
#define every(P)	(P(0) && P(1) && P(2) && P(3))
#define count(a)	(a[0] + a[1] + a[2] + a[3])
#elif SLOTS == 3
#define every(P)	(P(0) && P(1) && P(2))
#define count(a)	(a[0] + a[1] + a[2])
#else
#define every(P)	(P(0) && P(1))
#define count(a)	(a[0] + a[1])
#endif

proctype Monitor()
{
end:
	if
	:: atomic { !every(shows_right) -> slot_shows_what_was_stored = false; assert(slot_shows_what_was_stored) }
#ifndef PAPER_BUG		/* let it go on, to see what comes of it */
	:: atomic { !every(covered) -> protection_covers_holds = false; assert(protection_covers_holds) }
#endif
	:: atomic { !every(not_both) -> never_both_readers_and_writers = false; assert(never_both_readers_and_writers) }
	:: atomic {
		count(pooled) < avail + count(reserved) ->
		reserved_pairs_are_there = false;
		assert(reserved_pairs_are_there)
	   }
	fi
}

/* ---- what the threads do ---- */

/* any run of cells */
inline some_range(r)
{
	if
	:: r = 1 :: r = 2 :: r = 4 :: r = 3 :: r = 6 :: r = 7
	fi
}

/* one page, the other, both */
inline some_pages(r)
{
	if
	:: r = 1 :: r = 4 :: r = 7
	fi
}

#define at(t, n)		me == t && pc == n ->
#define STORE(slot, where, val)	verb = STORES; s = slot; c = where; v = val
#define LOAD(slot, where)	verb = LOADS; s = slot; c = where
#define SEND(slot, cells, o)	verb = SENDS; s = slot; c = cells; i = o
#define RECV(slot, cells, o, val) verb = RECEIVES; s = slot; c = cells; i = o; v = val
#define FREE(slot)		verb = FREES; s = slot
#define ALLOC			verb = ALLOCATES

/* at(t, n) is what App(t) does as its n-th; "mine" is the slot that it has allocated.  No two stores have the same value. */
inline next_step()
{
	if
#if SCENE == TWO_SENDS
	:: at(0, 0) some_pages(c); SEND(0, c, 0)
	:: at(0, 1) some_pages(c); SEND(0, c, 1)
	:: at(0, 2) STORE(0, 0, 20)
	:: at(1, 0) STORE(0, 1, 30)
	:: at(1, 0) STORE(0, 2, 31)
#elif SCENE == RESEND
	:: at(0, 0) SEND(0, 3, 0)
	:: at(0, 1) STORE(0, 0, 20)
	:: at(0, 2) SEND(0, 3, 1)
	:: at(0, 2) SEND(0, 4, 1)
	:: at(0, 3) STORE(0, 0, 21)
	:: at(1, 0) STORE(0, 2, 30)
	:: at(1, 1) STORE(0, 2, 31)
#elif SCENE == SEND_RECV
	:: at(0, 0) some_pages(c); SEND(0, c, 0)
	:: at(0, 1) some_range(c); RECV(0, c, 1, 60)
	:: at(0, 2) STORE(0, 0, 20)
	:: at(0, 3) LOAD(0, 1)
	:: at(1, 0) STORE(0, 2, 30)
#elif SCENE == TWO_RECVS
	:: at(0, 0) some_pages(c); SEND(0, c, 0)
	:: at(0, 1) RECV(0, 1, 1, 60); pc = 2
	:: at(0, 1) RECV(0, 2, 1, 60); pc = 3
	:: at(0, 1) RECV(0, 3, 1, 60); pc = 4
	:: at(0, 3) RECV(0, 6, 2, 70); pc = 5
	:: at(0, 4) RECV(0, 5, 2, 70); pc = 5
	:: at(0, 5) RECV(0, 4, 2, 70)
	:: at(1, 0) LOAD(0, 0)
	:: at(1, 0) STORE(0, 1, 30)
#elif SCENE == RECV_SEND
	:: at(0, 0) some_range(c); RECV(0, c, 1, 60)
	:: at(0, 1) some_range(c); SEND(0, c, 0)
	:: at(0, 2) STORE(0, 2, 20)
	:: at(1, 0) STORE(0, 0, 30)
#elif SCENE == TWO_RANKS
	:: at(0, 0) SEND(0, ALL, 0)
	:: at(0, 1) STORE(0, 0, 20)
	:: at(0, 2) RECV(0, 6, 2, 31)
	:: at(0, 3) LOAD(0, 1)
	:: at(1, 0) SEND(1, ALL, 1)
	:: at(1, 1) STORE(1, 0, 30)
	:: at(1, 2) RECV(1, 6, 3, 21)
	:: at(1, 3) LOAD(1, 1)
#elif SCENE == HALO
#ifndef HALO_SHARES_PAGE
#define EDGE 2			/* on a page of its own */
#else
#define EDGE 0			/* on the page of cell 1, to which the thread stores */
#endif
	:: at(0, 0) RECV(0, cell(EDGE), 2, 31)
	:: at(0, 1) STORE(0, 1, 20)
	:: at(0, 2) SEND(0, 2, 0)
	:: at(0, 3) LOAD(0, EDGE)
	:: at(1, 0) RECV(1, cell(EDGE), 3, 21)
	:: at(1, 1) STORE(1, 1, 30)
	:: at(1, 2) SEND(1, 2, 1)
	:: at(1, 3) LOAD(1, EDGE)
#elif SCENE == FREE_IN_FLIGHT
	:: at(0, 0) SEND(0, ALL, 0)
	:: at(0, 1) some_pages(c); RECV(0, c, 1, 60)
	:: at(0, 1) STORE(0, 0, 20)
	:: at(0, 1) verb = PASSES
	:: at(0, 2) FREE(0)
	:: at(0, 3) ALLOC
	:: at(0, 4) STORE(mine, 0, 21)
	:: at(0, 5) SEND(mine, 3, 2)
	:: at(0, 6) FREE(mine)
	:: at(1, 0) ALLOC
	:: at(1, 1) STORE(mine, 2, 30)
	:: at(1, 2) FREE(mine)
#elif SCENE == OWN_MPI
	:: at(0, 0) SEND(0, ALL, 0)
	:: at(0, 1) verb = ENTERS_MPI
	:: at(0, 2) STORE(0, 0, 20)
	:: at(0, 3) verb = LEAVES_MPI
	:: at(1, 0) STORE(0, 2, 30)
#elif SCENE == STARVE		/* two sends by turns for ever, so that one may always be in flight */
	:: at(0, 0) over(0) -> SEND(0, 3, 0)
	:: at(0, 1) over(1) -> SEND(0, 3, 1); pc = pc - 2
	:: at(1, 0) STORE(0, 0, 30)
#endif
#if SCENE != STARVE
	:: else -> verb = ENDS
#else
	:: at(1, 1) verb = ENDS
#endif
	fi;
	pc++
}

proctype App(byte me)
{
	mtype verb;
	byte pc, c, v, i = NONE, mine = NONE;
	byte s = NONE, b = NONE, k = NONE, f = NONE;
	byte turns;
	bool late, bounded;

	do
	:: atomic { turns = 0; s = NONE; c = 0; i = NONE; v = 0; next_step() };
	   if
	   :: verb == STORES || verb == LOADS -> touch(s, c, (verb == STORES), v)
	   :: verb == SENDS -> send(s, c, i)
	   :: verb == RECEIVES -> receive(s, c, i, v)
	   :: verb == FREES -> free(s)
	   :: verb == ALLOCATES -> alloc(mine)
	   :: verb == PASSES
	   :: verb == ENTERS_MPI -> in_mpi = true
	   :: verb == LEAVES_MPI -> in_mpi = false
	   :: verb == ENDS -> break
	   fi
	od;

	through[me] = true
}

#define settled(s)	(pooled[s] == !live[s] && !reserved[s] && owner[backing[s]] == s)

init
{
	byte n;

	atomic {
		do
		:: n < SLOTS ->
			backing[n] = n; owner[n] = n; maps[n] = n;
			if
			:: n < LIVE -> live[n] = true
			:: else -> push(n)
			fi;
			n++
		:: else -> break
		od;
		/* the widest choice of schedules, and the hardest peer */
		if
		:: progress = true
#if SCENE == STARVE
#elif CONFLICT == WAIT || RANKS == 2
		:: true
#else
		:: late_peer = true
#endif
		fi;
		run Monitor();
		run Net();
		run Reaper(0, true); run Reaper(0, false);
#if RANKS == 2
		run Reaper(1, true); run Reaper(1, false);
#endif
		run App(0);
		run App(1)
	};
#if SCENE != STARVE
	/* every store, load and operation ends, and every pair comes back */
	through[0] && through[1] && over(0) && over(1) && over(2) && over(3);
	all_came_back = every(settled) && avail == count(pooled);
	assert(all_came_back)
#endif
}

#if SCENE == STARVE
#define stored (want[0] == 30)
ltl the_store_goes_through { <> stored }
#endif
