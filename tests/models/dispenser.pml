// The board's dispenser of batches: src/asyncopt/dispenser.cc, Board::take, done, settled, settle
// and abandon, without batches that are kept until a push (tests/cpp/test_board_processes.cc kills
// workers at every change of those), for one entry of the ring that LAPS rounds use one after the other. A worker that is
// killed is replaced, by one that settles the seat and starts again with the first round, or it is
// abandoned by the launcher.
//
// Properties
//   exactly once     a batch is handed out once, and once more for each worker that dies with it
//   at least once    at the end every batch has been worked on to its end, or is an orphan that was
//                    abandoned when no other worker was left in the round
//
// Switches
//   WITHOUT_TRYING          the batch is not claimed before it is taken
//   WITHOUT_TRYING_ORDER    ... or the claim may be seen after the round's word (no release)
//   WITHOUT_NAME            the round's word does not say who took the last batch
//   WITHOUT_HELP            the taker of the next batch does not settle the claim on the last one
//   WITHOUT_HELP_ORDER      ... or may do it after it has taken its own
//   WITHOUT_SETTLE          nobody settles the claims of the dead: only "has" is believed
//   WITHOUT_SETTLE_ORDER    ... or the claim is not read again after the round's word
//   WITHOUT_REDO            a replacement does not take up what its predecessor had
//   WITHOUT_ADOPTION        nobody takes the batches of abandoned seats
//   WITHOUT_ADOPTION_TRYING an orphan is taken without a claim on it
//   WITHOUT_ADOPTION_NAME   an orphan's claim does not say who took it
//   WITHOUT_ADOPTION_CAS    an orphan is taken by a store, not by compare-exchange
//
// Instances: "", "-DTHREE"

#ifdef THREE
#define WORKERS 3
#define LAPS 1
#define TOTAL 1
#define KILLS 1
#else
#define WORKERS 2
#define LAPS 2
#define TOTAL 2  // batches of a round
#define KILLS 2
#endif
#include "kill.h"

// Slip: three numbers in one word.
#define SLIP(who, lap, index) ((who) * 16 + (lap) * 4 + (index))
#define WHO(slip) ((slip) / 16)
#define LAP(slip) ((slip) / 4 % 4)
#define INDEX(slip) ((slip) % 4)
// States of a claim.
#define FREE 0
#define TRYING 1
#define HAS 2
#define REDO 3
#define DONE 4
#define LEFT 5
#define ADOPTED 6  // and above: + who has adopted it

#ifdef WITHOUT_NAME
#define TOOK(slip, seat) (WHO(slip) > 0)
#else
#define TOOK(slip, seat) (WHO(slip) == seat + 1)
#endif
#ifdef WITHOUT_ADOPTION_NAME
#define ADOPTER DONE
#else
#define ADOPTER (ADOPTED + me)
#endif
#ifdef WITHOUT_ADOPTION_CAS
#define EXPECTED claims[i]
#else
#define EXPECTED seen
#endif
#ifdef WITHOUT_REDO
#define GIVE_AGAIN skip
#else
#define GIVE_AGAIN goto taken
#endif

byte last;             // the round's word
byte claims[WORKERS];  // on the entry, of each seat
bool abandoned[WORKERS];

// What the code does not know, by lap and index.
#define THIS (lap * TOTAL + index)
byte spent[LAPS * TOTAL];  // times that the batch was handed out, less those when its worker died
bool worked[LAPS * TOTAL];
byte ended;  // workers that have done all rounds or are abandoned

#define ORPHAN(seat, lap, index) (abandoned[seat] && claims[seat] == SLIP(REDO, lap, index))
#define TAKEN(lap, index) (LAP(last) > lap || (LAP(last) == lap && INDEX(last) > index))
#define AN_ORPHAN(seat) (abandoned[seat] && WHO(claims[seat]) == REDO && LAP(claims[seat]) == lap)

inline claim(who) {
  atomic {
    claims[me] = SLIP(who, lap, index);
    holds = 0
  }
}

// Compare-exchange.
inline exchange(word, from, to) {
  swapped = (word == from);
  if
  :: swapped -> word = to
  :: else
  fi
}

inline help() {
#ifdef WITHOUT_HELP
  skip
#else
  atomic {
    if
    :: WHO(seen) > 0 && claims[WHO(seen) - 1] == SLIP(TRYING, LAP(seen), INDEX(seen) - 1) ->
       claims[WHO(seen) - 1] = SLIP(HAS, LAP(seen), INDEX(seen) - 1)
    :: else
    fi
  }
#endif
}

// Board::settle, for the one entry of the ring.
inline settle() {
  tried = claims[me];
#ifndef WITHOUT_SETTLE
  if
  :: WHO(tried) == TRYING ->
     seen = last;
#ifndef WITHOUT_SETTLE_ORDER
     tried = claims[me];
#endif
     if
     :: WHO(tried) == TRYING ->
        swapped = TOOK(seen, me) && LAP(seen) == LAP(tried) && INDEX(seen) == INDEX(tried) + 1;
        do
        :: atomic {
             !swapped && i < WORKERS ->
             swapped = claims[i] == SLIP(ADOPTED + me, LAP(tried), INDEX(tried));
             i++
           }
        :: else -> break
        od;
        tried = SLIP((swapped -> HAS : FREE), LAP(tried), INDEX(tried))
     :: else
     fi
  :: else
  fi;
#endif
  atomic {
    claims[me] = SLIP((WHO(tried) == HAS -> REDO : WHO(tried)), LAP(tried), INDEX(tried));
    seen = 0; tried = 0; i = 0; swapped = false
  }
}

inline find_orphans() {
#ifdef WITHOUT_ADOPTION
  skip
#else
  do
  :: atomic {
       i < WORKERS ->
       seen = (abandoned[i] -> claims[i] : 0);
       if
       :: WHO(seen) == REDO && LAP(seen) == lap -> index = INDEX(seen)
       :: else -> i++; goto next_seat
       fi
     }
#ifndef WITHOUT_ADOPTION_TRYING
     claim(TRYING);
#endif
     atomic {
       exchange(claims[i], EXPECTED, SLIP(ADOPTER, lap, index));
       if
       :: swapped -> goto taken
       :: else -> i++
       fi
     }
next_seat:
     skip
  :: atomic { i == WORKERS -> i = 0; break }
  od
#endif
}

inline find_next() {
  do
  :: atomic {
       seen = last;
       index = (LAP(seen) == lap -> INDEX(seen) : 0);
       if
       :: LAP(seen) > lap || index == TOTAL -> index = 0; goto none
       :: else
       fi
     }
#ifndef WITHOUT_HELP_ORDER
     help();
#endif
#if !defined(WITHOUT_TRYING) && !defined(WITHOUT_TRYING_ORDER)
     claim(TRYING);
#endif
     atomic {
       exchange(last, seen, SLIP(me + 1, lap, index + 1));
#ifdef WITHOUT_TRYING_ORDER
     }
     claims[me] = SLIP(TRYING, lap, index);
     atomic {
#endif
       if
       :: swapped -> break
       :: else
       fi
     }
  od;
#ifdef WITHOUT_HELP_ORDER
  help()
#endif
}

proctype worker(byte me) {
  byte lap, index, seen, tried, i;
  byte holds;    // 1 + its batch
  byte orphans;  // a bit for each seat that had one when the worker began to look
  bool swapped, replaces;
start:
  {
    if
    :: replaces -> settle(); replaces = false
    :: else
    fi;
    do
    :: lap < LAPS ->
       atomic {
         seen = claims[me];
         index = INDEX(seen);
         do
         :: i < WORKERS -> orphans = orphans + (AN_ORPHAN(i) -> 1 << i : 0); i++
         :: else -> i = 0; break
         od;
         if
         :: LAP(seen) > lap || (LAP(seen) == lap && WHO(seen) == LEFT) -> goto over
         :: LAP(seen) == lap && WHO(seen) == REDO -> GIVE_AGAIN
         :: else
         fi
       }
       find_orphans();
       find_next();
taken: atomic {
         claim(HAS);
         holds = THIS + 1;
         spent[THIS]++;
         assert(spent[THIS] <= 1);
         swapped = false; seen = 0; i = 0
       }
       atomic { worked[THIS] = true; orphans = 0; index = 0; goto next }
none:  claim(DONE);
       atomic {
         if
         :: claim(LEFT)  // by break
         :: skip         // at its end
         fi;
         do
         :: i < WORKERS -> assert(!(AN_ORPHAN(i) && orphans >> i & 1)); i++
         :: else -> i = 0; break
         od
       }
over:  atomic { lap++; orphans = 0; seen = 0; index = 0 }
next:  skip
    :: lap == LAPS -> atomic { lap = 0; ended++; break }
    od
  } unless {
    killed[me] ->
      atomic {
        if
        :: holds > 0 -> spent[holds - 1]--; holds = 0
        :: else
        fi;
        lap = 0; index = 0; seen = 0; tried = 0; i = 0; orphans = 0; swapped = false;
        replaces = false
      }
      if
      :: atomic { killed[me] = false; replaces = true }; goto start
      :: settle();  // Board::abandon
         atomic { abandoned[me] = true; ended++ }
      fi
  }
}

init {
  byte batch, seat;
  bool all_abandoned;
  atomic {
    run worker(0);
    run worker(1);
#ifdef THREE
    run worker(2)
#endif
  }
  ended == WORKERS ->
  d_step {
    all_abandoned = abandoned[0] && abandoned[1] && abandoned[WORKERS - 1];
    do
    :: batch < LAPS * TOTAL ->
       seat = 0;
       do
       :: seat < WORKERS && !ORPHAN(seat, batch / TOTAL, batch % TOTAL) -> seat++
       :: else -> break
       od;
       assert(worked[batch] || seat < WORKERS ||
              (all_abandoned && !TAKEN(batch / TOTAL, batch % TOTAL)));
       batch++
    :: else -> break
    od
  }
}
