// SIGKILL at any step, KILLS times in a run or less often. A model defines WORKERS and writes each
// worker as { what it does } unless { killed[me] -> what its death leaves to the kernel }.
#ifndef KILLS
#define KILLS 1
#endif

bool killed[WORKERS];

#if KILLS > 0
active proctype kill_9() {
  byte kills, victim;
  do
  :: kills < KILLS ->
     atomic {
       select(victim : 0 .. WORKERS - 1);
       if
       :: !killed[victim] -> killed[victim] = true
       :: else
       fi;
       kills++;
       victim = 0
     }
  :: break
  od
}
#endif
