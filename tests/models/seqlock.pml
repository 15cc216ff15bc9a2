// The sequence lock with an undo copy: src/asyncopt/sync/seqlock.h, Seqlock::push, pull and Owner.
// The lock is the robust mutex of robust_lock.pml. The data are two words; version n consists of
// words n. Accesses between which no barrier stands are made in any order: the odd sequence against
// the undo copy and the intent, the version against the data, and a reader's loads.
//
// Properties
//   whole            a pull gives one version, and tells which
//   all or nothing   who gets the lock meets the version that was committed last, whole, whoever
//                    died since
//
// Switches
//   WITHOUT_LOCK            two writers at a time
//   WITHOUT_UNDO            no copy of the last version, no intent
//   WITHOUT_UNDO_RELEASE    the intent may be seen before the copy is complete
//   WITHOUT_ODD             the sequence stays even while the data are written
//   WITHOUT_ODD_FENCE       the data may be written before the intent and the odd sequence are seen
//   WITHOUT_ODD_KEPT        begin_write counts the sequence up also where a dead writer left it odd
//   WITHOUT_COMMIT_RELEASE  the intent may be gone before the data are written
//   WITHOUT_EVEN_RELEASE    the sequence may be even before the data are written
//   WITHOUT_RESTORE         the next owner of the lock does not look for a dead one's intent
//   WITHOUT_READER_RESTORE  ... if it is a reader
//   WITHOUT_LOAD_ACQUIRE    a reader's data may be older than its first look at the sequence
//   WITHOUT_LOAD_FENCE      ... or newer than its second
//
// Instances: ""

#define WORKERS 2
#define KILLS 2
#include "kill.h"

typedef Copy {
  byte word[2]
}
Copy data, undo;
byte version, sequence, intent;
byte holder;     // 1 + who has the lock
byte committed;  // pushes that were

inline lock() {
#ifdef WITHOUT_LOCK
  skip
#else
  atomic { holder == 0 -> holder = me + 1 }
#endif
}

inline unlock() {
  holder = 0
}

inline store_odd() {
#if defined(WITHOUT_ODD)
  skip
#elif defined(WITHOUT_ODD_KEPT)
  sequence++
#else
  sequence = sequence | 1
#endif
}

inline store_even() {
  sequence = (sequence | 1) + 1
}

// The constructor of Owner, after the lock.
inline restore() {
  undone = intent;
#ifdef WITHOUT_RESTORE
  undone = 0;
#endif
  if
  :: undone != 0 ->
     store_odd();
     data.word[0] = undo.word[0];
     data.word[1] = undo.word[1];
     version = undone - 1
  :: else
  fi;
  if
  :: undone != 0 || sequence % 2 == 1 -> intent = 0; store_even()
  :: else
  fi;
  undone = 0
}

inline assert_whole() {
  assert(data.word[0] == version && data.word[1] == version)
}

inline save() {
#ifdef WITHOUT_UNDO
  skip
#else
  undo.word[0] = data.word[0];
#ifdef WITHOUT_UNDO_RELEASE
  intent = 1 + version;
#endif
  undo.word[1] = data.word[1];
#ifdef WITHOUT_ODD_FENCE
  data.word[0]++;
#endif
  intent = 1 + version
#endif
}

inline count_push() {
  if
  :: !counted -> version++; counted = true
  :: true  // or later
  fi
}

proctype writer(byte me) {
  byte undone;
  bool odd, counted;
  {
    lock();
    restore();
    atomic { assert_whole(); assert(version == committed) }

    if
    :: store_odd(); odd = true
    :: true
    fi;
    save();
    if
    :: odd -> odd = false
    :: else -> store_odd()
    fi;
    // The release fence in begin_write.
    count_push();
#ifndef WITHOUT_ODD_FENCE
    data.word[0]++;
#endif
    count_push();
#ifdef WITHOUT_EVEN_RELEASE
    store_even();
#endif
#ifndef WITHOUT_COMMIT_RELEASE
    data.word[1]++;
#endif
    if
    :: counted -> counted = false
    :: else -> version++
    fi;
    atomic { intent = 0; committed++ }
#ifdef WITHOUT_COMMIT_RELEASE
    data.word[1]++;
#endif
#ifndef WITHOUT_EVEN_RELEASE
    store_even();
#endif
    unlock()
  } unless {
    killed[me] ->
      if
      :: holder == me + 1 -> unlock()
      :: else
      fi
  }
}

proctype reader(byte me) {
  byte undone, before, tag;
  byte got[2];
  bool loaded[3];
  do
  ::
#ifdef WITHOUT_LOAD_ACQUIRE
     got[0] = data.word[0]; loaded[0] = true;
#endif
     before = sequence;
#ifdef WITHOUT_LOAD_FENCE
     loaded[1] = true;
#endif
     do
     :: atomic { !loaded[0] -> got[0] = data.word[0]; loaded[0] = true }
     :: atomic { !loaded[1] -> got[1] = data.word[1]; loaded[1] = true }
     :: atomic { !loaded[2] -> tag = version; loaded[2] = true }
     :: atomic {
          loaded[0] && loaded[1] && loaded[2] ->
          loaded[0] = false; loaded[1] = false; loaded[2] = false;
          break
        }
     od;
     atomic {
       before = (before == sequence && before % 2 == 0);
#ifdef WITHOUT_LOAD_FENCE
     }
     atomic {
       got[1] = data.word[1];
#endif
       assert(!before || got[0] == tag && got[1] == tag);
       got[0] = 0; got[1] = 0; tag = 0;
       if
       :: before -> break
       :: else
       fi
     }
  :: lock();
#ifndef WITHOUT_READER_RESTORE
     restore();
#endif
     assert_whole();
     unlock();
     break
  od
}

init {
  atomic { run writer(0); run writer(1); run reader(2) }
}
