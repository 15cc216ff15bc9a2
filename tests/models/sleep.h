// Sleepers on a futex, woken by others or by the end of their slice (50 ms). Slices end at any
// time; with -DIDLE only when nothing else can happen, and then somebody has to get on before it
// comes to that again: nobody waits for ever. A worker is called `me`; it sets `got_on`.
bool asleep[WORKERS];
bool got_on = true;

inline sleep_while(condition) {
  atomic { asleep[me] = condition };
  if
  :: !asleep[me]
#if !defined(WITHOUT_SLICES) && !defined(IDLE)
  :: asleep[me] -> asleep[me] = false
#endif
  fi
}

inline wake_all() {
  d_step {
    asleep[0] = false;
    asleep[1] = false;
    asleep[WORKERS - 1] = false
  }
}

#if defined(IDLE) && !defined(WITHOUT_SLICES)
active proctype clock() {
  do
  :: timeout ->
     if
     :: asleep[0] || asleep[1] || asleep[WORKERS - 1] ->
        assert(got_on);
        got_on = false;
        wake_all()
     :: else -> break
     fi
  od
}
#endif
