// The robust mutex: src/asyncopt/base/robust_mutex.cc, RobustMutex::lock, lock_until and unlock, over
// what glibc does in pthread_mutex_clocklock and pthread_mutex_unlock, and the kernel at the end of
// a thread (exit_robust_list): one futex word that holds the owner and two flags.
//
// Properties
//   one at a time    two workers are never inside, nor is a lock taken from an owner that lives
//   told             who comes after an owner that died inside learns of it and repairs before it
//                    reads: nobody meets half of a change, and the lock stays usable. The thread
//                    that held the lock dies first; other threads of its process may write what it
//                    protects until they are dead too
//   no sleep         nobody waits for ever, killed waiters or not. The kernel is a bad one, which
//                    lets a wake-up die with the thread that it woke
//
// Switches
//   WITHOUT_ROBUST      PTHREAD_MUTEX_ROBUST: the kernel does not look at a dead owner's lock
//   WITHOUT_CONSISTENT  pthread_mutex_consistent after EOWNERDEAD
//   WITHOUT_REPAIR      the repair of what the dead owner left
//   WITHOUT_WAIT        the wait for the dead owner's other threads
//   WITHOUT_SLICES      the 50 ms slices: a waiter sleeps until it is woken
//
// Instances: "", "-DIDLE"

#define WORKERS 3
#define KILLS 2
#include "kill.h"
#include "sleep.h"

byte owner;  // 1 + worker; 0: free
bool waiters, owner_died;
bool inconsistent;  // taken with EOWNERDEAD, and pthread_mutex_consistent has not been called
bool unrecoverable;
byte inside;  // 1 + the worker in the critical section
bool whole = true;
byte lingering;  // dead owners whose other threads may still write

inline wake_one() {
  if
  :: asleep[0] -> asleep[0] = false
  :: asleep[1] -> asleep[1] = false
  :: asleep[2] -> asleep[2] = false
  :: else
  fi
}

proctype worker(byte me) {
  byte seen;
  bool repaired, wake, late;
  {
    do
    :: atomic {  // compare-exchange of a free word, or of a dead owner's
         owner == 0 -> owner = me + 1;
         got_on = true;
         repaired = owner_died;
         inconsistent = owner_died;
         owner_died = false;
         assert(!unrecoverable);
         break
       }
    :: atomic { owner != 0 -> waiters = true; seen = owner };
       // FUTEX_WAIT sleeps only if the word is still what was seen.
       sleep_while(owner == seen && waiters);
       seen = 0
    od;

#ifndef WITHOUT_WAIT
    lingering == 0;
#endif
    atomic { assert(inside == 0); inside = me + 1 }
    if
    :: repaired ->
#ifndef WITHOUT_CONSISTENT
       inconsistent = false;
#endif
#ifndef WITHOUT_REPAIR
       whole = true;
#endif
       repaired = false
    :: else
    fi;
    atomic { assert(whole); whole = false }
    whole = true;
    inside = 0;

    atomic {
      unrecoverable = inconsistent;
      owner = 0;
      wake = waiters;
      waiters = false
    }
    if
    :: wake -> atomic { wake_one(); wake = false }
    :: else
    fi
  } unless {
    killed[me] ->
      atomic {
        asleep[me] = false;
        if
        :: inside == me + 1 -> inside = 0; lingering++; late = true
        :: else
        fi;
#ifndef WITHOUT_ROBUST
        if
        :: owner == me + 1 ->
           owner = 0;
           owner_died = true;
           if
           :: waiters -> wake_one()
           :: else
           fi
        :: else
        fi
#endif
      };
      if
      :: late ->
         if
         :: whole = false  // by another of its threads
         :: true
         fi;
         atomic { lingering--; late = false }
      :: else
      fi
  }
}

init {
  atomic { run worker(0); run worker(1); run worker(2) }
}
