// The store: src/asyncopt/store/segment.cc, Segment::create, attach, claim_worker and release_worker.
// Worker 2 creates it, while 0 and 1 try to attach; these claim a slot each, count a push in its
// ledger and release it. A killed worker is reaped, and then replaced by a process with another id.
// A worker may fork a child, which inherits the claim and gives up what it takes for its own.
//
// Properties
//   finished         attach refuses what was not created to the end, whenever the creator dies
//   one owner        a slot belongs to one living process; it begins with no names of leashed in it
//   room             a worker that starts finds a slot: those of dead ones are free
//   nothing lost     every push that was counted stays counted, whoever takes the slot next
//
// Switches
//   WITHOUT_MAGIC           attach does not look for the magic number
//   WITHOUT_MAGIC_RELEASE   the magic number may be seen before what was written before it
//   WITHOUT_MAGIC_ACQUIRE   attach may read the header before the magic number
//   WITHOUT_OWNER_CHECK     claim_worker takes the slot of an owner that lives
//   WITHOUT_TAKEOVER        ... or not even that of a dead one
//   WITHOUT_CLAIM_CAS       ... by a store, not by compare-exchange
//   WITHOUT_CLAIM_ACQUIRE   the ledger may be read before the slot is claimed
//   WITHOUT_RESET           a slot is taken with the names that a dead worker left
//   WITHOUT_RELEASE_CAS     release_worker does not look whose the slot is
//   WITHOUT_RELEASE_ORDER   the ledger may be written after the slot is released
//
// Instances: "", "-DCREATED"

#ifdef CREATED  // before anything else happens
#define WORKERS 2
#define KILLS 2
#else
#define WORKERS 3
#define KILLS 1
#endif
#include "kill.h"

#define SLOTS 2
#define CHILD 3  // process id of a fork of worker 0
#define PROCESSES (CHILD + KILLS)

typedef Slot {
  byte owner;  // process id; 0: free
  bool named;  // reading or building is set
  byte pushes
}
bool magic, header, tables;  // written
Slot slots[SLOTS];
bool gone[PROCESSES + 1];  // by process id: dead and reaped

#if defined(WITHOUT_OWNER_CHECK)
#define MAY_TAKE(owner) true
#elif defined(WITHOUT_TAKEOVER)
#define MAY_TAKE(owner) (owner == 0)
#else
#define MAY_TAKE(owner) (owner == 0 || gone[owner])
#endif

#ifdef WITHOUT_CLAIM_CAS
#define CLAIMS(condition) true
#else
#define CLAIMS(condition) (condition)
#endif
#ifdef WITHOUT_RELEASE_CAS
#define RELEASES(condition) true
#else
#define RELEASES(condition) (condition)
#endif

// What the code does not know.
byte users[SLOTS];  // living processes that take the slot for theirs
byte pushes;
byte processes = CHILD;  // ids given out: workers have 1 and 2, their replacements the next

#ifndef CREATED
proctype creator(byte me) {
  {
    if  // in any order
    :: header = true;
#ifndef WITHOUT_MAGIC_RELEASE
       tables = true
#endif
    :: tables = true;
#ifndef WITHOUT_MAGIC_RELEASE
       header = true
#endif
    fi;
    magic = true;
    header = true;
    tables = true
  } unless {
    killed[me]
  }
}
#endif

inline attach() {
#ifdef WITHOUT_MAGIC_ACQUIRE
  found = header;
#else
  found = true;
#endif
#ifndef WITHOUT_MAGIC
  if
  :: magic
  :: !magic -> goto refused
  fi;
#endif
  atomic { assert(found && header && tables); found = false }
}

inline claim_worker() {
  do
  :: i < SLOTS ->
     owner = slots[i].owner;
#ifdef WITHOUT_CLAIM_ACQUIRE
     count = slots[i].pushes;
#endif
     if
     :: MAY_TAKE(owner) ->
        atomic {
          found = CLAIMS(slots[i].owner == owner);
          if
          :: found -> slots[i].owner = process; users[i]++; assert(users[i] == 1); break
          :: else
          fi
        }
     :: else
     fi;
     i++
  :: else -> break
  od;
  atomic { assert(found); found = false; owner = 0 }
#ifndef WITHOUT_RESET
  slots[i].named = false;
#endif
  assert(!slots[i].named)
}

inline release_worker(by) {
  if
  :: RELEASES(slots[i].owner == by) -> slots[i].owner = 0
  :: else
  fi
}

proctype child(byte i) {
  atomic { release_worker(CHILD) }
}

proctype worker(byte me) {
  byte process = 1 + me;
  byte i, owner, count;
  bool found;
start:
  {
    attach();
    claim_worker();
    slots[i].named = true;
    if
    :: process == 1 -> run child(i)
    :: true
    fi;
#ifndef WITHOUT_CLAIM_ACQUIRE
    count = slots[i].pushes;
#endif
#ifdef WITHOUT_RELEASE_ORDER
    atomic { release_worker(process); users[i]-- }
#endif
    atomic { slots[i].pushes = count + 1; pushes++; count = 0 }
#ifndef WITHOUT_RELEASE_ORDER
    slots[i].named = false;
    atomic { release_worker(process); users[i]-- }
#endif
refused:
    skip
  } unless {
    killed[me] ->
      atomic {
        i = 0;
        do
        :: i < SLOTS && slots[i].owner == process -> users[i]--; break
        :: i < SLOTS && slots[i].owner != process -> i++
        :: i == SLOTS -> break
        od;
        gone[process] = true;
        i = 0; owner = 0; count = 0; found = false;
        processes++;
        process = processes;
        killed[me] = false
      }
      goto start
  }
}

init {
  atomic {
#ifdef CREATED
    magic = true; header = true; tables = true;
#else
    run creator(2);
#endif
    run worker(0);
    run worker(1)
  }
  timeout -> assert(slots[0].pushes + slots[1].pushes == pushes)
}
