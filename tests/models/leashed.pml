// Versions built aside: src/asyncopt/sync/leashed.h, Leashed::claim_copy, protect_latest, push and
// pull. A push counts every word of the model up by one, so that version n consists of words n. All
// look for a free copy from the first on, so that they meet; the queue at `turn` only decides who
// tries, and is left out.
//
// Properties
//   whole            who reads a copy, to pull it or to build on it, sees one version, the one that
//                    `latest` named: nobody writes meanwhile
//   nothing lost     version n + 1 is version n with one more update
//   a copy is free   for each worker that looks for one, whatever dead workers still name
// A replacement of a killed worker takes over its slot and what is left to do.
//
// Switches
//   WITHOUT_NAMING           claim_copy does not name its choice in `building`
//   WITHOUT_NAMING_ORDER     ... or not before it looks (not sequentially consistent)
//   WITHOUT_READERS          claim_copy does not look at `reading`
//   WITHOUT_SECOND_LOOK      claim_copy does not look at `latest` again
//   WITHOUT_VERSION          `latest` is a copy without a version: it may change and come back
//   WITHOUT_CONFIRM          protect_latest does not look at `latest` again
//   WITHOUT_CONFIRM_ORDER    ... or not after it has named the copy (not sequentially consistent)
//   WITHOUT_ACQUIRE          a word of a copy is read before `latest` has named it
//   WITHOUT_PUBLISH_RELEASE  a word of a copy is written after the copy was published
//   WITHOUT_READING_RELEASE  `reading` is cleared before the copy has been read
//   WITHOUT_BUILDING_RELEASE `building` is cleared before the copy is published
//   WITHOUT_SPARE_COPIES     only as many copies as the others can use at once
//
// Instances: "", "-DTHREE"

#ifdef THREE
#define WORKERS 3
#define KILLS 0
#else
#define WORKERS 2
#define KILLS 1
#endif
#include "kill.h"

#ifdef WITHOUT_SPARE_COPIES
#define COPIES (2 * WORKERS - 1)
#else
#define COPIES (2 * WORKERS + 2)
#endif

typedef Copy {
  byte word[2]
}
typedef Latest {
  byte copy;
  byte version
}
Copy data[COPIES];
Latest latest;
byte reading[WORKERS];   // 1 + copy, 0: none
byte building[WORKERS];  // the same

#ifdef WITHOUT_CONFIRM
#define CONFIRMED(l) true
#else
#define CONFIRMED(l) IS_LATEST(l)
#endif
#ifdef WITHOUT_VERSION
#define IS_LATEST(l) (latest.copy == l.copy)
#else
#define IS_LATEST(l) (latest.copy == l.copy && latest.version == l.version)
#endif

// By all but the worker that looks, whose own names are from before.
#define NAMED(w, copy) (w != me && (reading[w] == copy + 1 || building[w] == copy + 1))

inline assert_a_copy_is_free() {
  do
  :: i < COPIES && (i == latest.copy || NAMED(0, i) || NAMED(1, i) || NAMED(WORKERS - 1, i)) -> i++
  :: else -> break
  od;
  assert(i < COPIES)
}

// Sets `mine`. Every step has one access to what others write.
inline claim_copy() {
  do
  :: atomic {
       assert_a_copy_is_free();
       i = (me == 0 -> 2 : 0);
#if !defined(WITHOUT_NAMING) && !defined(WITHOUT_NAMING_ORDER)
       building[me] = mine + 1
#endif
     }
     atomic { seen.copy = latest.copy; seen.version = latest.version; free = seen.copy != mine }
     do
     :: atomic {
          free && i < 2 * WORKERS ->
          if
#ifndef WITHOUT_READERS
          :: i % 2 == 0 -> free = reading[i / 2] != mine + 1
#endif
          :: i % 2 == 1 -> free = building[i / 2] != mine + 1
          :: else
          fi;
          i++;
          i = (i / 2 == me -> i + 2 : i)
        }
     :: atomic {
          else ->
#ifndef WITHOUT_SECOND_LOOK
          free = free && IS_LATEST(seen);
#endif
          i = 0; seen.copy = 0; seen.version = 0;
#ifdef WITHOUT_NAMING_ORDER
        }
        atomic {
          building[me] = mine + 1;
#endif
          if
          :: free -> free = false; goto claimed
          :: else -> mine = (mine + 1) % COPIES; break
          fi
        }
     od
  od;
claimed:
  skip
}

inline read(n) {
  got[n] = data[seen.copy].word[n]
}

// Sets `seen`, and reads its copy into `got`.
inline read_latest() {
#ifdef WITHOUT_ACQUIRE
  atomic { select(i : 0 .. COPIES - 1); got[0] = data[i].word[0] }
#endif
  atomic { seen.copy = latest.copy; seen.version = latest.version }
  do
  ::
#ifndef WITHOUT_CONFIRM_ORDER
     reading[me] = seen.copy + 1;
#endif
     atomic {
       confirmed = CONFIRMED(seen);
       seen.copy = latest.copy; seen.version = latest.version;
#ifdef WITHOUT_CONFIRM_ORDER
     }
     atomic {
       reading[me] = seen.copy + 1;
#endif
       if
       :: confirmed -> confirmed = false; break
       :: else
       fi
     }
  od;
#ifdef WITHOUT_ACQUIRE
  if
  :: seen.copy != i -> read(0)
  :: else  // the early one was from the right copy
  fi;
  i = 0;
#else
  read(0);
#endif
#ifdef WITHOUT_READING_RELEASE
  reading[me] = 0;
#endif
  atomic { read(1); assert(got[0] == seen.version && got[1] == seen.version) }
}

proctype worker(byte me; byte pushes; byte pulls) {
  byte mine, i;
  bool free, confirmed;
  Latest seen;
  byte got[2];
start:
  {
    do
    :: pulls > 0 ->
       read_latest();
       atomic {
         reading[me] = 0;
         got[0] = 0; got[1] = 0; seen.copy = 0; seen.version = 0;
         pulls--
       }
    :: pushes > 0 ->
       claim_copy();
       do
       :: read_latest();
          data[mine].word[0] = got[0] + 1;
#ifdef WITHOUT_BUILDING_RELEASE
          building[me] = 0;
#endif
#ifndef WITHOUT_PUBLISH_RELEASE
          data[mine].word[1] = got[1] + 1;
#endif
          atomic {  // compare-exchange
            confirmed = IS_LATEST(seen);
            if
            :: confirmed -> latest.copy = mine; latest.version = seen.version + 1
            :: else
            fi
          }
#ifdef WITHOUT_PUBLISH_RELEASE
          data[mine].word[1] = got[1] + 1;
#endif
          atomic {
            got[0] = 0; got[1] = 0; seen.copy = 0; seen.version = 0;
            if
            :: confirmed -> confirmed = false; pushes--; reading[me] = 0; break
            :: else
            fi
          }
       od;
       atomic { building[me] = 0; mine = 0 }
    :: pushes == 0 && pulls == 0 -> break
    od
  } unless {
    killed[me] ->
      atomic {  // Segment::claim_worker, by a replacement
        reading[me] = 0;
        building[me] = 0;
        killed[me] = false;
        mine = 0; i = 0; free = false; confirmed = false;
        seen.copy = 0; seen.version = 0; got[0] = 0; got[1] = 0
      }
      goto start
  }
}

init {
  atomic {
#ifdef THREE
    run worker(0, 1, 0);
    run worker(1, 2, 0);
    run worker(2, 0, 1)
#else
    run worker(0, 1, 0);
    run worker(1, 2, 0)
#endif
  }
}
