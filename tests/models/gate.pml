// The board's gate, bounded staleness: src/asyncopt/board/gate.cc, Board::begin, admit, end and leave,
// with wait_until of src/asyncopt/base/wait.h. The lock is the robust mutex of robust_lock.pml. A killed
// worker's turn is closed by the launcher; a replacement goes on with the turns that are left.
//
// Properties
//   bounded          between a worker's pull and its push at most STALENESS pushes of others land
//   in order         while a worker waits to begin, each other one begins once at most
//   no deadlock      all turns are made, killed workers or not
//
// Switches
//   WITHOUT_LOCK          begin and admit look and act without the lock
//   WITHOUT_BEGIN_CHECK   a turn begins although those that are open leave no room for it
//   WITHOUT_ADMIT_CHECK   a turn pushes although the limit of one that has not is reached
//   WITHOUT_ADMITTED      ... or of one that was admitted and has not pushed yet
//   WITHOUT_ORDER         the k-th open turn is not held to have k before it
//   WITHOUT_TICKETS       whoever asks first begins first
//   WITHOUT_END_RELEASE   a push may land after its turn has ended
//   WITHOUT_SCAN_ACQUIRE  a pull may read what was there before the turns were counted
//   WITHOUT_LEAVE         nobody closes a dead worker's turn
//   WITHOUT_SLICES        a waiter sleeps until it is woken: a killed worker wakes nobody
//
// Instances: "", "-DTHREE", "-DSERIAL", "-DIDLE -DTHREE", "-DIDLE -DSERIAL"

#ifdef THREE
#define WORKERS 3
#define TURNS 1
#define KILLS 0
#else
#define WORKERS 2
#define TURNS 2
#define KILLS 1
#endif
#ifdef SERIAL
#define STALENESS 0
#else
#define STALENESS 1
#endif
#include "kill.h"
#include "sleep.h"

typedef Seat {
  bool open, admitted;
  byte ended;   // turns
  byte limit;   // of the open turn: turns that may end before its push
  byte ticket;  // of a worker that waits to begin; 0: does not
}
Seat seats[WORKERS];
byte tickets;
byte holder;  // 1 + who has the lock
bool moved[WORKERS];  // has turns_changed moved since the worker looked?
byte version;  // pushes that have landed
byte passed[WORKERS];  // turns that others have begun while the worker waited

inline lock() {
#ifdef WITHOUT_LOCK
  skip
#else
  atomic { holder == 0 -> holder = me + 1 }
#endif
}

inline unlock() {
#ifdef WITHOUT_LOCK
  skip
#else
  holder = 0
#endif
}

inline wake() {
  d_step {
    moved[0] = true;
    moved[1] = true;
    moved[WORKERS - 1] = true
  }
  wake_all()
}

// Others: one seat after the other, while turns end.
inline look_at_others() {
  do
  :: atomic {
       i < WORKERS ->
       ended = ended + seats[i].ended;
       if
       :: i != me && seats[i].ticket != 0 && seats[i].ticket < seats[me].ticket -> first = false
       :: else
       fi;
       tell = tell || (i != me && seats[i].ticket != 0);
       if
       :: i != me && seats[i].admitted ->
          admitted++;
          least = (least < seats[i].limit -> least : seats[i].limit)
       :: i != me && seats[i].open && !seats[i].admitted -> limits[i] = 1 + seats[i].limit
       :: else
       fi;
       i++
     }
  :: else -> i = 0; break
  od
}

// Others::hold: sets `holds`. Among the limits, the k-th from below is the one with k up to it.
inline hold(newcomers) {
  d_step {
#ifndef WITHOUT_ADMITTED
    holds = newcomers == 0 || least + 1 >= ended + admitted + newcomers;
#else
    holds = true;
#endif
    do
    :: i < WORKERS ->
       j = 0; k = 0;
       do
       :: j < WORKERS -> k = k + (limits[j] != 0 && limits[j] <= limits[i]); j++
       :: else -> j = 0; break
       od;
#ifdef WITHOUT_ORDER
       k = 1;
#endif
       holds = holds && (limits[i] == 0 || limits[i] >= ended + admitted + newcomers + k);
       i++
    :: else -> i = 0; k = 0; break
    od
  }
}

inline forget() {
  d_step {
    i = 0; j = 0; k = 0; ended = 0; admitted = 0; least = 255; first = true; holds = false;
    do
    :: i < WORKERS -> limits[i] = 0; i++
    :: else -> i = 0; break
    od
  }
}

inline begin() {
  do
  :: moved[me] = false;
     lock();
#ifdef WITHOUT_SCAN_ACQUIRE
     pulled = version;
#endif
     if
     :: seats[me].ticket == 0 ->
        k = 1 + tickets;
        tickets = k;
        atomic { seats[me].ticket = k; k = 0 }
     :: else
     fi;
     look_at_others();
     limits[me] = 1 + ended + STALENESS;
     hold(0);
#ifdef WITHOUT_BEGIN_CHECK
     holds = true;
#endif
#ifdef WITHOUT_TICKETS
     first = true;
#endif
     if
     :: holds && first ->
        seats[me].limit = ended + STALENESS;
        d_step {
          seats[me].open = true;
          got_on = true;
          passed[me] = 0;
          do
          :: i < WORKERS ->
             passed[i] = passed[i] + (i != me && seats[i].ticket != 0);
             assert(passed[i] < WORKERS);
             i++
          :: else -> i = 0; break
          od
        }
        seats[me].ticket = 0;
        forget();
        tell_others();
        unlock();
        break
     :: else ->
        tell = false;
        forget();
        unlock();
        sleep_while(!moved[me])
     fi
  od
}

inline admit() {
  do
  :: moved[me] = false;
     lock();
     look_at_others();
     hold(1);
     tell = false;
#ifdef WITHOUT_ADMIT_CHECK
     holds = true;
#endif
     if
     :: holds ->
        atomic { seats[me].admitted = true; got_on = true }
        forget();
        unlock();
        break
     :: else ->
        forget();
        unlock();
        sleep_while(!moved[me])
     fi
  od
}

inline push() {
  atomic { assert(version <= pulled + STALENESS); version++; pulled = 0 }
}

// The first half of end; the other is wake.
inline close() {
  tell = seats[me].open || seats[me].ticket != 0;
  atomic { seats[me].ticket = 0; passed[me] = 0 }
  atomic {
    seats[me].ended = seats[me].ended + seats[me].admitted;
    seats[me].open = false;
    seats[me].admitted = false
  }
}

inline tell_others() {
  if
  :: tell -> wake(); tell = false
  :: else
  fi
}

proctype worker(byte me) {
  byte turns, pulled, i, j, k, ended, admitted, limits[WORKERS];
  byte least = 255;
  bool first = true;
  bool holds, tell;
start:
  {
    do
    :: turns < TURNS ->
       begin();
#ifndef WITHOUT_SCAN_ACQUIRE
       pulled = version;
#endif
       admit();
#ifdef WITHOUT_END_RELEASE
       close();
       push();
#else
       push();
       close();
#endif
       turns++;
       tell_others()
    :: else -> break
    od
  } unless {
    killed[me] ->
      atomic {
        asleep[me] = false;
        if
        :: holder == me + 1 -> holder = 0
        :: else
        fi;
        pulled = 0; tell = false; forget()
      }
#ifndef WITHOUT_LEAVE
      close();
      tell_others();
#endif
      if
      :: killed[me] = false -> goto start
      :: true
      fi
  }
}

init {
  atomic {
    run worker(0);
    run worker(1);
#ifdef THREE
    run worker(2)
#endif
  }
}
